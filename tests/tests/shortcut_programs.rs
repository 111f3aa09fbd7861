// SPDX-License-Identifier: Apache-2.0
//! Programs that break maps of sockets elsewhere, with the shortcut on: what they receive is what they receive with it off, byte for byte.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{net::SocketAddr, path::PathBuf};

use nodemesh_e2e::{
    bed::{Bed, Family},
    manifest::{Manifest, Policy, Service},
    process::Process,
    real::{
        H2Load, h2load,
        short::{self, Stack},
        tool,
    },
    scrape::Scrape,
    topology::Pod,
};
use serde_json::json;

/// A client pod and a server pod of one node, and services with the shortcut on and off for each backend.
struct Stage {
    bed: Bed,
    server: Pod,
    ports: u16,
}

impl Stage {
    fn new() -> Self {
        let bed = Bed::new();
        let server = bed.a.pod("programs").unwrap();
        let ports = 21_000 + (std::process::id() % 2_000) as u16 * 20;
        Self { bed, server, ports }
    }

    fn at(&self, number: u8) -> SocketAddr {
        SocketAddr::new(self.server.v4(), self.ports.wrapping_add(number.into()).max(1024))
    }

    fn folder(&self) -> PathBuf {
        self.bed.agent.config().parent().unwrap().to_owned()
    }

    /// Starts the agent with a service for each of `numbers`.
    fn mesh(&mut self, numbers: &[u8]) {
        let services = numbers.iter().flat_map(|&number| {
            let to = [self.at(number)];
            [
                Service::new(&format!("on{number}"), on(number)).to(to),
                Service::new(&format!("off{number}"), off(number)).to(to),
            ]
        });
        let manifest = numbers.iter().fold(Manifest::of(services), |manifest, number| {
            manifest.and(Policy::of(&format!("on{number}")).set("shortcut", json!({"enabled": true})))
        });
        self.bed.start(&manifest, &["--shortcut", "force"]);
    }

    /// Messages that took the shortcut so far.
    fn handed_over(&self) -> u64 {
        let (_, text) = self.bed.agent.http(&self.bed.a, "/metrics").unwrap();
        let scrape = Scrape::parse(&text).unwrap();
        scrape.count("nodemesh_shortcut_messages_total", &[("route", "shortcut")])
    }

    /// The same bytes both ways; returns how many messages took the shortcut.
    fn compare(&self, number: u8, uploads: bool) -> u64 {
        let client = self.bed.client.place();
        let without = short::fetch(&client, off(number), uploads);
        let before = self.handed_over();
        let with = short::fetch(&client, on(number), uploads);
        assert_eq!(with, without, "service {number}");
        self.handed_over() - before
    }
}

/// Where the service with the shortcut on is.
fn on(number: u8) -> SocketAddr {
    Family::V4.vip(number)
}

/// Where the same with the shortcut off is.
fn off(number: u8) -> SocketAddr {
    Family::V4.vip(100 + number)
}

#[test]
fn servers_of_every_stack_send_and_receive_the_same_bytes() {
    let mut stage = Stage::new();
    let folder = stage.folder();
    let (mut running, mut numbers) = (Vec::<(Stack, u8, Process)>::new(), Vec::new());
    for (number, stack) in (1..).zip(Stack::ALL) {
        if let Some(program) = stack.missing() {
            println!("SKIPPED: {stack:?}, for this machine has no {program}");
            continue;
        }
        running.push((
            stack,
            number,
            stack.start(&stage.server, stage.at(number), &folder),
        ));
        numbers.push(number);
    }
    stage.mesh(&numbers);
    for (stack, number, _) in &running {
        let handed = stage.compare(*number, stack.takes_uploads());
        assert!(handed >= 60, "{stack:?}: {handed} messages took the shortcut");
    }
    stage.bed.at_rest();
    stage.bed.assert_no_internal_error();
}

#[test]
fn proxies_that_splice_pass_the_same_bytes_on() {
    let mut stage = Stage::new();
    let (folder, server) = (stage.folder(), &stage.server);
    let _server = Stack::Asyncio.start(server, stage.at(1), &folder);
    let _http = short::haproxy(server, "http", stage.at(2), on(1), &folder);
    let _tcp = short::haproxy(server, "tcp", stage.at(3), on(1), &folder);
    let go = short::go_proxy(server, stage.at(4), on(1), &folder);
    stage.mesh(&[1, 2, 3, 4]);
    stage.compare(2, true);
    stage.compare(3, true);
    match go {
        Some(_) => drop(stage.compare(4, true)),
        None => println!("SKIPPED: the proxy in Go, for this machine has no go"),
    }
    stage.bed.at_rest();
}

#[test]
fn curl_and_h2load_receive_the_same_bytes() {
    let mut stage = Stage::new();
    let folder = stage.folder();
    let _server = Stack::Nginx.start(&stage.server, stage.at(1), &folder);
    stage.mesh(&[1]);
    let load = |address: SocketAddr| -> H2Load {
        let url = format!("http://{address}/1000");
        h2load(
            &stage.bed.client,
            &url,
            &["--h1", "-n", "4000", "-c", "16", "-m", "1"],
        )
    };
    let before = stage.handed_over();
    let (with, without) = (load(on(1)), load(off(1)));
    assert_eq!((with.succeeded, without.succeeded), (4000, 4000));
    let handed = stage.handed_over() - before;
    assert!(handed > 6000, "{handed} messages took the shortcut");

    let fetch = |address: SocketAddr, name: &str| {
        let file = folder.join(name).display().to_string();
        let urls = [1000, 1000, 300, 1000, 8_388_608, 50, 1000, 8_388_608, 15_000];
        let script = format!(
            "{} --silent --fail {} > {file}",
            tool::system("curl").display(),
            urls.map(|size| format!("http://{address}/{size}")).join(" ")
        );
        let mut process = stage.bed.client.spawn("/bin/sh", &["-c", &script]).unwrap();
        assert!(process.wait().unwrap().success(), "{:?}", process.stderr());
        std::fs::read(file).unwrap()
    };
    let (with, without) = (fetch(on(1), "with"), fetch(off(1), "without"));
    assert_eq!(with.len(), 16_796_566);
    assert!(with == without, "what curl received differs");
    stage.bed.at_rest();
}
