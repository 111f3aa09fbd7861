// SPDX-License-Identifier: Apache-2.0
//! Looks at the kernel's gauges hundreds of times a second, past the agent, which may not be running.
//!
//! Invariant: a gauge that was negative once, in any look, is reported.

use std::{
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use nodemesh_agent::datapath::{PinRoot, maps::MapReader};

/// Rows of `traffic`, and backends, that are looked at: more than a test uses.
const ROWS: u32 = 32;
const BACKENDS: u32 = 16;
const INTERVAL: Duration = Duration::from_millis(4);

/// A running watch.
pub struct Watch {
    maps: MapReader,
    stop: Sender<()>,
    thread: JoinHandle<Seen>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How often was looked.
    pub looks: u64,
    /// Most requests in flight at one look, at the servers.
    pub most_in_flight: u64,
    /// Gauges that were negative, with their place and value.
    pub negative: Vec<String>,
}

/// Every gauge of the kernel, by place.
type Gauges = Vec<(String, u64)>;

impl Watch {
    /// Begins to look at the maps pinned below `pins`.
    pub fn start(pins: &PinRoot) -> Self {
        let open = || MapReader::open(pins).expect("open the pinned maps");
        let (maps, own) = (open(), open());
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                seen.look(&own);
            }
            seen
        });
        Self { maps, stop, thread }
    }

    /// The gauges that are not zero now.
    pub fn left(&self) -> Gauges {
        let mut gauges = gauges(&self.maps);
        gauges.retain(|(_, value)| *value != 0);
        gauges
    }

    /// Ends it.
    pub fn stop(self) -> Seen {
        drop(self.stop);
        self.thread.join().expect("the watch does not panic")
    }
}

impl Seen {
    fn look(&mut self, maps: &MapReader) {
        self.looks += 1;
        let mut in_flight = 0_u64;
        for (place, value) in gauges(maps) {
            if value.cast_signed() < 0 {
                self.negative.push(format!("{place}: {}", value.cast_signed()));
            } else if place.starts_with("server in_flight") {
                in_flight += value;
            }
        }
        self.most_in_flight = self.most_in_flight.max(in_flight);
    }
}

fn gauges(maps: &MapReader) -> Gauges {
    let mut gauges = Gauges::new();
    for row in 0..ROWS {
        let traffic = maps.traffic(row).expect("read a row");
        let vantage = ["client", "server"][row as usize % 2];
        for (name, value) in [
            ("in_flight", traffic.in_flight),
            ("request_bytes_in_flight", traffic.request_bytes_in_flight),
            ("connections", traffic.connections),
        ] {
            gauges.push((format!("{vantage} {name} of pair {}", row / 2), value));
        }
    }
    for backend in 0..BACKENDS {
        let state = maps.backend_state(backend).expect("read a backend's state");
        for (name, value) in [("load", state.load), ("active", state.active)] {
            gauges.push((format!("{name} of backend {backend}"), value));
        }
    }
    let entries = maps.table().expect("read the table's state").entries;
    gauges.push(("entries of the table".to_owned(), entries));
    gauges
}
