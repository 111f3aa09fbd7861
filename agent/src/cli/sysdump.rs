// SPDX-License-Identifier: Apache-2.0
//! `nodemesh sysdump`.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use clap::Args;

use super::table;
use crate::{
    check::Scene,
    control::ControlArgs,
    sysdump::{self, Contents},
};

/// Arguments of `nodemesh sysdump`.
#[derive(Args, Debug)]
pub(super) struct Sysdump {
    /// The archive; `-` is standard output. By default a file in this folder, named after the node and the time.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Most connections that are listed.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    connections: usize,
    /// The agent's file or directory of resources, if it does not run.
    #[arg(long, env = "NODEMESH_CONFIG", value_name = "PATH")]
    config: Option<PathBuf>,
    #[command(flatten)]
    control: ControlArgs,
    /// Its folder for the last state of the control plane.
    #[arg(long, env = "NODEMESH_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Its cgroup.
    #[arg(long, env = "NODEMESH_CGROUP", value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Its folder for maps and links.
    #[arg(long, env = "NODEMESH_PIN_DIR", value_name = "DIR")]
    pin_dir: Option<PathBuf>,
}

impl Sysdump {
    pub(super) fn run(&self, run_dir: &Path) -> Result<()> {
        let name = name();
        let contents = Contents {
            scene: Scene {
                config: self.config.clone(),
                control: self.control.clone(),
                state_dir: self.state_dir.clone(),
                cgroup: self.cgroup.clone(),
                pin_dir: self.pin_dir.clone(),
                run_dir: Some(run_dir.into()),
                http: None,
            },
            run_dir: run_dir.into(),
            connections: self.connections,
            name: name.clone(),
        };
        if self.file.as_deref() == Some(Path::new("-")) {
            return sysdump::write(&contents, io::stdout().lock()).map(drop);
        }
        let path = self
            .file
            .clone()
            .unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("create {}; --file names another place", path.display()))?;
        let parts = sysdump::write(&contents, file)?;
        table::print(&format!(
            "{}: {parts} files, without the secrets that are known as such; look through them before you hand them on",
            path.display()
        ))
    }
}

/// Of this node and this second.
fn name() -> String {
    let host = nix::sys::utsname::uname().map_or_else(
        |_| "node".to_owned(),
        |uts| uts.nodename().to_string_lossy().into_owned(),
    );
    let time = humantime::format_rfc3339_seconds(SystemTime::now())
        .to_string()
        .replace([':', '-'], "");
    format!("nodemesh-sysdump-{host}-{time}")
}
