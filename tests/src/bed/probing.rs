// SPDX-License-Identifier: Apache-2.0
//! The near end: runs `socket-probe` in a place and reads its report.
//!
//! Invariant: a probe that cannot run fails the test; what its sockets met is in the report.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    eventually::eventually,
    process::{Place, Process, binary},
};

/// How often each name occurred.
pub type Counts = BTreeMap<String, u64>;

/// `key`, and nothing else, `count` times.
pub fn once(key: &(impl ToString + ?Sized), count: u64) -> Counts {
    Counts::from([(key.to_string(), count)])
}

/// Report of `socket-probe connect`.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Connections that were established and said a name.
    pub ok: u64,
    /// The others, by the last error.
    pub errors: Counts,
    /// Names of the replicas.
    pub replicas: Counts,
    /// Answers of `getpeername()`.
    pub peers: Counts,
    /// Outcomes of the calls on one socket, joined by commas, for sockets with a failure.
    pub attempts: Counts,
    /// Duration of all.
    pub seconds: f64,
}

impl Report {
    /// The replica that answered every one of `count` connections, none of which failed.
    #[track_caller]
    pub fn only_replica(&self, count: u64) -> &str {
        assert_eq!(self.ok, count, "{self:?}");
        assert!(self.errors.is_empty() && self.replicas.len() == 1, "{self:?}");
        self.replicas.keys().next().expect("there is one")
    }

    /// Panics unless every one of `count` connections failed by `error`.
    #[track_caller]
    pub fn assert_all_failed(&self, count: u64, error: &str) {
        assert_eq!(self.ok, 0, "{self:?}");
        assert_eq!(self.errors, once(error, count), "{self:?}");
    }

    /// Panics unless `count` connections were established, and none failed.
    #[track_caller]
    pub fn assert_all_ok(&self, count: u64) {
        assert_eq!(self.ok, count, "{self:?}");
        assert!(self.errors.is_empty(), "{self:?}");
    }

    /// Connections that `replica` answered.
    pub fn of(&self, replica: &str) -> u64 {
        self.replicas.get(replica).copied().unwrap_or_default()
    }
}

/// Report of `socket-probe udp`.
#[derive(Clone, Debug, Deserialize)]
pub struct UdpReport {
    /// Datagrams that were answered.
    pub ok: u64,
    /// Errors by name.
    pub errors: Counts,
    /// Calls that failed.
    pub failed_calls: Counts,
    /// Names of the replicas.
    pub replicas: Counts,
    /// Addresses that `recvfrom()` returned.
    pub sources: Counts,
    /// Answers of `getpeername()`.
    pub peers: Counts,
    /// Answers whose source is not the address that the datagram was sent to.
    pub foreign_sources: u64,
    /// By destination.
    pub targets: BTreeMap<SocketAddr, UdpTarget>,
}

/// One destination in a [`UdpReport`].
#[derive(Clone, Debug, Deserialize)]
pub struct UdpTarget {
    /// Datagrams that were answered.
    pub ok: u64,
    /// Names of the replicas.
    pub replicas: Counts,
    /// Addresses that `recvfrom()` returned.
    pub sources: Counts,
}

/// Starts `socket-probe` with `arguments`.
pub fn probe(place: &Place, arguments: &[&str]) -> Process {
    Process::spawn(place, &binary("socket-probe"), arguments).expect("start a probe")
}

/// Waits for the report of a process that then ends in order.
#[track_caller]
pub fn report_of<T: DeserializeOwned>(process: Process) -> T {
    let (report, status) = process.report().expect("a report");
    assert!(status.success(), "the probe ended with {status}");
    report
}

/// Runs `socket-probe connect`.
#[track_caller]
pub fn connect(place: &Place, to: SocketAddr, flags: &[&str]) -> Report {
    report_of(probe(place, &[&["connect", &to.to_string()], flags].concat()))
}

/// Runs `socket-probe udp` with one destination.
#[track_caller]
pub fn udp(place: &Place, to: SocketAddr, flags: &[&str]) -> UdpReport {
    report_of(probe(place, &[&["udp", &to.to_string()], flags].concat()))
}

/// A process that holds connections open; they end with it, at the latest when it is dropped.
#[derive(Debug)]
pub struct Held {
    process: Process,
    /// Where they led.
    pub report: Report,
}

/// Opens `count` connections and holds them.
#[track_caller]
pub fn hold(place: &Place, to: SocketAddr, count: u64, flags: &[&str]) -> Held {
    let (to, count) = (to.to_string(), count.to_string());
    let arguments = [&["connect", &to, "--hold", "--count", &count], flags].concat();
    let process = probe(place, &arguments);
    let line = process
        .wait_for_line(|line| line.starts_with('{'))
        .expect("a report");
    Held {
        process,
        report: serde_json::from_str(&line).expect("a report"),
    }
}

impl Held {
    /// The process that holds them.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Closes them, and waits until the process has ended.
    pub fn release(mut self) {
        self.process.close_stdin();
        self.process.wait().expect("the probe ends");
    }

    /// Ends the process by SIGKILL.
    pub fn kill(self) {
        drop(self.process);
    }
}

/// One connection that is talked over, by `bash` with `/dev/tcp` or by Python.
#[derive(Debug)]
pub struct Talk {
    process: Process,
    said: u32,
    /// The replica at the other end.
    pub replica: String,
}

/// Opens a connection to talk over whose client waits by `poll()`, as the shortcut needs it.
#[track_caller]
pub fn talk_polling(place: &Place, to: SocketAddr) -> Talk {
    let script = format!(
        "import socket, sys\n\
         connection = socket.create_connection(('{}', {}), timeout=60)\n\
         replies = connection.makefile('r')\n\
         print('at', replies.readline(), end='', flush=True)\n\
         for line in sys.stdin:\n    \
             connection.sendall(line.encode())\n    \
             print(replies.readline(), end='', flush=True)",
        to.ip(),
        to.port()
    );
    talk_by(place, "/usr/bin/python3", &["-c", &script])
}

/// Opens a connection to talk over.
#[track_caller]
pub fn talk(place: &Place, to: SocketAddr) -> Talk {
    let script = format!(
        "exec 3<>/dev/tcp/{}/{} && read -r -u 3 name && echo \"at $name\" && while read -r line; do echo \"$line\" >&3 && read -r -u 3 echo && echo \"$echo\"; done",
        to.ip(),
        to.port()
    );
    talk_by(place, "/bin/bash", &["-c", &script])
}

#[track_caller]
fn talk_by(place: &Place, program: &str, arguments: &[&str]) -> Talk {
    let process = Process::spawn(place, program.as_ref(), arguments).expect("start a program");
    let line = process
        .wait_for_line(|line| line.starts_with("at "))
        .expect("a connection");
    Talk {
        process,
        said: 0,
        replica: line.trim_start_matches("at ").into(),
    }
}

impl Talk {
    /// Says something new and waits for its echo.
    #[track_caller]
    pub fn goes_on(&mut self) {
        self.said += 1;
        let line = format!("line {}", self.said);
        self.process.write_line(&line).expect("bash reads");
        self.process.wait_for_line(|echo| echo == line).expect("an echo");
    }

    /// Talks on until the process has ended, as it does when the connection has.
    #[track_caller]
    pub fn is_cut(mut self) {
        let has_ended = || {
            // It may have died of the last words.
            drop(self.process.write_line("over"));
            self.process.has_ended()
        };
        eventually("the connection is cut", has_ended, |ended| *ended);
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}
