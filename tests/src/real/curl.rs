// SPDX-License-Identifier: Apache-2.0
//! curl in a pod.

use serde::Deserialize;

use super::tool;
use crate::{eventually::eventually, topology::Pod};

/// What curl says of a transfer.
#[derive(Clone, Debug, Deserialize)]
pub struct Transfer {
    /// Status of the response.
    pub http_code: u16,
    /// Connections that were made for it: none if one was used again.
    pub num_connects: u32,
    /// Bytes of the body.
    pub size_download: u64,
    /// Seconds from the beginning to the first byte of the response.
    pub time_starttransfer: f64,
    /// Seconds from the beginning to the end.
    pub time_total: f64,
    /// Port of its end of the connection.
    pub local_port: u16,
}

/// Transfers `urls` one after the other in one process, which must end well; `flags` hold for each.
#[track_caller]
pub fn curl(pod: &Pod, urls: &[&str], flags: &[&str]) -> Vec<Transfer> {
    let mut arguments = vec!["--silent", "--show-error", "--write-out", "%{json}\\n"];
    arguments.extend(flags);
    for url in urls {
        arguments.extend(["--output", "/dev/null", url]);
    }
    let program = tool::system("curl");
    let mut process = pod
        .spawn(&program.to_string_lossy(), &arguments)
        .expect("start curl");
    let status = process.wait().expect("curl ends");
    let said = eventually(
        "what curl says",
        || [process.stdout(), process.stderr()],
        |[out, error]| out.len() == urls.len() || !error.is_empty(),
    );
    assert!(status.success(), "{status}: {said:?}");
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    said[0].iter().map(parse).collect()
}
