// SPDX-License-Identifier: Apache-2.0
//! Connections that carry random bytes in small messages both ways, to readers that pause (`short_stream.py`): what a change of the data
//! path beneath them may not lose, double or reorder.
//!
//! Invariant: what one end has sent and the other has received is compared whole, by number and digest.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::Deserialize;

use super::tool;
use crate::{
    process::{Place, Process},
    topology::Pod,
};

/// What one end tells of a connection that has ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct Told {
    client: u16,
    sent: (u64, String),
    received: (u64, String),
}

/// The serving end.
#[derive(Debug)]
pub struct StreamServer(Process);

impl StreamServer {
    /// Serves in `pod` at `address`.
    #[track_caller]
    pub fn start(pod: &Pod, address: SocketAddr) -> Self {
        let process = run(&pod.place(), &["serve", &address.to_string()]);
        process
            .wait_for_line(|line| line == "listening")
            .expect("a server");
        Self(process)
    }
}

/// Connections that go on.
#[derive(Debug)]
pub struct Streams {
    process: Process,
    count: usize,
}

/// Bytes that streams carried, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the clients.
    pub up: u64,
    /// To the clients.
    pub down: u64,
}

impl Streams {
    /// Begins `count` of them.
    #[track_caller]
    pub fn begin(place: &Place, to: SocketAddr, count: usize) -> Self {
        let process = run(place, &["connect", &to.to_string(), &count.to_string()]);
        process
            .wait_for_line(|line| line == "connected")
            .expect("streams");
        Self { process, count }
    }

    /// Ends them, and checks that every byte arrived at the other end, in its place.
    #[track_caller]
    pub fn end(mut self, server: &StreamServer) -> Carried {
        self.process.close_stdin();
        self.process
            .wait_for_line(|line| line == "done")
            .expect("the end of all streams");
        let clients = told(&self.process);
        assert_eq!(clients.len(), self.count, "{:?}", self.process.stderr());
        let mut carried = Carried::default();
        for (port, client) in clients {
            let is_told = || told(&server.0).remove(&port);
            let server = crate::eventually::eventually("the server's word", is_told, Option::is_some);
            let server = server.expect("it was waited for");
            assert_eq!(client.sent, server.received, "to the server, of port {port}");
            assert_eq!(server.sent, client.received, "to the client, of port {port}");
            assert!(client.sent.0 > 0 && server.sent.0 > 0, "{client:?}");
            carried.up += client.sent.0;
            carried.down += server.sent.0;
        }
        carried
    }
}

fn told(process: &Process) -> BTreeMap<u16, Told> {
    let lines = process.stdout();
    let told = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Told>(line).ok());
    told.map(|told| (told.client, told)).collect()
}

#[track_caller]
fn run(place: &Place, arguments: &[&str]) -> Process {
    let script = tool::script("short_stream.py").display().to_string();
    let arguments = [&["-B", &script], arguments].concat();
    Process::spawn(place, &tool::system("python3"), &arguments).expect("start python3")
}
