// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Values that the compiler shall know nothing of: it removes comparisons that it can prove and the verifier cannot, and it carries
//! values past the memory that was to hide them from the verifier. And values that the verifier shall forget: it follows each combination
//! of constants on the stack on its own, until a program is too large for it. Invariant: nothing here changes a value.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;

/// `value`, of which the compiler knows nothing any more: so it keeps the comparisons that the verifier needs.
#[inline(always)]
pub fn unknown(mut value: u64) -> u64 {
    // SAFETY: moves a register to itself.
    unsafe { asm!("{0} = {0}", inout(reg) value, options(nomem, nostack)) };
    value
}

/// Whether `value` is 0, asked in the one way from which also verifiers before Linux 6.8 learn that it is 1 at least where it is not: they
/// take nothing from a comparison with 0 for being equal, which is what the compiler makes of any other.
#[inline(always)]
pub fn is_zero(value: u64) -> bool {
    value < unknown(1)
}

/// 0, of which neither the compiler nor the verifier knows anything: what it is added to is unknown to both.
#[inline(always)]
pub fn zero() -> u64 {
    // SAFETY: the helper takes no pointer.
    let number = u64::from(unsafe { bpf_get_prandom_u32() });
    unknown(number).wrapping_sub(number)
}

/// `pointer`, behind which the compiler knows nothing any more: what was stored is stored, what is read is read.
#[inline(always)]
pub fn settled<T>(mut pointer: *mut T) -> *mut T {
    // SAFETY: moves a register to itself; that it may touch memory is the point.
    unsafe { asm!("{0} = {0}", inout(reg) pointer, options(nostack)) };
    pointer
}

/// Makes the verifier forget what it knows of `value`, which lies on the stack: paths that differ in nothing else become one.
///
/// Stores `byte` at `offset`, where it is already. The place is `offset + zero`, and `zero`, which is 0 in truth, is a number from a
/// map: for the verifier the store may hit any part of `value`.
///
/// # Safety
/// The byte at `offset` of `value` is `byte`, and `zero` is 0.
#[inline(always)]
pub unsafe fn forget<T>(value: &mut T, offset: usize, byte: u8, zero: u64) {
    let place = unknown(zero.wrapping_add(offset as u64)) as usize;
    if place < size_of::<T>() {
        // SAFETY: inside `value`, and the caller's.
        unsafe { (&raw mut *value).cast::<u8>().add(place).write(byte) };
    }
}
