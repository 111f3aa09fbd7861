// SPDX-License-Identifier: Apache-2.0
//! `nodemesh register`: runs a server and keeps it registered as a Workload.
//!
//! ```text
//! start CMD ─► its port accepts ─► register ─► renew … ─► SIGTERM ─► draining ─► nothing in flight ─► deregister ─► SIGTERM to CMD
//!                                                 └─────► CMD ends ─► deregister
//! ```
//!
//! Invariant: CMD runs whatever becomes of the control plane, and its exit code is ours.

mod drain;
mod lease;

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::process::ExitStatusExt as _,
    pin::pin,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::{
    sys::signal::{self, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{sleep, timeout},
};

use self::{
    drain::Drain,
    lease::{Keeper, State, Wish},
};
use super::registry::{Registry, block_on};
use crate::control::ControlClient;

/// Time between two looks whether the server accepts connections.
const PROBE: Duration = Duration::from_millis(100);

/// Arguments of `nodemesh register`.
#[derive(Args, Debug)]
pub(super) struct Register {
    /// Name of the Workload.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Its namespace.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// Address under which others reach the server; once per address family.
    #[arg(long, value_name = "IP", required = true)]
    address: Vec<IpAddr>,
    /// Port of the server: it is registered when this port accepts connections, else at once.
    #[arg(long, alias = "ready-port", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Label, which the selectors of services match. May be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,
    /// Share of the load.
    #[arg(long, value_name = "N")]
    weight: Option<u32>,
    /// Path of the server's cgroup below the cgroup v2 root, by which it is known as a client.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// How long the registration outlives this process if it is killed.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Longest that SIGTERM waits for requests in flight.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    drain_timeout: Duration,
    /// Shortest that SIGTERM waits before it believes that nothing is in flight: the nodes' interval of reports and a bit.
    #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = humantime::parse_duration)]
    drain_settle: Duration,
    #[command(flatten)]
    registry: Registry,
    /// The server and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))
}

impl Register {
    pub(super) fn run(&self) -> Result<ExitCode> {
        block_on(self.supervise())
    }

    /// The Workload in a state.
    fn workload(&self, state: Wish) -> Value {
        let mut spec = json!({"addresses": self.address});
        if state == Wish::Draining {
            spec["state"] = json!("draining");
        }
        if let Some(weight) = self.weight {
            spec["weight"] = json!(weight);
        }
        if let Some(cgroup) = &self.cgroup {
            spec["cgroup"] = json!(cgroup);
        }
        let labels: serde_json::Map<String, Value> = self
            .label
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        let mut metadata = json!({"namespace": self.namespace, "name": self.name});
        if !labels.is_empty() {
            metadata["labels"] = labels.into();
        }
        json!({
            "apiVersion": "nodemesh.io/v1alpha1",
            "kind": "Workload",
            "metadata": metadata,
            "spec": spec,
        })
    }

    async fn supervise(&self) -> Result<ExitCode> {
        let control = self.registry.control()?;
        let mut signals = Signals::new()?;
        let mut child = self.start()?;
        let (wish, wished) = watch::channel(Wish::Active);
        let (told, mut state) = watch::channel(State::default());
        let keeper = Keeper {
            control: control.clone(),
            workloads: [Wish::Active, Wish::Draining].map(|wish| self.workload(wish).to_string()),
            ttl: self.ttl,
            wished,
            told,
        };
        let exit = {
            let mut registration = pin!(async {
                self.ready().await;
                keeper.run().await
            });
            let ended = tokio::select! {
                exit = child.wait() => Some(exit?),
                () = signals.next() => None,
                never = &mut registration => match never {},
            };
            if ended.is_some() {
                ended
            } else {
                wish.send_replace(Wish::Draining);
                tokio::select! {
                    exit = child.wait() => Some(exit?),
                    () = self.drain(&control, &mut state) => None,
                    // Whoever asks twice is in a hurry.
                    () = signals.next() => None,
                    never = &mut registration => match never {},
                }
            }
        };
        let lease = state.borrow().lease;
        if let Some(lease) = lease {
            lease::deregister(&control, lease).await;
        }
        let exit = match exit {
            Some(exit) => exit,
            None => end(&mut child, &mut signals).await?,
        };
        Ok(exit_code(exit))
    }

    /// Waits until nothing is in flight, but not for too long.
    async fn drain(&self, control: &ControlClient, state: &mut watch::Receiver<State>) {
        let drain = Drain {
            control,
            namespace: &self.namespace,
            workload: &self.name,
            settle: self.drain_settle,
        };
        if timeout(self.drain_timeout, drain.run(state)).await.is_err() {
            let waited = humantime::format_duration(self.drain_timeout);
            eprintln!("nodemesh: requests may still be in flight after {waited}; ending the server");
        }
    }

    fn start(&self) -> Result<Child> {
        let [program, arguments @ ..] = self.command.as_slice() else {
            bail!("name the server after --");
        };
        Command::new(program)
            .args(arguments)
            .spawn()
            .with_context(|| format!("start {program}"))
    }

    /// Waits until the server accepts connections.
    async fn ready(&self) {
        let Some((port, address)) = self.port.zip(self.address.first()) else {
            return;
        };
        while TcpStream::connect(SocketAddr::new(*address, port)).await.is_err() {
            sleep(PROBE).await;
        }
    }
}

/// What asks for the end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends the server; a signal that comes meanwhile is passed on.
async fn end(child: &mut Child, signals: &mut Signals) -> Result<ExitStatus> {
    loop {
        if let Some(pid) = child.id() {
            // It may have ended in this moment, which the wait below finds out.
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal::Signal::SIGTERM);
        }
        tokio::select! {
            exit = child.wait() => return Ok(exit?),
            () = signals.next() => {}
        }
    }
}

/// The exit code of the server, as a shell tells it.
fn exit_code(exit: ExitStatus) -> ExitCode {
    let code = exit
        .code()
        .unwrap_or_else(|| 128 + exit.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use nodemesh_model::Manifest;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        register: Register,
    }

    fn parse(flags: &[&str]) -> Result<Register, clap::Error> {
        let command = std::iter::once("register").chain(flags.iter().copied());
        Cli::try_parse_from(command).map(|cli| cli.register)
    }

    #[test]
    fn the_workload_is_what_the_flags_say() {
        let register = parse(&[
            "--name",
            "chat-0",
            "-n",
            "models",
            "--address",
            "10.0.0.1",
            "--address",
            "fd00::1",
            "--label",
            "app=chat",
            "--label",
            "empty=",
            "--weight",
            "7",
            "--",
            "server",
            "--port",
            "1",
        ])
        .unwrap();
        assert_eq!(register.command, ["server", "--port", "1"]);
        let workload = register.workload(Wish::Active);
        assert_eq!(
            workload["spec"],
            json!({"addresses": ["10.0.0.1", "fd00::1"], "weight": 7})
        );
        assert_eq!(
            workload["metadata"]["labels"],
            json!({"app": "chat", "empty": ""})
        );
        assert_eq!(register.workload(Wish::Draining)["spec"]["state"], "draining");
        for wish in [Wish::Active, Wish::Draining] {
            let manifest = Manifest::from_values([register.workload(wish)]);
            assert!(manifest.errors().is_empty(), "{}", manifest.errors());
        }
    }

    #[test]
    fn flags_that_make_no_workload_are_refused() {
        assert!(parse(&["--name", "a", "--address", "10.0.0.1", "--"]).is_err());
        assert!(parse(&["--name", "a", "--", "server"]).is_err());
        assert!(parse(&["--name", "a", "--address", "host", "--", "server"]).is_err());
        assert!(
            parse(&[
                "--name",
                "a",
                "--address",
                "10.0.0.1",
                "--label",
                "app",
                "--",
                "server"
            ])
            .is_err()
        );
    }

    #[test]
    fn the_exit_code_is_that_of_the_server() {
        let code = |raw| format!("{:?}", exit_code(ExitStatus::from_raw(raw)));
        assert_eq!(code(3 << 8), format!("{:?}", ExitCode::from(3)));
        assert_eq!(code(15), format!("{:?}", ExitCode::from(143)));
    }
}
