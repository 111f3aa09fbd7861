// SPDX-License-Identifier: Apache-2.0
//! Which requests are given up, how and when. Drawn from the number of the request and the seed alone, so that a run can be
//! repeated.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::options::Options;

/// How a client goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It closes in order: TLS closure alert, FIN, and nothing is read any more.
    Fin,
    /// It closes with a RST.
    Rst,
    /// It shuts down its side and reads on.
    HalfClose,
    /// It dies: the kernel closes its socket, with a RST if something is unread there and else with a FIN.
    Kill,
}

/// `--cancel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Cancellation {
    /// Close with a FIN.
    Fin,
    /// Close with a RST.
    Rst,
    /// Shut down the sending side and read on.
    HalfClose,
    /// Close as the kernel does for a process that dies.
    Kill,
    /// Any of these.
    Mix,
}

/// `--cancel-phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CancelPhase {
    /// Before the first token.
    Prefill,
    /// After some tokens.
    Decode,
    /// Either.
    Any,
}

/// What is in store for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) how: How,
    pub(super) when: When,
}

/// The moment of a cancellation; one that does not come cancels nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// This long after the request was written, if no token has come by then.
    Prefill(Duration),
    /// With the arrival of this many emissions.
    Decode(usize),
}

impl Fate {
    /// Of the request `number`; `None` to let it be.
    pub(super) fn of(number: u64, options: &Options) -> Option<Self> {
        let mode = options.cancel?;
        let mut random = options.random(number);
        if random.f64() >= options.cancel_share {
            return None;
        }
        let how = match mode {
            Cancellation::Fin => How::Fin,
            Cancellation::Rst => How::Rst,
            Cancellation::HalfClose => How::HalfClose,
            Cancellation::Kill => How::Kill,
            Cancellation::Mix => *random
                .choice(&[How::Fin, How::Rst, How::HalfClose, How::Kill])
                .expect("there are four"),
        };
        let early = match options.cancel_phase {
            CancelPhase::Prefill => true,
            CancelPhase::Decode => false,
            CancelPhase::Any => random.bool(),
        };
        let when = if early {
            When::Prefill(options.cancel_after.draw(&mut random))
        } else {
            When::Decode(random.usize(1..=options.cancel_tokens.get()))
        };
        Some(Self { how, when })
    }
}
