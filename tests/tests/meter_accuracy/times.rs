// SPDX-License-Identifier: Apache-2.0
//! Times, gaps and chunks of every shape of an answer over every wire, against the logs of the server and of the client.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nodemesh_agent::api::{Traffic, Vantage};
use nodemesh_e2e::{load::observation::Observation, truth::Exchange};

use crate::{
    errors::{Errors, Time, assert_chunks, assert_histogram, gaps},
    lab::{Client, Lab, Spot, Wire},
    line::Line,
    noise::Noise,
    shape::{SHAPES, Shape},
    table,
};

const REQUESTS: usize = 100;
const CONCURRENCY: usize = 10;

/// Of one shape over one wire: errors of the time to first token, or of that to the first byte where there is no token.
pub struct Measured {
    pub shape: &'static str,
    pub wire: Wire,
    pub server: Errors,
    pub client: Errors,
}

/// What a log says of one request.
struct Known {
    first_byte: Option<Time>,
    first_token: Option<Time>,
    /// When text was written or read.
    moments: Vec<u64>,
}

/// What the meter, and what a log says of the requests of one service.
struct Both<'a> {
    what: String,
    shape: &'static Shape,
    wire: Wire,
    row: &'a Traffic,
    pairs: Vec<(Line, Known)>,
    noise: Noise,
}

/// Runs all shapes at the same time; the two paths after each other, so that they do not make each other's noise.
pub fn all_shapes(path: &'static str) {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::new(path, &SHAPES.each_ref().map(Shape::server));
    let start = |spot: Spot| {
        (
            spot,
            lab.client(spot, &SHAPES[spot.server].client(REQUESTS, CONCURRENCY)),
        )
    };
    let clients: Vec<_> = lab.spots().map(start).collect();
    let logs: Vec<Logs> = clients
        .into_iter()
        .map(|(spot, client)| Logs::of(&lab, spot, client))
        .collect();
    let noise = Noise::of(logs.iter().flat_map(|logs| logs.server.iter().zip(&logs.client)));
    // One that is wrong does not end the test: what it has in common with others tells why.
    let compare = |logs: &Logs| catch_unwind(AssertUnwindSafe(|| compare(&lab, path, logs, noise)));
    let measured: Vec<Measured> = logs.iter().filter_map(|logs| compare(logs).ok()).collect();
    assert_eq!(measured.len(), logs.len(), "the others are wrong, as said above");
    lab.assert_nothing_was_lost();
    table::publish(path, &measured, noise);
}

/// What both ends logged of the same exchanges, in the same order.
struct Logs {
    spot: Spot,
    server: Vec<Exchange>,
    client: Vec<Observation>,
}

impl Logs {
    #[track_caller]
    fn of(lab: &Lab, spot: Spot, client: Client) -> Self {
        let (report, client) = client.ended();
        assert_eq!(report["requests"]["ok"], REQUESTS, "{spot:?}: {report:#}");
        let server = lab.truth(spot, REQUESTS);
        let ids = |ids: &mut dyn Iterator<Item = String>| ids.collect::<Vec<_>>();
        assert_eq!(
            ids(&mut server.iter().filter_map(|one| one.id.clone())),
            ids(&mut client.iter().map(|one| one.id.clone())),
            "{spot:?}"
        );
        Self { spot, server, client }
    }

    /// At the server, its log is what is so, at the client its own. Packets the kernel sees between the write of the one and the read
    /// of the other, and one by one where reads take several at once.
    fn known(&self, path: &str, vantage: Vantage) -> Vec<Known> {
        let of_packets = path == "packet";
        let both = self.server.iter().zip(&self.client);
        let known = both.map(|(server, client)| {
            let time = |server: Option<Duration>, client: Option<Duration>| {
                let is = if vantage == Vantage::Server {
                    server
                } else {
                    client
                };
                let others = [server, client].into_iter().flatten().filter(|_| of_packets);
                is.map(|is| Time::new(is, others))
            };
            let by_client = vantage == Vantage::Client && !of_packets;
            Known {
                first_byte: time(server.ttfb(), client.ttfb()),
                first_token: time(server.ttft(), client.ttft()),
                moments: if by_client {
                    &client.emissions_ns
                } else {
                    &server.emissions_ns
                }
                .clone(),
            }
        });
        known.collect()
    }
}

fn compare(lab: &Lab, path: &str, logs: &Logs, noise: Noise) -> Measured {
    let (spot, shape) = (logs.spot, &SHAPES[logs.spot.server]);
    let bounds = lab.bounds("nodemesh_inter_token_latency_seconds");
    let at = |vantage: Vantage| {
        let row = lab.at_rest(spot, vantage, REQUESTS as u64);
        let told = lab.told(spot, vantage, REQUESTS);
        let both = Both {
            what: format!("{path}, {}, {}, {vantage:?}", shape.name, spot.wire.name()),
            shape,
            wire: spot.wire,
            row: &row,
            pairs: told.into_iter().zip(logs.known(path, vantage)).collect(),
            noise,
        };
        both.assert_counted();
        both.assert_bytes_are_timed();
        both.assert_chunks_and_gaps(&bounds);
        both.assert_tokens_are_timed()
    };
    Measured {
        shape: shape.name,
        wire: spot.wire,
        server: at(Vantage::Server),
        client: at(Vantage::Client),
    }
}

impl Both<'_> {
    /// Every request succeeded, and nothing else was seen.
    #[track_caller]
    fn assert_counted(&self) {
        let (what, row) = (&self.what, self.row);
        let counted: Vec<_> = row.requests.iter().filter(|(_, count)| **count > 0).collect();
        assert_eq!(
            counted,
            [(&"success".to_owned(), &(REQUESTS as u64))],
            "{what}: {row:#?}"
        );
        assert_eq!(
            (row.ambiguous_sockets, row.request_bytes_in_flight),
            (0, 0),
            "{what}: {row:#?}"
        );
        let told: u64 = self.pairs.iter().filter_map(|(line, _)| line.chunks).sum();
        assert_eq!(
            row.chunks, told,
            "{what}: the row and the access log tell the same: {row:#?}"
        );
    }

    /// Under TLS 1.3, tickets may come before the first byte of a connection's first response, and cannot be told from it.
    #[track_caller]
    fn assert_bytes_are_timed(&self) -> Errors {
        let what = format!("{}: time to first byte", self.what);
        let shown = self
            .pairs
            .iter()
            .filter(|(line, _)| self.wire != Wire::Tls13 || line.ttfb().is_some());
        let times = shown.map(|(line, known)| {
            line.ttfb()
                .zip(known.first_byte)
                .unwrap_or_else(|| panic!("{what}: none: {line:?}"))
        });
        let errors = Errors::of(times);
        errors.assert_small(&what, self.noise);
        errors
    }

    #[track_caller]
    fn assert_tokens_are_timed(&self) -> Errors {
        let what = format!("{}: time to first token", self.what);
        if self.shape.whole {
            let told = self
                .pairs
                .iter()
                .filter(|(line, _)| line.ttft().is_some())
                .count();
            assert!(
                self.wire != Wire::Plain || told == 0,
                "{what}: {told} of a whole reply"
            );
            return self.assert_bytes_are_timed();
        }
        let times = self.pairs.iter().map(|(line, known)| {
            let both = line.ttft().zip(known.first_token);
            both.unwrap_or_else(|| panic!("{what}: none: {line:?}"))
        });
        let errors = Errors::of(times);
        errors.assert_small(&what, self.noise);
        errors
    }

    #[track_caller]
    fn assert_chunks_and_gaps(&self, bounds: &[f64]) {
        if self.shape.whole {
            assert_eq!(self.row.chunks, 0, "{}: chunks of a whole reply", self.what);
            return;
        }
        for (line, known) in &self.pairs {
            let what = format!("{}: {line:?}", self.what);
            assert_chunks(&what, line.chunks.expect("a request"), &known.moments, self.noise);
        }
        let gaps: Vec<Duration> = self
            .pairs
            .iter()
            .flat_map(|(_, known)| gaps(&known.moments))
            .collect();
        assert_histogram(&self.what, &self.row.inter_token_latency, bounds, &gaps);
    }
}
