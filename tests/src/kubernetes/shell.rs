// SPDX-License-Identifier: Apache-2.0
//! A shell with `kubectl` and `helm`, in the root of the repository: for what is installed, and for the commands of the documentation.
//!
//! `helm` is Helm's own library behind the arguments that are used. Invariant: its `PATH` names what the tests would take themselves.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result};

use super::{ApiServer, CHART, NAMESPACE, SYSTEM, objects};
use crate::{process::binary, real::tool, single_node::said};

impl ApiServer {
    /// Runs a command of a person, an administrator.
    pub fn shell(&self, command: &str) -> Output {
        let programs = self.programs().expect("links to programs");
        let others = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(programs).chain(env::split_paths(&others));
        let path = env::join_paths(folders).expect("a path");
        let kubeconfig = self.kubeconfig(None);
        let home = self.folder().to_path_buf();
        let run = || -> Result<Output> {
            let mut shell = Command::new("/bin/sh");
            shell
                .args(["-ec", command])
                .env("PATH", path)
                .env("HOME", home)
                .env("KUBECONFIG", kubeconfig)
                .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
            shell.output().context("run a shell")
        };
        let output = self.pod().netns().run(run).and_then(|output| output);
        output.expect("run a command")
    }

    /// Installs the chart with `settings`, each `KEY=VALUE`, and makes the namespace of the tests.
    #[track_caller]
    pub fn install(&self, settings: &[&str]) {
        let settings: Vec<String> = settings
            .iter()
            .map(|setting| format!("--set {setting}"))
            .collect();
        let settings = settings.join(" ");
        let output = self.shell(&format!(
            "helm install nodemesh {CHART} -n {SYSTEM} --create-namespace {settings}"
        ));
        assert!(output.status.success(), "helm install: {}", said(&output));
        self.established();
        self.apply(&[objects::namespace(NAMESPACE)]);
    }

    /// A folder with the programs by their names.
    fn programs(&self) -> Result<PathBuf> {
        let folder = self.folder().join("bin");
        if folder.exists() {
            return Ok(folder);
        }
        fs::create_dir(&folder)?;
        std::os::unix::fs::symlink(tool::kubectl(), folder.join("kubectl"))?;
        std::os::unix::fs::symlink(binary("nodemesh-control"), folder.join("nodemesh-control"))?;
        let helm = folder.join("helm");
        let (python, script) = (tool::deploy_python(), tool::script("helm.py"));
        let text = format!(
            "#!/bin/sh\nexec '{}' '{}' \"$@\"\n",
            python.display(),
            script.display()
        );
        fs::write(&helm, text)?;
        fs::set_permissions(&helm, fs::Permissions::from_mode(0o755))?;
        Ok(folder)
    }
}
