// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The state machine against two ends of a connection that are simulated, and against packets without any order.

extern crate std;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const SYN: u8 = TcpFlags::SYN;
const ACK: u8 = TcpFlags::ACK;
const FIN: u8 = TcpFlags::FIN;
const RST: u8 = TcpFlags::RST;

/// The states that these packets lead through: (from the client, flags).
fn states(packets: &[(bool, u8)]) -> Vec<FlowState> {
    let mut life = Life::begin(packets[0].1, false);
    let mut states = std::vec![life.state()];
    for &(from_client, flags) in &packets[1..] {
        life = life.after_segment(from_client, flags);
        states.push(life.state());
    }
    states
}

#[test]
fn a_connection_lives_and_ends() {
    use FlowState::{Established, HalfClosed, LastAck, SynReceived, SynSent, TimeWait};
    for first_to_close in [true, false] {
        let packets = [
            (true, SYN),
            (false, SYN | ACK),
            (true, ACK),
            (false, ACK),
            (first_to_close, FIN | ACK),
            (!first_to_close, ACK),
            (!first_to_close, FIN | ACK),
            (first_to_close, ACK),
        ];
        assert_eq!(
            states(&packets),
            [
                SynSent,
                SynReceived,
                Established,
                Established,
                HalfClosed,
                HalfClosed,
                LastAck,
                TimeWait
            ]
        );
    }
}

#[test]
fn half_a_handshake_is_not_established() {
    let flood = [(true, SYN), (false, SYN | ACK), (false, SYN | ACK), (true, SYN)];
    assert!(states(&flood).iter().all(|state| state.may_be_evicted()));
    // Packets of one side alone.
    let flood = [(true, ACK), (true, ACK), (true, FIN | ACK), (true, ACK)];
    assert!(states(&flood).iter().all(|state| state.may_be_evicted()));
}

#[test]
fn a_flow_that_is_picked_up_is_established_by_an_answer() {
    assert_eq!(
        states(&[(true, ACK), (false, ACK)]),
        [FlowState::PickedUp, FlowState::Established]
    );
}

#[test]
fn a_reset_ends_from_either_side() {
    for from_client in [true, false] {
        assert_eq!(
            states(&[(true, SYN), (from_client, RST | ACK)])[1],
            FlowState::Reset
        );
    }
}

#[test]
fn a_flow_of_one_side_gets_as_far_as_that_side_shows() {
    let mut life = Life::begin(SYN, true);
    life = life.after_segment(true, ACK);
    assert_eq!(life.state(), FlowState::Established);
    assert_eq!(life.after_segment(true, FIN | ACK).state(), FlowState::HalfClosed);
}

#[test]
fn a_conversation_takes_two() {
    let life = Life::datagram(false);
    assert!(life.after_datagram(true).state().may_be_evicted());
    assert!(
        life.after_datagram(false)
            .after_datagram(true)
            .state()
            .is_established()
    );
}

/// An end of a connection that follows RFC 9293 as far as it matters: what it has sent, and what it knows of the other.
#[derive(Clone, Copy, Default)]
struct End {
    has_sent_syn: bool,
    has_seen_syn: bool,
    has_sent_fin: bool,
}

impl End {
    /// The next packet of this end; `wish` says what it would like.
    fn send(&mut self, is_client: bool, wish: u8) -> Option<u8> {
        if !self.has_sent_syn {
            if !is_client && !self.has_seen_syn {
                return None;
            }
            self.has_sent_syn = true;
            return Some(if is_client { SYN } else { SYN | ACK });
        }
        if !self.has_seen_syn {
            return Some(if is_client { SYN } else { SYN | ACK });
        }
        if wish == 0 && !self.has_sent_fin {
            self.has_sent_fin = true;
            return Some(FIN | ACK);
        }
        Some(ACK)
    }

    fn receive(&mut self, flags: u8) {
        self.has_seen_syn |= flags & SYN != 0;
    }
}

proptest! {
    #[test]
    fn real_ends_are_followed(turns in prop::collection::vec((any::<bool>(), 0_u8..6), 1..60)) {
        let mut ends = [End::default(), End::default()];
        let mut life: Option<Life> = None;
        let (mut handshake, mut fins) = (0, [false; 2]);
        for (from_client, wish) in turns {
            let index = usize::from(!from_client);
            let Some(flags) = ends[index].send(from_client, wish) else { continue };
            ends[1 - index].receive(flags);
            life = Some(match life {
                None => Life::begin(flags, false),
                Some(life) => life.after_segment(from_client, flags),
            });
            handshake = match (handshake, from_client, flags) {
                (0, true, SYN) => 1,
                (1, false, flags) if flags == SYN | ACK => 2,
                (2, true, flags) if flags & SYN == 0 => 3,
                (other, ..) => other,
            };
            fins[index] |= flags & FIN != 0;
            let state = life.unwrap().state();
            match handshake {
                1 => prop_assert_eq!(state, FlowState::SynSent),
                2 => prop_assert!(matches!(state, FlowState::SynReceived | FlowState::SynSent), "{:?}", state),
                _ => {
                    let expected_closing = fins[0] && fins[1];
                    prop_assert_eq!(matches!(state, FlowState::LastAck | FlowState::TimeWait), expected_closing);
                    prop_assert!(state.is_established() || expected_closing, "{:?}", state);
                }
            }
        }
    }

    #[test]
    fn no_packets_lead_out_of_the_states_there_are(first: u8, packets in prop::collection::vec(any::<(bool, u8)>(), 0..40), one_sided: bool) {
        let mut life = Life::begin(first, one_sided);
        for (from_client, flags) in packets {
            let before = life;
            life = life.after_segment(from_client, flags);
            prop_assert!(usize::from(life.raw_state()) < FlowState::COUNT);
            prop_assert_ne!(life.state(), FlowState::Free);
            if before.state() == FlowState::Reset {
                prop_assert_eq!(life.state(), FlowState::Reset);
            }
            if !one_sided && from_client && before.state().may_be_evicted() && before.state() != FlowState::SynReceived {
                prop_assert!(!life.state().is_established() || before.state() == FlowState::TimeWait, "one side alone");
            }
        }
    }

    #[test]
    fn every_number_of_a_state_stands_for_one(raw: u8) {
        let state = FlowState::from_raw(raw);
        prop_assert!(state as u8 == raw || state == FlowState::Free);
    }
}
