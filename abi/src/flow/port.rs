// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Which source ports are tried for a flow whose source is translated. Whether one is free, the index decides.
//!
//! Invariant: the ports tried lie in the range, the wished one excepted, and a run of tries as long as the range tries each once.

use crate::Port;

/// How many ports are tried for one flow.
pub const TRIES: u32 = 24;

/// The port of try number `attempt`, from 0 on: the `wished` one first if it lies in `first..=last`, then ports from a drawn one on.
///
/// `draw` is random or a hash. A range that is empty is that of the wished port alone.
#[inline(always)]
pub const fn candidate(wished: Port, first: u16, last: u16, draw: u32, attempt: u32) -> Port {
    let port = wished.get();
    if last < first {
        return wished;
    }
    let is_inside = port >= first && port <= last;
    if is_inside && attempt == 0 {
        return wished;
    }
    let length = (last - first) as u32 + 1;
    // The range is shorter than 2^16, so that no sum wraps.
    let offset = (draw % length + attempt) % length;
    Port::new(first + offset as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wished_port_is_tried_first_if_it_may_be_used() {
        assert_eq!(candidate(Port::new(150), 100, 199, 7, 0).get(), 150);
        assert_eq!(candidate(Port::new(99), 100, 199, 7, 0).get(), 107);
    }

    #[test]
    fn as_many_tries_as_there_are_ports_try_each_of_them() {
        for draw in [0, 1, 55, u32::MAX] {
            let mut seen = [false; 100];
            for attempt in 0..100 {
                let port = candidate(Port::new(1), 100, 199, draw, attempt).get();
                seen[usize::from(port - 100)] = true;
            }
            assert!(seen.iter().all(|seen| *seen), "{draw}");
        }
    }

    #[test]
    fn the_whole_range_of_ports_does_not_overflow() {
        for attempt in 0..TRIES {
            candidate(Port::new(1), 0, u16::MAX, u32::MAX, attempt);
            assert_eq!(candidate(Port::new(9), 5, 5, u32::MAX, attempt).get(), 5);
            assert_eq!(candidate(Port::new(9), 6, 5, u32::MAX, attempt).get(), 9);
        }
    }
}
