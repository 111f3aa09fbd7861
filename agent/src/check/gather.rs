// SPDX-License-Identifier: Apache-2.0
//! Looks at the node: files, system calls, sockets, and the agent if one answers. Gives [`Facts`], judges nothing.
//!
//! Invariant: nothing is changed; the programs and maps that are tried are gone when their descriptor is closed.

mod agent;
mod control;
mod host;

use std::{net::SocketAddr, path::PathBuf};

use super::facts::{AgentFacts, Facts};
use crate::{
    cli::AdminClient,
    config::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR},
    control::ControlArgs,
    datapath::{PinRoot, hooks, host as node, pins::DEFAULT_PIN_DIR},
};

/// Where to look. What is absent here comes from the running agent, or is the agent's own default.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// The agent's `--config`.
    pub config: Option<PathBuf>,
    /// The agent's flags about the control plane.
    pub control: ControlArgs,
    /// Its `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// Its `--cgroup`.
    pub cgroup: Option<PathBuf>,
    /// Its `--pin-dir`.
    pub pin_dir: Option<PathBuf>,
    /// Its `--run-dir`.
    pub run_dir: Option<PathBuf>,
    /// Its `--http`.
    pub http: Option<SocketAddr>,
}

impl Scene {
    /// Fills in what the running agent was told.
    fn complete(&self, agent: &AgentFacts, client: &AdminClient) -> Self {
        let mut scene = self.clone();
        let settings = match agent {
            AgentFacts::Here(_) => client
                .get::<std::collections::BTreeMap<String, String>>("/v1/settings")
                .unwrap_or_default(),
            _ => std::collections::BTreeMap::new(),
        };
        let path = |flag: &str| settings.get(flag).map(PathBuf::from);
        let fill = |known: &mut Option<PathBuf>, flag| *known = known.take().or_else(|| path(flag));
        if scene.control.control.is_empty() {
            fill(&mut scene.config, "config");
        }
        fill(&mut scene.state_dir, "state-dir");
        fill(&mut scene.cgroup, "cgroup");
        fill(&mut scene.pin_dir, "pin-dir");
        if scene.control.control.is_empty() && scene.config.is_none() {
            control::fill(&mut scene.control, &settings);
        }
        scene
    }
}

/// Looks at everything.
pub fn gather(scene: &Scene) -> Facts {
    let run_dir = scene.run_dir.clone().unwrap_or_else(|| DEFAULT_RUN_DIR.into());
    let client = AdminClient::patient(&run_dir, agent::PATIENCE);
    let agent = agent::ask(&client, &run_dir);
    let scene = scene.complete(&agent, &client);
    let pin_dir = scene.pin_dir.clone().unwrap_or_else(|| DEFAULT_PIN_DIR.into());
    let root = node::cgroup_root(scene.cgroup.as_deref()).map_err(|error| error.to_string());
    let hooks = root
        .as_ref()
        .map(|root| hooks::inspect(root, &PinRoot::new(&pin_dir)))
        .unwrap_or_default();
    let state_dir = scene
        .state_dir
        .clone()
        .unwrap_or_else(|| DEFAULT_STATE_DIR.into());
    let by_control = !scene.control.control.is_empty();
    let mut folders = vec![host::folder("--run-dir", &run_dir)];
    if by_control {
        folders.push(host::folder("--state-dir", &state_dir));
    }
    let (control_flags, control, certificates) = control::ask(&scene.control);
    Facts {
        kernel: host::kernel(),
        lacking: host::lacking_capabilities(),
        cgroup: host::cgroups(root),
        pins: host::pins(&pin_dir),
        hooks,
        cni: host::network_plugins(),
        clock: host::clock(),
        folders,
        http: matches!(agent, AgentFacts::Absent).then(|| host::http(scene.http)),
        files: scene.config.as_deref().map(control::files),
        control_flags,
        control,
        certificates,
        snapshot: by_control.then(|| control::snapshot(&state_dir)),
        agent,
    }
}
