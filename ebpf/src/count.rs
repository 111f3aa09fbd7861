// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Counts what the meter found: effects to rows of `traffic`, to the load of backends, and to the access log.
//!
//! Invariant: a row that is not there is not counted, and nothing here changes what traffic does.

use nodemesh_abi::{
    BackendState, Effects, Meter, Outcome, Traffic, Vantage,
    connection::Untold,
    effects::Finished,
    meter::Held,
    traffic::{self, GAP_BOUNDS_NS, Histogram, bucket},
};

use crate::{
    access,
    atomic::{add, add_at},
    health::{self, News},
    kernel_sock::KernelSock,
    limit, maps,
    opaque::settled,
    record::Record,
    stats,
};

/// A map begins with zeroes, and [`Effects::clear`] keeps what nothing gives a meaning to: this does not compile if they are no value.
const _: Effects = {
    // SAFETY: the compiler checks it.
    unsafe { core::mem::zeroed() }
};

/// What is left to do of an event when the lock is free, since it takes helpers.
#[derive(Clone, Copy)]
struct After {
    /// Change of the load.
    load: i32,
    /// Where else that is counted, see [`Record::counted`].
    counted: u32,
    /// Bits of [`News`].
    news: u32,
}

impl After {
    #[inline(always)]
    fn of(effects: &Effects, counted: u32) -> Self {
        Self {
            load: effects.load,
            counted,
            news: (u32::from(effects.first_byte_ns != 0) * News::ANSWERED)
                | (u32::from(effects.first_token_ns != 0) * News::WARMED),
        }
    }
}

/// What the effects of one event are about.
#[derive(Clone, Copy)]
pub struct Subject {
    record: Record,
    row: *mut Traffic,
}

impl Subject {
    /// The row that the connection of `record` counts in.
    #[inline(always)]
    pub fn of(record: Record) -> Option<Self> {
        // SAFETY: a live record; the field is written before the record is.
        let row = maps::traffic.get_ptr_mut(unsafe { (*record.0).traffic })?;
        Some(Self { record, row })
    }

    /// Counts a connection that is metered from now on.
    #[inline(always)]
    pub fn opened(self) {
        // SAFETY: a map value.
        unsafe {
            add(&raw mut (*self.row).connections, 1);
            add(&raw mut (*self.row).connections_opened, 1);
        }
    }

    /// Counts the end of such a connection.
    #[inline(always)]
    pub fn closed(self) {
        // SAFETY: a map value.
        unsafe { add(&raw mut (*self.row).connections, u64::MAX) };
    }

    /// Counts a segment that was sent again.
    #[inline(always)]
    pub fn retransmit(self) {
        // SAFETY: a map value.
        unsafe { add(&raw mut (*self.row).retransmits, 1) };
    }

    /// Steps the meter by `section`, counts what follows from it, and tells whether a request finished; `sk` is the socket, `stream` the
    /// HTTP/2 stream or 0. `section` may call no helper: the lock is held, with interrupts off, so that the CPU's effects are
    /// its own.
    #[inline(always)]
    pub fn step(self, sk: KernelSock, stream: u32, section: impl FnOnce(&mut Meter, &mut Effects)) -> bool {
        let Some(effects) = maps::effects.get_ptr_mut(0) else {
            return false;
        };
        let effects = effects.cast::<Effects>();
        let load = self.load_of_backend();
        let (finished, after) = self.record.locked(
            #[inline(always)]
            |meter| {
                // SAFETY: a value, since all zero is one too, and nobody else's as the comment above says.
                unsafe {
                    (*effects).clear();
                    section(meter, &mut *effects);
                    let effects = &*settled(effects);
                    self.count(effects, load);
                    self.tell(effects, meter);
                    (effects.finished, After::of(effects, self.record.counted()))
                }
            },
        );
        if load.is_some() {
            self.after(after, finished.as_ref());
        }
        if let Some(finished) = &finished {
            self.finished(finished, sk, stream);
        }
        finished.is_some()
    }

    /// What a client's connection tells of its backend and its service.
    #[inline(always)]
    fn after(self, after: After, finished: Option<&Finished>) {
        let mut news = after.news;
        if let Some(finished) = finished {
            news |= News::finished(finished.outcome);
        }
        let connection = self.record.0;
        // SAFETY: a live record; the fields are written only while the socket is not connected.
        unsafe {
            if after.load != 0 && after.counted != 0 {
                held_elsewhere(
                    after.counted,
                    (*connection).rules,
                    (*connection).identity,
                    after.load,
                );
            }
            if news != 0 {
                health::learn((*connection).backend, news);
            }
        }
    }

    /// Counts all but what finished.
    #[inline(always)]
    fn count(self, effects: &Effects, load: Option<*mut BackendState>) {
        let row = self.row;
        // SAFETY: map values in all of this function.
        unsafe {
            if effects.in_flight != 0 {
                add(
                    &raw mut (*row).in_flight,
                    i64::from(effects.in_flight).cast_unsigned(),
                );
            }
            if effects.request_bytes != 0 {
                add(
                    &raw mut (*row).request_bytes_in_flight,
                    effects.request_bytes.cast_unsigned(),
                );
            }
            if let Some(backend) = load
                && effects.load != 0
            {
                add(&raw mut (*backend).load, i64::from(effects.load).cast_unsigned());
            }
            if effects.ambiguous {
                add(&raw mut (*row).ambiguous, 1);
            }
            if effects.dropped != 0 {
                add_at(
                    &raw mut (*row).requests,
                    effects.dropped_as as usize,
                    u64::from(effects.dropped),
                );
            }
        }
        self.latencies(effects);
    }

    /// Gathers bytes, chunks and the sum of gaps in the record, and counts them when it is time to.
    #[inline(always)]
    fn tell(self, effects: &Effects, meter: &Meter) {
        let row = self.row;
        // SAFETY: a live record whose lock is held, and a map value.
        unsafe {
            let untold = &mut (*self.record.0).untold;
            untold.gather(effects);
            if !untold.is_due(effects, meter.last_ns) && !meter.has_ended() {
                return;
            }
            let told = *untold;
            *untold = Untold {
                told: (meter.last_ns >> 20) as u32,
                ..Untold::default()
            };
            add(&raw mut (*row).bytes_up, u64::from(told.bytes_up));
            add(&raw mut (*row).bytes_down, u64::from(told.bytes_down));
            if told.chunks != 0 {
                add(&raw mut (*row).chunks, u64::from(told.chunks));
            }
            if told.gaps_ns != 0 {
                add(
                    (&raw mut (*row).gap).cast::<u64>().add(GAP_BOUNDS_NS.len() + 1),
                    told.gaps_ns,
                );
            }
        }
    }

    /// Takes back what a socket held whose end is not told apart.
    #[inline(always)]
    pub fn discard(self, held: Held) {
        let row = self.row;
        // SAFETY: a map value.
        unsafe {
            add(&raw mut (*row).in_flight, 0u64.wrapping_sub(u64::from(held.open)));
            add(
                &raw mut (*row).request_bytes_in_flight,
                0u64.wrapping_sub(held.request_bytes),
            );
            add(
                &raw mut (*row).requests[Outcome::Canceled as usize],
                u64::from(held.open),
            );
        }
        if let Some(backend) = self.load_of_backend() {
            // SAFETY: a map value.
            unsafe { add(&raw mut (*backend).load, 0u64.wrapping_sub(u64::from(held.load))) };
            self.record.hold_requests(-i64::from(held.load));
        }
    }

    /// The backend whose load is that of this node's clients; `None` at the server's vantage.
    #[inline(always)]
    fn load_of_backend(self) -> Option<*mut BackendState> {
        // SAFETY: a live record.
        let (vantage, backend) = unsafe { ((*self.record.0).meter.vantage, (*self.record.0).backend) };
        if vantage == Vantage::Client as u8 {
            stats::backend(backend)
        } else {
            None
        }
    }

    #[inline(always)]
    fn latencies(self, effects: &Effects) {
        // SAFETY: map values.
        unsafe {
            if effects.first_byte_ns != 0 {
                observe(
                    &raw mut (*self.row).first_byte,
                    &traffic::FIRST_BOUNDS_NS,
                    effects.first_byte_ns,
                );
            }
            if effects.first_token_ns != 0 {
                observe(
                    &raw mut (*self.row).first_token,
                    &traffic::FIRST_BOUNDS_NS,
                    effects.first_token_ns,
                );
            }
            let [a, b, c] = effects.gaps_ns;
            if effects.gap_count > 0 {
                self.gap(a);
            }
            if effects.gap_count > 1 {
                self.gap(b);
            }
            if effects.gap_count > 2 {
                self.gap(c);
            }
        }
    }

    /// Counts a gap in its bucket; the sum waits in the record.
    #[inline(always)]
    unsafe fn gap(self, ns: u64) {
        // SAFETY: a map value; `bucket` is at most the number of bounds.
        unsafe {
            let slots = (&raw mut (*self.row).gap).cast::<u64>();
            add(slots.add(bucket(&GAP_BOUNDS_NS, ns)), 1);
        }
    }

    #[inline(always)]
    fn finished(self, finished: &Finished, sk: KernelSock, stream: u32) {
        let row = self.row;
        let rtt_us = sk.rtt_us();
        // SAFETY: map values.
        unsafe {
            add_at(&raw mut (*row).requests, finished.outcome as usize, 1);
            if let Some(cancel) = finished.cancel {
                add_at(&raw mut (*row).cancels, cancel as usize, 1);
            }
            if finished.timed {
                let duration = finished.end_ns.saturating_sub(finished.start_ns);
                observe(&raw mut (*row).duration, &traffic::DURATION_BOUNDS_NS, duration);
            }
            observe(
                &raw mut (*row).request_size,
                &traffic::SIZE_BOUNDS,
                finished.request_bytes,
            );
            observe(
                &raw mut (*row).response_size,
                &traffic::SIZE_BOUNDS,
                finished.response_bytes,
            );
            if rtt_us != 0 {
                observe(
                    &raw mut (*row).rtt,
                    &traffic::RTT_BOUNDS_NS,
                    u64::from(rtt_us) * 1_000,
                );
            }
        }
        access::request(self.record, finished, sk, rtt_us, stream);
    }
}

/// [`limit::requests`] as a global function of numbers, which the verifier walks through once, not once per call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn held_elsewhere(counted: u32, rules: u32, identity: u32, load: i32) -> u32 {
    limit::requests(counted, rules, identity, i64::from(load));
    0
}

/// Adds `value` to a histogram in a map.
///
/// # Safety
/// `histogram` points into a map value, and has the slots of `bounds`.
#[inline(always)]
unsafe fn observe<const BOUNDS: usize, const SLOTS: usize>(
    histogram: *mut Histogram<SLOTS>,
    bounds: &[u64; BOUNDS],
    value: u64,
) {
    const { assert!(SLOTS == BOUNDS + 2) };
    let slots = histogram.cast::<u64>();
    // SAFETY: `bucket` is at most `BOUNDS`; the slot after it is the sum.
    unsafe {
        add(slots.add(bucket(bounds, value)), 1);
        add(slots.add(BOUNDS + 1), value);
    }
}
