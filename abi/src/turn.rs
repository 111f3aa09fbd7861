// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Which of two programs at one tracepoint counts an event while an upgrade puts the one in the place of the other.
//!
//! The kernel calls both for each event, the elder first, and an epoch that is written between the two calls would let both count. So the
//! agent announces the switch; from then on the elder leaves a note on its CPU of each event that it counts, and the younger one takes it
//! away. Once it is switched, the elder takes it away, and the younger one that finds a note all the same knows that the event is counted.
//! Invariant: while both are attached, a note of the elder does not outlive its event.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::abi_struct;

/// Bit of [`crate::Settings::epoch`]: another program is about to be put in force.
pub const ANNOUNCED: u32 = 1 << 31;
/// Bit of [`crate::Settings::epoch`]: this one was put in force just now.
pub const SWITCHED: u32 = 1 << 30;
/// Both: a switch is under way.
pub const SWITCHING: u32 = ANNOUNCED | SWITCHED;

/// The tracepoints whose events are counted once; an index into `turns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counting {
    /// `sock_send_length`.
    Sent = 0,
    /// `sock_recv_length`.
    Received = 1,
    /// `tcp_retransmit_skb`.
    SentAgain = 2,
}

impl Counting {
    /// How many there are.
    pub const COUNT: usize = 3;
}

/// Value of `turns`, per CPU: who counted the latest event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Turn {
    /// Cookie of its socket; 0 for none.
    pub cookie: u64,
    /// Epoch of the program.
    pub epoch: u32,
    /// Zero.
    pub pad: u32,
}
abi_struct!(Turn: 16 { cookie: 0, epoch: 8, pad: 12 });

/// What a program of epoch `own` does about an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether it counts the event.
    pub counts: bool,
    /// The note that it leaves.
    pub note: Turn,
}

impl Turn {
    /// Decides about an event of the socket with this cookie, while `epoch` is what the settings say, one of [`SWITCHING`] included, and `self` is the note on this CPU.
    #[inline(always)]
    pub const fn take(self, cookie: u64, own: u32, epoch: u32) -> Taken {
        let is_in_force = epoch & !SWITCHING == own;
        let is_counted = epoch & SWITCHED != 0 && self.cookie == cookie && self.epoch != own;
        let counts = is_in_force && !is_counted;
        let note = if counts {
            Self {
                cookie,
                epoch: own,
                pad: 0,
            }
        } else {
            Self {
                cookie: 0,
                epoch: 0,
                pad: 0,
            }
        };
        Taken { counts, note }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: u32 = 7;
    const NEW: u32 = 8;

    /// How often an event is counted, if the settings say so to the elder program and to the younger one.
    fn counted(note: &mut Turn, cookie: u64, said: [u32; 2], attached: &[u32]) -> usize {
        let mut times = 0;
        for &own in attached {
            let said = said[usize::from(own == NEW)];
            let phase = if said == OLD { ANNOUNCED } else { SWITCHED };
            let taken = note.take(cookie, own, said | phase);
            *note = taken.note;
            times += usize::from(taken.counts);
        }
        times
    }

    #[test]
    fn an_event_is_counted_once_wherever_the_switch_falls() {
        // The same socket all the time, and the switch before, within and after each of its events; the first note may be one of an earlier
        // switch.
        for left in [0, OLD - 1, OLD, NEW] {
            for switch in 0..8 {
                let mut note = Turn {
                    cookie: 1,
                    epoch: left,
                    pad: 0,
                };
                for step in 0..4 {
                    let said = [0, 1].map(|program| if 2 * step + program < switch { OLD } else { NEW });
                    assert_eq!(
                        counted(&mut note, 1, said, &[OLD, NEW]),
                        1,
                        "{left} {switch} {step}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_program_that_is_alone_counts_all() {
        let mut note = Turn::default();
        for _ in 0..3 {
            assert_eq!(counted(&mut note, 1, [OLD, OLD], &[OLD]), 1);
        }
        // The other one is attached, and put in force, and the first one ends.
        assert_eq!(counted(&mut note, 1, [OLD, OLD], &[OLD, NEW]), 1);
        for _ in 0..3 {
            assert_eq!(counted(&mut note, 1, [NEW, NEW], &[NEW]), 1);
        }
    }
}
