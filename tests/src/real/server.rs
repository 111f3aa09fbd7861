// SPDX-License-Identifier: Apache-2.0
//! A server script in a pod.

use std::net::SocketAddr;

use super::{tool, truth::Truth};
use crate::{certificate::Certificates, eventually::eventually, process::Process, topology::Pod};

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its process.
    pub process: Process,
    certificates: Option<Certificates>,
}

impl Server {
    /// Starts `sse_server.py`: Starlette on uvicorn.
    pub fn sse(pod: &Pod, port: u16, flags: &[&str]) -> Self {
        Self::start(pod, "sse_server.py", port, flags)
    }

    /// The same under TLS.
    pub fn sse_tls(pod: &Pod, port: u16, certificates: &Certificates, flags: &[&str]) -> Self {
        let [cert, key] = [&certificates.cert, &certificates.key].map(|path| path.display().to_string());
        let tls = ["--certificate", &cert, "--key", &key];
        Self {
            certificates: Some(certificates.clone()),
            ..Self::sse(pod, port, &[&tls, flags].concat())
        }
    }

    /// Starts `grpc_server.py`: grpcio.
    pub fn grpc(pod: &Pod, port: u16, flags: &[&str]) -> Self {
        Self::start(pod, "grpc_server.py", port, flags)
    }

    fn start(pod: &Pod, script: &str, port: u16, flags: &[&str]) -> Self {
        let address = SocketAddr::new(pod.v4(), port);
        let (python, script) = (tool::python(), tool::script(script).display().to_string());
        let listen = address.to_string();
        let arguments = [&["-B", &script, "--listen", &listen], flags].concat();
        let started = pod.serve(&python.to_string_lossy(), &arguments);
        Self {
            address,
            process: started.expect("start a server"),
            certificates: None,
        }
    }

    /// Its URL for clients that reach it at `address`.
    pub fn url(&self, address: SocketAddr) -> String {
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{address}")
    }

    /// `flags` for a Python client of this server.
    pub fn flags(&self, flags: &[&str]) -> Vec<String> {
        let trust = self
            .certificates
            .iter()
            .flat_map(|certificates| ["--authority".to_owned(), certificates.ca.display().to_string()]);
        flags.iter().map(|&flag| flag.to_owned()).chain(trust).collect()
    }

    /// What it has logged.
    pub fn truth(&self) -> Truth {
        Truth::of(&self.process.stdout())
    }

    /// The log once it has `count` requests that have ended; one of them may also have ended without an end of its response.
    pub fn truth_of(&self, count: usize) -> Truth {
        let whole = |truth: &Truth| {
            truth.exchanges.len() >= count
                && truth
                    .exchanges
                    .iter()
                    .all(|one| one.ended.is_some() || one.disconnected)
        };
        let truth = eventually("the server's requests", || self.truth(), whole);
        assert_eq!(truth.exchanges.len(), count, "{truth:#?}");
        truth
    }
}
