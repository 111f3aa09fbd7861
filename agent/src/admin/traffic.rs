// SPDX-License-Identifier: Apache-2.0
//! Answer of `GET /v1/traffic`, and what of it the list of backends shows: the meter's counters with the names of what they are
//! about.
//!
//! Invariant: numbers are the kernel's own; nothing is rounded, added up or left out but rows that were never used.

use std::collections::BTreeMap;

use anyhow::Result;
use nodemesh_abi::{
    Cancel, Outcome, Traffic, Vantage,
    traffic::{DURATION_BOUNDS_NS, FIRST_BOUNDS_NS, GAP_BOUNDS_NS, RTT_BOUNDS_NS, SHARED_PAIR, SIZE_BOUNDS},
};

use super::report::{Node, endpoint};
use crate::{
    api::{self, Histogram, HistogramBounds, TrafficReport},
    datapath::clock::monotonic_ns,
    quantile,
    reconcile::view::View,
    sweep::RowActivity,
};

/// Service and backend of the row that many share.
const OTHER: &str = "other";

impl Node {
    /// Answer of `GET /v1/traffic`, of one service if one is named.
    pub fn traffic(&self, service: Option<&str>) -> Result<TrafficReport> {
        let view = self.view();
        let sweep = self.sweep();
        let mut rows = Vec::new();
        for pair in pairs(&view) {
            if service.is_some_and(|wanted| wanted != pair.service) {
                continue;
            }
            for vantage in Vantage::ALL {
                let index = vantage.row(pair.traffic);
                let row = self.maps.traffic(index)?;
                if row.connections_opened > 0 {
                    rows.push(describe(&pair, vantage, &row, sweep.row(index)));
                }
            }
        }
        Ok(TrafficReport {
            monotonic_ns: monotonic_ns(),
            bounds: bounds(),
            rows,
        })
    }

    /// Requests in flight and median time to the first token of the backend that has the pair `traffic`: as its server sees
    /// them if that is on this node, else as this node's clients do.
    pub(super) fn pace(&self, traffic: u32) -> Result<(Option<u64>, Option<f64>)> {
        if traffic == SHARED_PAIR {
            return Ok((None, None));
        }
        let server = self.maps.traffic(Vantage::Server.row(traffic))?;
        let row = if server.connections_opened > 0 {
            server
        } else {
            self.maps.traffic(Vantage::Client.row(traffic))?
        };
        let median = quantile::of_slots(&FIRST_BOUNDS_NS, &row.first_token, 0.5);
        Ok((Some(row.in_flight), median.map(|ns| ns as f64 / 1e9)))
    }
}

/// A pair of rows and whose it is.
struct Pair {
    traffic: u32,
    service: String,
    backend: String,
    model: Option<String>,
}

/// Every pair that is in use, the shared one first.
fn pairs(view: &View) -> Vec<Pair> {
    let shared = Pair {
        traffic: SHARED_PAIR,
        service: OTHER.to_owned(),
        backend: OTHER.to_owned(),
        model: None,
    };
    let live = view.frontends.iter().flat_map(|programmed| {
        let frontend = &programmed.frontend;
        let places = frontend.backends.iter().zip(&programmed.backends);
        places.map(|(backend, place)| Pair {
            traffic: place.traffic,
            service: frontend.service.to_string(),
            backend: endpoint(backend.addr, backend.port),
            model: frontend.model.as_deref().map(str::to_owned),
        })
    });
    let retired = view.retired.iter().filter_map(|(_, retired)| {
        let service = retired.service.as_ref()?;
        Some(Pair {
            traffic: retired.row.traffic,
            service: service.to_string(),
            backend: endpoint(retired.row.addr, retired.row.port),
            model: None,
        })
    });
    let own = live.chain(retired).filter(|pair| pair.traffic != SHARED_PAIR);
    std::iter::once(shared).chain(own).collect()
}

fn describe(pair: &Pair, vantage: Vantage, row: &Traffic, activity: RowActivity) -> api::Traffic {
    let requests = Outcome::ALL.iter().zip(row.requests);
    let cancels = Cancel::ALL.iter().zip(row.cancels);
    api::Traffic {
        service: pair.service.clone(),
        backend: pair.backend.clone(),
        vantage: vantage.into(),
        model: pair.model.clone(),
        requests_in_flight: row.in_flight,
        request_bytes_in_flight: row.request_bytes_in_flight,
        stalled_streams: activity.stalled,
        last_byte_age_seconds: activity.quiet_ns as f64 / 1e9,
        open_connections: row.connections,
        connections_total: row.connections_opened,
        request_bytes_total: row.bytes_up,
        response_bytes_total: row.bytes_down,
        requests: named(requests.map(|(outcome, count)| (outcome.label(), count))),
        cancels: named(cancels.map(|(cancel, count)| (cancel.label(), count))),
        chunks: row.chunks,
        ambiguous_sockets: row.ambiguous,
        retransmits: row.retransmits,
        time_to_first_byte: seconds(&row.first_byte),
        time_to_first_token: seconds(&row.first_token),
        inter_token_latency: seconds(&row.gap),
        stream_duration: seconds(&row.duration),
        request_size: histogram(&row.request_size, 1.0),
        response_size: histogram(&row.response_size, 1.0),
        rtt: seconds(&row.rtt),
    }
}

fn named(counts: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<String, u64> {
    counts.map(|(name, count)| (name.to_owned(), count)).collect()
}

fn seconds(slots: &[u64]) -> Histogram {
    histogram(slots, 1e9)
}

/// The slots of a row's histogram, whose last one is the sum in units of which `scale` make one.
fn histogram(slots: &[u64], scale: f64) -> Histogram {
    let (sum, counts) = slots.split_last().expect("a histogram has a sum");
    Histogram {
        counts: counts.to_vec(),
        sum: *sum as f64 / scale,
    }
}

fn bounds() -> HistogramBounds {
    let seconds = |bounds: &[u64]| bounds.iter().map(|ns| *ns as f64 / 1e9).collect();
    HistogramBounds {
        first_seconds: seconds(&FIRST_BOUNDS_NS),
        gap_seconds: seconds(&GAP_BOUNDS_NS),
        duration_seconds: seconds(&DURATION_BOUNDS_NS),
        size_bytes: SIZE_BOUNDS.iter().map(|bytes| *bytes as f64).collect(),
        rtt_seconds: seconds(&RTT_BOUNDS_NS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_their_names_and_units() {
        let mut row = Traffic {
            in_flight: 2,
            connections: 3,
            connections_opened: 9,
            bytes_up: 10,
            bytes_down: 20,
            ..Traffic::default()
        };
        row.requests[Outcome::Truncated as usize] = 5;
        row.cancels[Cancel::PrefillReset as usize] = 6;
        row.first_token[2] = 7;
        *row.first_token.last_mut().unwrap() = 1_500_000_000;
        row.request_size[1] = 8;
        *row.request_size.last_mut().unwrap() = 4_000;
        let pair = Pair {
            traffic: 4,
            service: "prod/chat".into(),
            backend: "10.0.0.1:8000".into(),
            model: Some("llama".into()),
        };
        let activity = RowActivity {
            stalled: 1,
            quiet_ns: 2_500_000_000,
            ..RowActivity::default()
        };
        let told = describe(&pair, Vantage::Server, &row, activity);
        assert_eq!(
            (told.vantage, told.model.as_deref()),
            (api::Vantage::Server, Some("llama"))
        );
        assert_eq!((told.requests["truncated"], told.cancels["prefill/rst"]), (5, 6));
        assert_eq!(
            (told.requests.len(), told.cancels.len()),
            (Outcome::COUNT, Cancel::COUNT)
        );
        assert_eq!((told.stalled_streams, told.last_byte_age_seconds), (1, 2.5));
        let bounds = bounds();
        assert_eq!(
            told.time_to_first_token.counts.len(),
            bounds.first_seconds.len() + 1
        );
        assert_eq!(
            (told.time_to_first_token.counts[2], told.time_to_first_token.sum),
            (7, 1.5)
        );
        assert_eq!((told.request_size.counts[1], told.request_size.sum), (8, 4_000.0));
        assert_eq!(
            told.stream_duration.counts.len(),
            bounds.duration_seconds.len() + 1
        );
        assert_eq!(
            told.inter_token_latency.counts.len(),
            bounds.gap_seconds.len() + 1
        );
        assert_eq!(told.rtt.counts.len(), bounds.rtt_seconds.len() + 1);
    }

    #[test]
    fn without_backends_there_is_the_shared_row() {
        let pairs = pairs(&View::default());
        let told: Vec<(&str, &str, u32)> = pairs
            .iter()
            .map(|pair| (&*pair.service, &*pair.backend, pair.traffic))
            .collect();
        assert_eq!(told, [(OTHER, OTHER, SHARED_PAIR)]);
    }
}
