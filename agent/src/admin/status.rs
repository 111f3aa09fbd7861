// SPDX-License-Identifier: Apache-2.0
//! How the node is: the answer of `GET /v1/status`, and the logs, which are part of it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use nodemesh_abi::{InternalError, names::map};

use super::report::{Node, unix_seconds};
use crate::{
    access_log::Setting,
    api,
    config::VERSION,
    datapath::{guard::Attachment, host},
    reconcile::{thread::Command, view::View},
    shortcut::State,
    source::{ControlStatus, SourceStatus},
};

impl Node {
    /// Answer of `GET /v1/status`.
    pub fn status(&self) -> api::Status {
        let (source, view) = (self.source(), self.view());
        let mut problems = self.not_ready();
        let ready = problems.is_empty();
        if !source.errors.is_empty() {
            problems.push(
                "the last reload of the configuration was refused; the one before it is in force".to_owned(),
            );
        }
        problems.extend(
            self.packet()
                .problems
                .iter()
                .map(|problem| format!("packet path: {problem}")),
        );
        if let Some(control) = source.control.as_ref().filter(|_| ready) {
            problems.extend(control_problems(control));
        }
        api::Status {
            version: VERSION.to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready,
            problems,
            config: config_status(&source, &view),
            datapath: self.datapath_status(&view),
            log: self.log_status(),
        }
    }

    fn datapath_status(&self, view: &View) -> api::DatapathStatus {
        let attachment = self.attachment();
        api::DatapathStatus {
            kernel: self.kernel(),
            cgroup: self.cgroup.display().to_string(),
            pin_dir: self.config.pin_dir.display().to_string(),
            programs: programs_in_force(&attachment),
            attachment: attachment_status(&attachment),
            maps: self.map_usage(view),
            internal_errors: self.internal_errors(),
            frontends_not_programmed: self.not_programmed(view),
            cgroups_missing: view.cgroups_missing.clone(),
            meter: self.meter_status(),
            shortcut: State::clone(&self.shortcut()),
            packet: self.packet_status(),
        }
    }

    /// Release of the running kernel.
    pub fn kernel(&self) -> String {
        host::kernel_release()
    }

    /// Frontends that are not as configured, with the reason.
    pub fn not_programmed(&self, view: &View) -> BTreeMap<String, String> {
        let rejected = view.rejected.iter().map(|rejected| {
            (
                rejected.frontend.to_string(),
                format!("no room in {}: {} entries", rejected.map, rejected.capacity),
            )
        });
        let failed = view
            .failed
            .iter()
            .map(|(name, error)| (name.to_string(), error.clone()));
        rejected.chain(failed).collect()
    }

    fn meter_status(&self) -> api::MeterStatus {
        let sweep = self.sweep();
        let [client, server] = sweep.stalled();
        api::MeterStatus {
            path: self.meter_path.label().to_owned(),
            connections: self.maps.table().map(|table| table.entries).unwrap_or_default(),
            connection_limit: self.connection_limit.into(),
            connections_untracked: self.internal_error(InternalError::ConnectionTable),
            adopted: self.adopted,
            stalled_client: client,
            stalled_server: server,
            corrections: sweep.corrections,
        }
    }

    fn internal_error(&self, error: InternalError) -> u64 {
        self.maps.internal_errors().unwrap_or_default()[error as usize]
    }

    /// Records of the access log that were lost, by the programs or by the agent.
    pub fn access_lost(&self) -> u64 {
        self.internal_error(InternalError::AccessRecord) + self.access_log.lost()
    }

    /// Fill of the maps.
    pub fn map_usage(&self, view: &View) -> BTreeMap<String, api::MapUsage> {
        let listed = self.maps.dynamic_usage().into_iter();
        let listed =
            listed.map(|(name, (entries, capacity))| (name.to_owned(), api::MapUsage { entries, capacity }));
        let mut usage = self.fixed_usage(view);
        usage.extend(listed);
        usage
    }

    /// Fill of the maps that the agent fills, which costs nothing to tell.
    pub fn fixed_usage(&self, view: &View) -> BTreeMap<String, api::MapUsage> {
        let ([services, backends], [traffic, endpoints]) = (view.usage, view.meter_usage);
        [
            (map::SERVICES, services),
            (map::BACKENDS, backends),
            (map::TRAFFIC, traffic),
            (map::ENDPOINTS, endpoints),
        ]
        .map(|(name, (entries, capacity))| {
            let (entries, capacity) = (entries.into(), capacity.into());
            (name.to_owned(), api::MapUsage { entries, capacity })
        })
        .into()
    }

    /// Internal errors by reason.
    pub fn internal_errors(&self) -> BTreeMap<String, u64> {
        let counts = self.maps.internal_errors().unwrap_or_default();
        InternalError::ALL
            .iter()
            .zip(counts)
            .map(|(error, count)| (error.label().to_owned(), count))
            .collect()
    }

    /// Answer of `GET /v1/log`.
    pub fn log_status(&self) -> api::LogStatus {
        let programs = *self.program_log.lock().expect("no holder panics");
        let access = self.access_log.setting();
        api::LogStatus {
            agent: Some(self.log.current()),
            programs: Some(programs),
            access: Some(access.format),
            access_sample: Some(access.sample),
            access_records: Some(self.access_log.written()),
            access_lost: Some(self.access_lost()),
        }
    }

    /// Changes log levels and the access log; what is absent stays.
    pub fn change_log(&self, wanted: &api::LogStatus) -> Result<api::LogStatus> {
        if let Some(filter) = &wanted.agent {
            self.log.set(filter)?;
        }
        if let Some(level) = wanted.programs {
            self.command(Command::LogLevel(level.into()))?;
            *self.program_log.lock().expect("no holder panics") = level;
        }
        if wanted.access.is_some() || wanted.access_sample.is_some() {
            let now = self.access_log.setting();
            self.switch_access_log(Setting {
                format: wanted.access.unwrap_or(now.format),
                sample: wanted.access_sample.unwrap_or(now.sample).max(1),
            })?;
        }
        Ok(self.log_status())
    }

    /// Changes the access log, and tells the programs.
    pub fn switch_access_log(&self, setting: Setting) -> Result<()> {
        self.access_log.set(setting)?;
        self.command(Command::AccessSample(setting.kernel_sample()))
    }

    fn command(&self, command: Command) -> Result<()> {
        self.commands.send(command).context("the reconciler has ended")
    }
}

fn programs_in_force(attachment: &Attachment) -> BTreeMap<String, bool> {
    let programs = attachment.programs.iter();
    programs
        .map(|(name, in_force)| ((*name).to_owned(), *in_force))
        .collect()
}

fn attachment_status(attachment: &Attachment) -> api::AttachmentStatus {
    api::AttachmentStatus {
        repairs: attachment
            .repairs
            .iter()
            .map(|(fault, count)| (fault.word().to_owned(), *count))
            .collect(),
        last_repair: attachment.last.as_ref().map(|repair| api::Repair {
            object: repair.object.to_owned(),
            fault: repair.fault.word().to_owned(),
            at: repair.at,
        }),
    }
}

fn config_status(source: &SourceStatus, view: &View) -> api::ConfigStatus {
    api::ConfigStatus {
        path: source.origin.clone(),
        state: if source.errors.is_empty() {
            api::ConfigState::Ok
        } else {
            api::ConfigState::Invalid
        },
        generation: source.generation,
        applied_generation: view.generation,
        loaded_at: unix_seconds(source.loaded_at),
        errors: source.errors.clone(),
        warnings: source.warnings.clone(),
        control: source.control.as_ref().map(control_status),
    }
}

fn control_status(control: &ControlStatus) -> api::ControlStatus {
    let seconds = |time| Some(unix_seconds(time)).filter(|seconds| *seconds > 0);
    api::ControlStatus {
        connected: control.connected.clone(),
        since: unix_seconds(control.since),
        error: control.error.clone(),
        version: control.version.clone(),
        from_disk: control.is_snapshot,
        updated_at: seconds(control.updated_at),
        saved_at: control.saved_at.get(),
        connections: control.connections,
        nacks: control.nacks,
        rejected: control.rejected.lines().collect(),
        unsupported: control.unsupported.lines().collect(),
        waiting: control.waiting.lines().collect(),
    }
}

/// What is wrong with what comes from the control plane, while a state of it is in force.
fn control_problems(control: &ControlStatus) -> Vec<String> {
    let mut problems = Vec::new();
    if control.connected.is_none() {
        let error = control.error.as_deref().unwrap_or("connecting");
        problems.push(format!(
            "no connection to the control plane, the last state stays in force: {error}"
        ));
    }
    if control.rejected.count > 0 {
        problems.push(format!(
            "{} of the control plane's resources are refused; what they replace stays in force",
            control.rejected.count
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn an_invalid_reload_shows_what_is_in_force_and_why() {
        let source = SourceStatus {
            generation: 4,
            loaded_at: UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000),
            tried_at: SystemTime::now(),
            errors: vec!["wrong".to_owned()],
            warnings: vec!["odd".to_owned()],
            reloads_ok: 4,
            reloads_failed: 1,
            ..SourceStatus::new("/etc/mesh.yaml".to_owned())
        };
        let view = View {
            generation: 3,
            ..View::default()
        };
        let status = config_status(&source, &view);
        assert_eq!(
            (status.generation, status.applied_generation, status.loaded_at),
            (4, 3, 1_700_000_000)
        );
        assert_eq!(
            (status.state, status.errors, status.warnings),
            (
                api::ConfigState::Invalid,
                source.errors.clone(),
                source.warnings.clone()
            )
        );
        let good = SourceStatus {
            errors: Vec::new(),
            ..source
        };
        assert_eq!(config_status(&good, &view).state, api::ConfigState::Ok);
    }
}
