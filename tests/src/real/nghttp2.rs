// SPDX-License-Identifier: Apache-2.0
//! nghttp2 in a pod: nghttpd serves files over HTTP/2 in plaintext, h2load asks for them, or any HTTP server.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
};

use super::tool;
use crate::{eventually::eventually, process::Process, topology::Pod};

/// A running nghttpd; ends when dropped.
#[derive(Debug)]
pub struct Nghttpd {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
}

impl Nghttpd {
    /// Starts it in `folder`, where it serves a file `index.html` of 1000 bytes.
    pub fn start(pod: &Pod, port: u16, folder: &Path) -> Self {
        fs::write(folder.join("index.html"), [b'x'; 1000]).expect("write a page");
        let [address, folder, number] =
            [&pod.v4() as &dyn ToString, &folder.display(), &port].map(ToString::to_string);
        let arguments = ["--no-tls", "--address", &address, "--htdocs", &folder, &number];
        let program = tool::system("nghttpd");
        let process = pod
            .spawn(&program.to_string_lossy(), &arguments)
            .expect("start nghttpd");
        let address = SocketAddr::new(pod.v4(), port);
        let answers = || {
            let connect = || TcpStream::connect(address).is_ok();
            pod.netns().run(connect).expect("a namespace")
        };
        eventually("nghttpd listens", answers, |answered| *answered);
        Self {
            address,
            _process: process,
        }
    }
}

/// What h2load says of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct H2Load {
    /// Requests that were answered.
    pub succeeded: u64,
    /// Requests that were not.
    pub failed: u64,
}

/// Runs h2load with `flags` against `url`.
#[track_caller]
pub fn h2load(pod: &Pod, url: &str, flags: &[&str]) -> H2Load {
    let program = tool::system("h2load");
    let process = pod
        .spawn(&program.to_string_lossy(), &[flags, &[url][..]].concat())
        .expect("start h2load");
    let line = process
        .wait_for_line(|line| line.starts_with("requests: "))
        .expect("a summary of h2load");
    let count = |what: &str| {
        let words: Vec<&str> = line.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let pair = words.windows(2).find(|pair| pair[1] == what);
        let count = pair.and_then(|pair| pair[0].parse().ok());
        count.unwrap_or_else(|| panic!("no {what} in {line}"))
    };
    H2Load {
        succeeded: count("succeeded"),
        failed: count("failed"),
    }
}
