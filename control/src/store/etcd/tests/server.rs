// SPDX-License-Identifier: Apache-2.0
//! Real etcd servers on loopback, for tests.
//!
//! Invariant: a server ends with its handle, and its data with the handle of its cluster.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::store::{
    StoreError,
    etcd::{EtcdOptions, EtcdStore, EtcdTls},
};

/// How long a cluster may take to work.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// A cluster on this machine.
#[derive(Debug)]
pub(super) struct Cluster {
    folder: TempDir,
    members: Vec<Member>,
    tls: Option<Tls>,
}

/// Files for members that speak TLS to clients, and what clients need.
#[derive(Debug)]
pub(super) struct Tls {
    /// Arguments of etcd.
    pub(super) arguments: Vec<String>,
    pub(super) client: EtcdTls,
}

#[derive(Debug)]
struct Member {
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Cluster {
    /// Starts `size` members and waits until they work.
    pub(super) async fn start(size: usize) -> Self {
        Self::start_with(size, TempDir::new().unwrap(), None).await
    }

    /// Starts them in `folder`.
    pub(super) async fn start_with(size: usize, folder: TempDir, tls: Option<Tls>) -> Self {
        let ports = free_ports(2 * size);
        let members = ports.chunks(2).map(|ports| Member {
            client: ports[0],
            peer: ports[1],
            process: None,
        });
        let mut cluster = Self {
            folder,
            members: members.collect(),
            tls,
        };
        for index in 0..size {
            cluster.restart(index);
        }
        let start = Instant::now();
        while let Err(error) = cluster.connect().await {
            assert!(start.elapsed() < STARTS_WITHIN, "{error}: {}", cluster.said());
        }
        cluster
    }

    /// A store on all members.
    pub(super) async fn connect(&self) -> Result<EtcdStore, StoreError> {
        self.connect_with(self.tls.as_ref().map(|tls| tls.client.clone()))
            .await
    }

    /// A store on all members, whose client has `tls`.
    pub(super) async fn connect_with(&self, tls: Option<EtcdTls>) -> Result<EtcdStore, StoreError> {
        let endpoints = self
            .members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.client));
        EtcdStore::connect(EtcdOptions {
            endpoints: endpoints.collect(),
            prefix: "test/".to_owned(),
            tls,
        })
        .await
    }

    /// Starts a member again, after [`Self::kill`].
    pub(super) fn restart(&mut self, index: usize) {
        let names = self.members.iter().enumerate();
        let all: Vec<_> = names
            .map(|(index, member)| format!("m{index}=http://127.0.0.1:{}", member.peer))
            .collect();
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log(index))
            .unwrap();
        let member = &mut self.members[index];
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", member.client);
        let peer = format!("http://127.0.0.1:{}", member.peer);
        let data = self.folder.path().join(format!("m{index}"));
        let process = Command::new(program())
            .args(["--name", &format!("m{index}"), "--data-dir"])
            .arg(data)
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &all.join(",")])
            .args([
                "--heartbeat-interval",
                "50",
                "--election-timeout",
                "500",
                "--logger",
                "zap",
            ])
            .args(self.tls.iter().flat_map(|tls| &tls.arguments))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        member.process = Some(process.unwrap());
    }

    /// Ends a member as a crash does.
    pub(super) fn kill(&mut self, index: usize) {
        self.members[index].end();
    }

    /// Stops the time of a member, or lets it go on.
    pub(super) fn pause(&self, index: usize, is_paused: bool) {
        let process = self.members[index].process.as_ref().unwrap();
        let signal = if is_paused {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        };
        kill(Pid::from_raw(process.id().cast_signed()), signal).unwrap();
    }

    fn log(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("m{index}.log"))
    }

    fn said(&self) -> String {
        let logs =
            (0..self.members.len()).map(|index| fs::read_to_string(self.log(index)).unwrap_or_default());
        logs.collect()
    }
}

impl Member {
    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Also ends one that is paused.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(Member::end);
    }
}

/// Ports that nobody listens on at the moment.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().port())
        .collect()
}

/// etcd of this machine, or the one that `cargo xtask setup` has unpacked.
fn program() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cache");
    let unpacked = cache
        .filter(|cache| !cache.as_os_str().is_empty())
        .unwrap_or_else(home)
        .join("nodemesh/etcd-debian/usr/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain([unpacked])
        .map(|folder| folder.join("etcd"));
    found
        .into_iter()
        .find(|program| program.is_file())
        .expect("no etcd: `cargo xtask setup` gets it")
}
