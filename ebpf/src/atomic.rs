// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The atomic instructions of BPF (Linux 5.12). `core::sync::atomic` has no read-modify-write operations on this target,
//! so these are written out; see the kernel's `Documentation/bpf/standardization/instruction-set.rst`.
//!
//! Every pointer must be to an aligned value in a map or in socket storage that all writers change by these functions.

use core::arch::asm;

use crate::opaque::unknown;

/// Adds `delta` (two's complement) to `*counter`.
///
/// # Safety
/// As the module says.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, delta: u64) {
    // SAFETY: the caller's pointer is valid and aligned; the verifier checks it again.
    unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) counter, in(reg) delta) };
}

/// Sets `bits` of `*place`.
///
/// # Safety
/// As the module says.
#[inline(always)]
pub unsafe fn or(place: *mut u32, bits: u32) {
    // SAFETY: as in `add`.
    unsafe { asm!("lock *(u32 *)({} + 0) |= {}", in(reg) place, in(wreg) bits) };
}

/// Sets `bits` of `*place` and returns its former value: a full barrier.
///
/// # Safety
/// As the module says.
#[inline(always)]
pub unsafe fn fetch_or(place: *mut u32, bits: u32) -> u32 {
    let mut value = bits;
    // SAFETY: as in `add`.
    unsafe { asm!("{1} = atomic_fetch_or((u32 *)({0} + 0), {1})", in(reg) place, inout(wreg) value) };
    value
}

/// Keeps of `*place` what is in `bits`, and returns its former value: a full barrier.
///
/// # Safety
/// As the module says.
#[inline(always)]
pub unsafe fn fetch_and(place: *mut u32, bits: u32) -> u32 {
    let mut value = bits;
    // SAFETY: as in `add`.
    unsafe { asm!("{1} = atomic_fetch_and((u32 *)({0} + 0), {1})", in(reg) place, inout(wreg) value) };
    value
}

/// Adds `delta` (two's complement) to `*counter`.
///
/// # Safety
/// As the module says.
#[inline(always)]
pub unsafe fn add_u32(counter: *mut u32, delta: u32) {
    // SAFETY: as in `add`.
    unsafe { asm!("lock *(u32 *)({} + 0) += {}", in(reg) counter, in(wreg) delta) };
}

/// Adds `delta` to the counter at `index`; nothing if there is none.
///
/// # Safety
/// As the module says, for all of `counters`.
#[inline(always)]
pub unsafe fn add_at<const LEN: usize>(counters: *mut [u64; LEN], index: usize, delta: u64) {
    let index = unknown(index as u64) as usize;
    if index < LEN {
        // SAFETY: inside the array.
        unsafe { add(counters.cast::<u64>().add(index), delta) };
    }
}

/// Adds `delta` to `*counter` and returns its former value.
///
/// # Safety
/// As the module says.
#[inline(always)]
pub unsafe fn fetch_add(counter: *mut u64, delta: u64) -> u64 {
    let mut value = delta;
    // SAFETY: as in `add`.
    unsafe { asm!("{1} = atomic_fetch_add((u64 *)({0} + 0), {1})", in(reg) counter, inout(reg) value) };
    value
}

/// Stores `next` into `*place` and returns its former value.
///
/// # Safety
/// As the module says.
#[inline(always)]
pub unsafe fn exchange(place: *mut u32, next: u32) -> u32 {
    let mut value = next;
    // SAFETY: as in `add`.
    unsafe { asm!("{1} = xchg32_32({0} + 0, {1})", in(reg) place, inout(wreg) value) };
    value
}

/// Stores `next` into `*place` and returns its former value.
///
/// # Safety
/// As the module says.
#[inline(always)]
pub unsafe fn exchange_u64(place: *mut u64, next: u64) -> u64 {
    let mut value = next;
    // SAFETY: as in `add`.
    unsafe { asm!("{1} = xchg_64({0} + 0, {1})", in(reg) place, inout(reg) value) };
    value
}

/// Stores `next` into `*place` if it holds `expected`; returns whether it did.
///
/// # Safety
/// As the module says.
#[inline(always)]
pub unsafe fn replace_if_u64(place: *mut u64, expected: u64, next: u64) -> bool {
    let mut found = expected;
    // SAFETY: as in `add`. The instruction compares with and returns in r0.
    unsafe { asm!("r0 = cmpxchg_64({0} + 0, r0, {1})", in(reg) place, in(reg) next, inout("r0") found) };
    found == expected
}

/// Stores `next` into `*place` if it holds `expected`; returns whether it did.
///
/// # Safety
/// As the module says.
#[inline(always)]
pub unsafe fn replace_if(place: *mut u32, expected: u32, next: u32) -> bool {
    let mut found = expected;
    // SAFETY: as in `add`. The instruction compares with and returns in w0.
    unsafe { asm!("w0 = cmpxchg32_32({0} + 0, w0, {1})", in(reg) place, in(wreg) next, inout("w0") found) };
    found == expected
}
