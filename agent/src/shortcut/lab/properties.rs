// SPDX-License-Identifier: Apache-2.0
//! The properties, each with what follows if it does not hold. `docs/datapath.md` has the same table.
//!
//! Invariant: each is asked of sockets of its own, so one that fails tells nothing about another.

use super::{Lab, readers, routes};
use crate::shortcut::report::Effect::{self, Disables, Narrows, Tells};

/// One property: an error says what was seen instead.
pub(super) struct Property {
    pub(super) name: &'static str,
    pub(super) effect: Effect,
    pub(super) ask: fn(&mut Lab) -> Result<(), String>,
}

macro_rules! properties {
    ($($name:literal $effect:ident $ask:path;)+) => {
        &[$(Property { name: $name, effect: $effect, ask: $ask }),+]
    };
}

/// All of them.
pub(super) const ALL: &[Property] = properties! {
    "engages" Disables routes::engages;
    "fionread_tcp" Disables readers::fionread_tcp;
    "fionread_shortcut" Disables readers::fionread_shortcut;
    "epoll_level" Disables readers::epoll_level;
    "epoll_edge" Disables readers::epoll_edge;
    "before_accept" Disables routes::before_accept;
    "before_established" Disables routes::before_established;
    "half_close" Disables routes::half_close;
    "close_queued" Disables routes::close_queued;
    "reset_queued" Disables routes::reset_queued;
    "close_unread" Tells routes::close_unread;
    "peek" Disables readers::peek;
    "waitall" Disables readers::waitall;
    "waitall_later" Narrows readers::waitall_later;
    "waiting_read" Disables readers::waiting_read;
    "waiting_read_later" Narrows readers::waiting_read_later;
    "sendfile" Disables routes::sendfile;
    "splice_to" Disables routes::splice_to;
    "splice_from" Disables readers::splice_from;
    "splice_from_later" Narrows readers::splice_from_later;
    "transfer_4m" Disables routes::transfer_4m;
    "transfer_100m" Disables routes::transfer_100m;
    "sleeping_reader" Disables routes::sleeping_reader;
    "tls" Disables routes::tls;
    "leave_queued" Disables routes::leave_queued;
};
