// SPDX-License-Identifier: Apache-2.0
//! What the machine itself adds to a time: how long what one application wrote took to be read by the other one, by their own clocks.
//!
//! It is the wait for a processor, mostly, and comes in where the kernel sees bytes at another moment than the application that logs
//! them. Invariant: it knows nothing of the meter, so no error of the meter can hide in it.

use std::time::Duration;

use nodemesh_e2e::{load::observation::Observation, truth::Exchange};

use crate::errors::quantile;

/// How long it took.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    pub p50: Duration,
    pub p99: Duration,
}

impl Noise {
    /// Of the requests and the first tokens of exchanges as both ends logged them.
    pub fn of<'a>(exchanges: impl Iterator<Item = (&'a Exchange, &'a Observation)>) -> Self {
        let ways = exchanges.flat_map(|(server, client)| {
            [
                client.request_last_ns.zip(server.request_last_ns),
                server.first_token_ns.zip(client.first_token_ns),
            ]
        });
        let mut times: Vec<Duration> = ways
            .flatten()
            .map(|(written, read)| Duration::from_nanos(read.saturating_sub(written)))
            .collect();
        Self {
            p50: quantile(&mut times, 0.5),
            p99: quantile(&mut times, 0.99),
        }
    }
}
