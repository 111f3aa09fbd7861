// SPDX-License-Identifier: Apache-2.0
//! Programs that the shortcut's tests run in pods: servers of one small HTTP service on four stacks, two proxies, and its client.
//!
//! Invariant: all servers answer with the same bytes, which their client knows.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::tool;
use crate::{
    process::{Place, Process},
    topology::Pod,
};

/// What the service runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// Python's asyncio.
    Asyncio,
    /// Node.js.
    Node,
    /// Java's `ServerSocketChannel` with a selector.
    Java,
    /// nginx, which sends files; it takes no uploads.
    Nginx,
}

impl Stack {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Asyncio, Self::Node, Self::Java, Self::Nginx];

    /// What it lacks on this machine; `None` if it can be started.
    pub fn missing(self) -> Option<&'static str> {
        let program = match self {
            Self::Asyncio | Self::Nginx => return None,
            Self::Node => "node",
            // The compiler, for the server is run from its source.
            Self::Java => "javac",
        };
        (!tool::is_there(program)).then_some(program)
    }

    /// Whether it answers uploads.
    pub fn takes_uploads(self) -> bool {
        self != Self::Nginx
    }

    /// Starts it at `address`; `folder` is for its files.
    pub fn start(self, pod: &Pod, address: SocketAddr, folder: &Path) -> Process {
        let at = address.to_string();
        let script = |name| tool::script(name).display().to_string();
        match self {
            Self::Asyncio => serve(pod, "python3", &["-B", &script("short_server.py"), &at]),
            Self::Node => serve(pod, "node", &[&script("short_server.js"), &at]),
            Self::Java => serve(
                pod,
                "java",
                &["-XX:TieredStopAtLevel=1", &script("ShortServer.java"), &at],
            ),
            Self::Nginx => nginx(pod, address, folder),
        }
    }
}

fn serve(pod: &Pod, program: &str, arguments: &[&str]) -> Process {
    let program = tool::system(program).display().to_string();
    let process = pod.spawn(&program, arguments).expect("start a server");
    process
        .wait_for_line(|line| line.starts_with("listening on"))
        .unwrap_or_else(|error| panic!("{program} {arguments:?}: {error:#}: {:?}", process.stderr()));
    process
}

/// The bytes that every server answers with.
fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| at % 65_536)
        .map(|at| (at ^ (at >> 8).wrapping_mul(31)) as u8)
        .collect()
}

/// Sizes that `short_client.py` asks for.
const SIZES: [usize; 10] = [10, 50, 100, 300, 999, 1000, 15_000, 20_000, 70_000, 8_388_608];

fn nginx(pod: &Pod, address: SocketAddr, folder: &Path) -> Process {
    let files = folder.join("files");
    fs::create_dir_all(&files).expect("a folder");
    for size in SIZES {
        fs::write(files.join(size.to_string()), pattern(size)).expect("a file");
    }
    let root = folder.display();
    let mut config = String::new();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    for path in temporary {
        let _ = writeln!(config, "  {path}_temp_path {root}/{path};");
    }
    let config = format!(
        "daemon off; master_process off; user root; pid {root}/nginx.pid; error_log stderr;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n{config}  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;\n  \
         server {{ listen {address}; root {root}/files; }}\n}}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).expect("a configuration");
    let file = file.display().to_string();
    let program = tool::system("nginx").display().to_string();
    listening(
        pod,
        pod.spawn(&program, &["-c", &file, "-e", "stderr"])
            .expect("start nginx"),
        address,
    )
}

/// `HAProxy`, which splices, in front of `to`.
pub fn haproxy(pod: &Pod, mode: &str, address: SocketAddr, to: SocketAddr, folder: &Path) -> Process {
    let file = folder.join(format!("haproxy-{mode}.cfg"));
    fs::write(
        &file,
        format!(
            "global\n  maxconn 256\n  maxpipes 64\ndefaults\n  mode {mode}\n  option splice-request\n  option splice-response\n  \
             timeout connect 10s\n  timeout client 10s\n  timeout server 10s\nlisten all\n  bind {address}\n  server one {to}\n"
        ),
    )
    .expect("a configuration");
    let program = tool::system("haproxy").display().to_string();
    let process = pod.spawn(&program, &["-db", "-f", &file.display().to_string()]);
    listening(pod, process.expect("start haproxy"), address)
}

/// A proxy in Go, built in `folder`, in front of `to`; `None` without Go.
pub fn go_proxy(pod: &Pod, address: SocketAddr, to: SocketAddr, folder: &Path) -> Option<Process> {
    if !tool::is_there("go") {
        return None;
    }
    let proxy = build_go(folder);
    let arguments = [address.to_string(), to.to_string()];
    Some(
        pod.serve(&proxy.display().to_string(), &arguments)
            .expect("start the proxy"),
    )
}

fn build_go(folder: &Path) -> PathBuf {
    let proxy = folder.join("short_proxy");
    let built = Command::new(tool::system("go"))
        .args(["build", "-o"])
        .arg(&proxy)
        .arg(tool::script("short_proxy.go"))
        .env("GO111MODULE", "off")
        .env("GOCACHE", folder.join("go-cache"))
        .output()
        .expect("run go");
    assert!(built.status.success(), "{built:?}");
    proxy
}

/// Waits until a program listens that does not say so.
fn listening(pod: &Pod, process: Process, address: SocketAddr) -> Process {
    let answers = || {
        let connect = || std::net::TcpStream::connect(address).is_ok();
        pod.netns().run(connect).expect("a namespace")
    };
    crate::eventually::eventually("a server listens", answers, |answered| *answered);
    process
}

/// Fetches and uploads over one connection, and returns the digest of what came back.
#[track_caller]
pub fn fetch(place: &Place, from: SocketAddr, uploads: bool) -> String {
    let script = tool::script("short_client.py").display().to_string();
    let (host, port) = (from.ip().to_string(), from.port().to_string());
    let uploads = if uploads { "uploads" } else { "no uploads" };
    let arguments = ["-B", &script, &host, &port, uploads];
    let process = Process::spawn(place, &tool::system("python3"), &arguments).expect("start the client");
    let said = process.wait_for_line(|line| line.len() == 64);
    said.unwrap_or_else(|error| panic!("{from}: {error:#}: {:?}", process.stderr()))
}
