// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The life of a flow as its packets tell it: the state machine of TCP (RFC 9293, seen from between the two ends) and that of UDP.
//!
//! ```text
//! SYN ─► SynSent ─SYN,ACK─► SynReceived ─ACK─► Established ─FIN─► HalfClosed ─FIN of the other─► LastAck ─ACK─► TimeWait
//! any other packet ─► PickedUp ─reply─► Established            RST, either way: Reset
//! datagram ─► Datagram ─reply─► Conversation
//! ```
//!
//! Invariants: only what both sides took part in is established, so a flood of one side's packets fills the table with flows that may be
//! evicted; a state changes what is kept, never what is translated: a forged RST cuts nothing.

/// State of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FlowState {
    /// The row is not in use.
    Free = 0,
    /// The client's SYN was seen.
    SynSent = 1,
    /// The backend has answered it.
    SynReceived = 2,
    /// The first packet that was seen was none of the handshake, and the backend has not answered yet.
    PickedUp = 3,
    /// Both sides have taken part.
    Established = 4,
    /// One side has sent a FIN.
    HalfClosed = 5,
    /// Both have.
    LastAck = 6,
    /// And the last one is acknowledged.
    TimeWait = 7,
    /// One side has sent a RST.
    Reset = 8,
    /// UDP: nobody has answered yet.
    Datagram = 9,
    /// UDP: both sides have sent.
    Conversation = 10,
}

/// Flags of a TCP header (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags;

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 1 << 1;
    /// Reset the connection.
    pub const RST: u8 = 1 << 2;
    /// The acknowledgement counts.
    pub const ACK: u8 = 1 << 4;

    /// Whether no TCP sends such a combination: a SYN that ends too, or nothing at all.
    #[inline(always)]
    pub const fn are_absurd(flags: u8) -> bool {
        let ends = flags & (Self::FIN | Self::RST);
        flags & Self::SYN != 0 && ends != 0 || flags & (Self::SYN | Self::RST | Self::ACK | Self::FIN) == 0
    }
}

/// Bits of the byte beside the state: who has sent a FIN.
const CLIENT_FIN: u8 = 1;
const BACKEND_FIN: u8 = 1 << 1;
/// Replies are not seen: the backend answers the client itself.
pub const ONE_SIDED: u8 = 1 << 2;

/// State, and beside it what it does not tell: one word of a row, changed by compare and exchange.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Life(pub u32);

impl FlowState {
    /// Number of states.
    pub const COUNT: usize = 11;
    /// All of them, by number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Free,
        Self::SynSent,
        Self::SynReceived,
        Self::PickedUp,
        Self::Established,
        Self::HalfClosed,
        Self::LastAck,
        Self::TimeWait,
        Self::Reset,
        Self::Datagram,
        Self::Conversation,
    ];

    /// From the number in a row; an unknown one is free.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            1 => Self::SynSent,
            2 => Self::SynReceived,
            3 => Self::PickedUp,
            4 => Self::Established,
            5 => Self::HalfClosed,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Reset,
            9 => Self::Datagram,
            10 => Self::Conversation,
            _ => Self::Free,
        }
    }

    /// The word for people and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::PickedUp => "picked_up",
            Self::Established => "established",
            Self::HalfClosed => "half_closed",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Reset => "reset",
            Self::Datagram => "datagram",
            Self::Conversation => "conversation",
        }
    }

    /// Whether both sides have taken part and neither all of it is over: such a flow is never evicted.
    #[inline(always)]
    pub const fn is_established(self) -> bool {
        matches!(
            self,
            Self::Established | Self::HalfClosed | Self::LastAck | Self::Conversation
        )
    }

    /// Whether a flow in it may make room for a new one.
    #[inline(always)]
    pub const fn may_be_evicted(self) -> bool {
        !self.is_established() && !matches!(self, Self::Free)
    }

    /// Whether it is over: a SYN begins a new flow.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::LastAck | Self::TimeWait | Self::Reset)
    }

    /// Whether nothing more is to come: its backend is free of it, and the row only rests.
    #[inline(always)]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::TimeWait | Self::Reset)
    }

    /// Whether it came about at all: what tells a flow that was closed from one that failed.
    #[inline(always)]
    pub const fn was_established(self) -> bool {
        !matches!(
            self,
            Self::Free | Self::SynSent | Self::SynReceived | Self::PickedUp
        )
    }
}

impl Life {
    /// Of a flow whose first packet has these TCP `flags`; for UDP, [`Life::datagram`].
    #[inline(always)]
    pub const fn begin(flags: u8, one_sided: bool) -> Self {
        let state = if flags & (TcpFlags::SYN | TcpFlags::ACK) == TcpFlags::SYN {
            FlowState::SynSent
        } else {
            FlowState::PickedUp
        };
        Self::new(state, if one_sided { ONE_SIDED } else { 0 })
    }

    /// Of a flow that begins with a datagram.
    #[inline(always)]
    pub const fn datagram(one_sided: bool) -> Self {
        Self::new(FlowState::Datagram, if one_sided { ONE_SIDED } else { 0 })
    }

    #[inline(always)]
    const fn new(state: FlowState, bits: u8) -> Self {
        Self(state as u32 | (bits as u32) << 8)
    }

    /// The state.
    #[inline(always)]
    pub const fn state(self) -> FlowState {
        FlowState::from_raw(self.0 as u8)
    }

    /// Number of the state, below [`FlowState::COUNT`] for every word that this module made.
    #[inline(always)]
    pub const fn raw_state(self) -> u8 {
        self.0 as u8
    }

    const fn bits(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// After a packet of TCP with `flags`, from the client or from the backend.
    #[inline(always)]
    #[must_use]
    pub const fn after_segment(self, from_client: bool, flags: u8) -> Self {
        let state = self.state();
        if flags & TcpFlags::RST != 0 {
            return Self::new(FlowState::Reset, self.bits());
        }
        if flags & TcpFlags::SYN != 0 {
            return match state {
                FlowState::SynSent if !from_client && flags & TcpFlags::ACK != 0 => {
                    Self::new(FlowState::SynReceived, self.bits())
                }
                // Sent again.
                _ => self,
            };
        }
        let one_sided = self.bits() & ONE_SIDED != 0;
        let reached = match state {
            FlowState::SynReceived if from_client => FlowState::Established,
            // Its SYN,ACK took another way, or the client's side is all that is seen.
            FlowState::SynSent if one_sided || !from_client => FlowState::Established,
            FlowState::PickedUp if !from_client => FlowState::Established,
            FlowState::PickedUp if one_sided && flags & TcpFlags::FIN != 0 => FlowState::HalfClosed,
            other => other,
        };
        Self::new(reached, self.bits()).after_fin(from_client, flags, one_sided)
    }

    #[inline(always)]
    const fn after_fin(self, from_client: bool, flags: u8, one_sided: bool) -> Self {
        let state = self.state();
        let is_fin = flags & TcpFlags::FIN != 0;
        let sender = if from_client { CLIENT_FIN } else { BACKEND_FIN };
        let bits = if is_fin { self.bits() | sender } else { self.bits() };
        let both = bits & CLIENT_FIN != 0 && bits & BACKEND_FIN != 0;
        let next = match state {
            FlowState::Established | FlowState::HalfClosed | FlowState::SynReceived | FlowState::PickedUp
                if both =>
            {
                FlowState::LastAck
            }
            FlowState::Established if is_fin => FlowState::HalfClosed,
            // What the client sends after its own FIN acknowledges the backend's data, or its FIN.
            FlowState::LastAck if !is_fin => FlowState::TimeWait,
            other => other,
        };
        let _ = one_sided;
        Self::new(next, bits)
    }

    /// After a datagram.
    #[inline(always)]
    #[must_use]
    pub const fn after_datagram(self, from_client: bool) -> Self {
        match self.state() {
            FlowState::Datagram if !from_client => Self::new(FlowState::Conversation, self.bits()),
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests;
