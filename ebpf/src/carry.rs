// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Copies the records of open connections from the map of another version of the ABI into this one's. Run by the agent as an iterator
//! over the other map, before and after the programs of the other version were replaced.
//!
//! Invariant: of two records of a socket, the one that saw the later byte stays. Both versions agree on the first `CARRIED_BYTES`,
//! which the agent knows before it loads this program.

use core::{ffi::c_void, ptr};

use nodemesh_abi::{Connection, ConnectionState};

use crate::{listing::IterContext, maps, record::Record};

/// The lock and the state, which are not copied over a record that is in use.
const HEAD_WORDS: usize = 1;
/// Words of a whole record.
const WORDS: usize = size_of::<Connection>() / 8;
const _: () = assert!(core::mem::offset_of!(Connection, service_addr) == HEAD_WORDS * 8);

/// Gives the iterator's current socket the record that it has in the other version.
#[inline(always)]
pub fn record(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<IterContext>();
    // SAFETY: the kernel passes this context; the verifier checks each access and demands the null checks.
    unsafe {
        let former = ptr::read_volatile(&raw const (*ctx).value).cast_const();
        let sk = ptr::read_volatile(&raw const (*ctx).sk);
        if former.is_null() || sk.is_null() {
            return 0;
        }
        let state = ConnectionState::from_raw(ptr::read_volatile(&raw const (*former).state));
        if state == ConnectionState::Ended {
            return 0;
        }
        let (record, is_new) = match Record::of(sk) {
            Some(record) => (record, false),
            None => match Record::create(sk) {
                Some(record) => (record, true),
                None => return 0,
            },
        };
        if is_new || is_later(former, record) {
            copy(former, record);
        }
        settle(record, state, is_new);
    }
    0
}

/// Whether the former record saw more than this one.
///
/// # Safety
/// `former` is the iterator's current value.
#[inline(always)]
unsafe fn is_later(former: *const Connection, record: Record) -> bool {
    // SAFETY: the caller's, and a live record; volatile because programs on other CPUs write both.
    let [former, own] = unsafe {
        [
            ptr::read_volatile(&raw const (*former).meter.last_ns),
            ptr::read_volatile(&raw const (*record.0).meter.last_ns),
        ]
    };
    former > own
}

/// Copies what both versions know, but for lock and state.
///
/// # Safety
/// `former` is the iterator's current value, of at least `CARRIED_BYTES`.
#[inline(always)]
unsafe fn copy(former: *const Connection, record: Record) {
    let words = maps::CARRIED_BYTES.load() as usize / 8;
    let (from, to) = (former.cast::<u64>(), record.0.cast::<u64>());
    record.locked(|_| {
        for word in HEAD_WORDS..WORDS {
            if word >= words {
                break;
            }
            // SAFETY: the caller's; both records are longer than `word`, and the lock keeps programs from this one.
            unsafe { ptr::write_volatile(to.add(word), ptr::read_volatile(from.add(word))) };
        }
    });
}

/// Lets the record follow the state of the former one, and never back.
#[inline(always)]
fn settle(record: Record, state: ConnectionState, is_new: bool) {
    if is_new {
        record.exchange(state);
    } else if state == ConnectionState::Established {
        record.establish();
    }
}
