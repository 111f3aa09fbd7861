// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The door to the records in `connections`: finding, creating, changing state, and stepping the meter under the lock.
//!
//! Invariant: fields of identity are written only before the record's state leaves `Ended`, by the one program that the socket's
//! own lock lets through; the meter is touched only while the record's lock is held.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::generated::{bpf_sk_storage_get, bpf_spin_lock, bpf_spin_unlock},
};
use nodemesh_abi::{Connection, ConnectionState, Held, Meter, connection::Counted};

use crate::{atomic, limit, maps, opaque::unknown};

/// The record of a socket, shared with programs on other CPUs: fields are read and written through the pointer, never
/// borrowed.
#[derive(Clone, Copy)]
pub struct Record(pub *mut Connection);

impl Record {
    /// The record of `sk`, if it has one.
    #[inline(always)]
    pub fn of(sk: *mut c_void) -> Option<Self> {
        Self::get(sk, 0)
    }

    /// The record of `sk`, created empty if there is none; `None` if there is no memory.
    #[inline(always)]
    pub fn create(sk: *mut c_void) -> Option<Self> {
        Self::get(sk, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
    }

    #[inline(always)]
    fn get(sk: *mut c_void, flags: u64) -> Option<Self> {
        let map = (&raw const maps::connections).cast_mut().cast();
        // SAFETY: the verifier checks that `sk` is a socket; the record lives as long as it, which outlives the hook.
        let record = unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), flags) }.cast::<Connection>();
        (!record.is_null()).then_some(Self(record))
    }

    /// Exchanges the state and returns the former one.
    #[inline(always)]
    pub fn exchange(self, next: ConnectionState) -> ConnectionState {
        // SAFETY: `state` is an aligned field of a live record, and all its writers use this exchange.
        ConnectionState::from_raw(unsafe { atomic::exchange(&raw mut (*self.0).state, next as u32) })
    }

    /// Goes from connecting to established; false if the record was in another state.
    #[inline(always)]
    pub fn establish(self) -> bool {
        let (from, to) = (
            ConnectionState::Connecting as u32,
            ConnectionState::Established as u32,
        );
        // SAFETY: as in `exchange`.
        unsafe { atomic::replace_if(&raw mut (*self.0).state, from, to) }
    }

    /// Whether the record is counted on a backend.
    #[inline(always)]
    pub fn is_live(self) -> bool {
        // SAFETY: a live record; volatile because other CPUs exchange it.
        unsafe { ptr::read_volatile(&raw const (*self.0).state) != ConnectionState::Ended as u32 }
    }

    /// Where it is counted beyond its backend; while it is live, what is done about it is decided under the lock, since
    /// [`Record::enlist`] may add to it.
    #[inline(always)]
    pub fn counted(self) -> u32 {
        // SAFETY: a live record; volatile because `enlist` writes it.
        unsafe { ptr::read_volatile(&raw const (*self.0).counted) }
    }

    /// Counts it in `held`, which `bit` of [`nodemesh_abi::connection::Counted`] stands for, if it is live and not counted there.
    ///
    /// # Safety
    /// `held` is a map value.
    #[inline(always)]
    pub unsafe fn enlist(self, bit: u32, held: *mut Held) {
        self.locked(
            #[inline(always)]
            |meter| {
                let counted = self.counted();
                if self.is_live() && counted & bit == 0 {
                    // SAFETY: a live record whose lock is held, and the caller's map value.
                    unsafe {
                        ptr::write_volatile(&raw mut (*self.0).counted, counted | bit);
                        atomic::add(&raw mut (*held).connections, 1);
                        atomic::add(&raw mut (*held).requests, u64::from(meter.load));
                    }
                }
            },
        );
    }

    /// Remembers that its socket is an end of a shortcut.
    #[inline(always)]
    pub fn enrol(self) {
        self.locked(
            #[inline(always)]
            |_| {
                // SAFETY: a live record whose lock is held.
                unsafe { ptr::write_volatile(&raw mut (*self.0).counted, self.counted() | Counted::SHORT) };
            },
        );
    }

    /// Gives back the connection that it is counted as beyond its backend.
    #[inline(always)]
    pub fn give_back(self) {
        let counted = self.locked(
            #[inline(always)]
            |_| self.counted(),
        );
        // SAFETY: a live record; the fields are written only while the socket is not connected.
        let (rules, identity) = unsafe { ((*self.0).rules, (*self.0).identity) };
        if counted != 0 {
            limit::connection_ended(counted, rules, identity);
        }
    }

    /// Adds to the requests that it is counted with beyond its backend.
    #[inline(always)]
    pub fn hold_requests(self, delta: i64) {
        // SAFETY: as in `give_back`; the record has ended, so where it is counted does not change.
        let (counted, rules, identity) = unsafe { (self.counted(), (*self.0).rules, (*self.0).identity) };
        if counted != 0 {
            limit::requests(counted, rules, identity, delta);
        }
    }

    /// 0, of which the verifier knows nothing.
    #[inline(always)]
    pub fn zero(self) -> u64 {
        // SAFETY: a live record.
        let number = unsafe { (&raw const (*self.0).cookie).read_volatile() };
        unknown(number).wrapping_sub(number)
    }

    /// Runs `section` while no other program touches the meter. It may call no helper.
    #[inline(always)]
    pub fn locked<T>(self, section: impl FnOnce(&mut Meter) -> T) -> T {
        // SAFETY: the lock is a field of the record, taken and released on every path as the verifier checks; it makes
        // the borrow of the meter exclusive among programs.
        unsafe {
            let lock = (&raw mut (*self.0).lock).cast();
            bpf_spin_lock(lock);
            let result = section(&mut (*self.0).meter);
            bpf_spin_unlock(lock);
            result
        }
    }
}
