// SPDX-License-Identifier: Apache-2.0
//! Where resources come from: files, control planes with their certificates, the last state on disk. Invariant: a control plane is asked
//! for one resource that it does not have, so that the answer is small whatever it has.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nodemesh_model::Locality;
use nodemesh_proto::v1::{GetRequest, registry_client::RegistryClient};
use tokio::time::timeout;
use tonic::Code;
use x509_parser::pem::Pem;

use crate::{
    check::facts::SnapshotFacts,
    cli::{block_on, explain},
    control::{Connection, ControlArgs, ControlClient, ControlUrl},
    source::{local::FileSource, snapshot::SnapshotFile},
};

/// Longest time for one control plane.
const PATIENCE: Duration = Duration::from_secs(8);
/// What is asked for: no mesh has it.
const NOBODY: &str = "nodemesh-check-asks-for-nothing";

/// Takes over the running agent's flags.
pub(super) fn fill(control: &mut ControlArgs, settings: &BTreeMap<String, String>) {
    let path = |flag: &str| settings.get(flag).map(PathBuf::from);
    let urls = settings.get("control").map(String::as_str).unwrap_or_default();
    control.control = urls.split(',').filter_map(|url| url.parse().ok()).collect();
    control.control_ca = control.control_ca.take().or_else(|| path("control-ca"));
    control.control_cert = control.control_cert.take().or_else(|| path("control-cert"));
    control.control_key = control.control_key.take().or_else(|| path("control-key"));
    control.control_token_file = control
        .control_token_file
        .take()
        .or_else(|| path("control-token-file"));
    control.control_name = control
        .control_name
        .take()
        .or_else(|| settings.get("control-name").cloned());
    control.control_plaintext |= settings.contains_key("control-plaintext");
}

/// Reads the files as the agent would.
pub(super) fn files(path: &Path) -> (PathBuf, Result<Vec<String>, Vec<String>>) {
    let nowhere = Locality::new(None, None, Some("check")).map_err(|problem| vec![problem.to_string()]);
    let read = nowhere.and_then(|node| FileSource::load(path, node));
    (
        path.into(),
        read.map(|source| source.status().borrow().warnings.clone()),
    )
}

type Asked = (
    Option<String>,
    Vec<(String, Option<String>)>,
    Vec<(PathBuf, Result<i64, String>)>,
);

/// Contradictions of the flags; each control plane with why it cannot be used; each certificate with the seconds that are left.
pub(super) fn ask(control: &ControlArgs) -> Asked {
    if control.control.is_empty() {
        return (None, Vec::new(), Vec::new());
    }
    let certificates = [&control.control_ca, &control.control_cert];
    let certificates = certificates
        .into_iter()
        .flatten()
        .map(|path| (path.clone(), seconds_left(path)))
        .collect();
    if let Err(error) = control.check() {
        return (Some(error.to_string()), Vec::new(), certificates);
    }
    let client = ControlClient::new(control.clone(), "nodemesh-check");
    let answers = client.urls().iter().map(|url| {
        let asked = block_on(async {
            Ok(timeout(PATIENCE, one(&client, url))
                .await
                .unwrap_or_else(|_| Some(format!("no answer within {} s", PATIENCE.as_secs()))))
        });
        let error = asked.unwrap_or_else(|error| Some(format!("{error:#}")));
        (url.to_string(), error)
    });
    (None, answers.collect(), certificates)
}

async fn one(client: &ControlClient, url: &ControlUrl) -> Option<String> {
    let connection: Connection = match client.connect(url, false).await {
        Ok(connection) => connection,
        Err(error) => return Some(error.to_string()),
    };
    let request = GetRequest {
        kind: "Service".to_owned(),
        namespace: String::new(),
        name: NOBODY.to_owned(),
    };
    let answer = RegistryClient::new(connection).get(request).await;
    match answer {
        Ok(_) => None,
        // Another kind of control plane has no registry; it is there.
        Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => None,
        Err(status) => Some(format!("{:#}", explain(&status))),
    }
}

/// Seconds until the first certificate of a file expires.
fn seconds_left(path: &Path) -> Result<i64, String> {
    let text = fs::read(path).map_err(|error| error.to_string())?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
        .cast_signed();
    let mut least = None;
    for pem in Pem::iter_from_buffer(&text) {
        let pem = pem.map_err(|error| error.to_string())?;
        if pem.label != "CERTIFICATE" {
            continue;
        }
        let certificate = pem.parse_x509().map_err(|error| error.to_string())?;
        let validity = certificate.validity();
        if validity.not_before.timestamp() > now {
            return Err(format!("is valid only from {}", validity.not_before));
        }
        let left = validity.not_after.timestamp() - now;
        least = Some(least.map_or(left, |least: i64| least.min(left)));
    }
    least.ok_or_else(|| "has no PEM block CERTIFICATE".to_owned())
}

/// Reads the snapshot as the agent would.
pub(super) fn snapshot(state_dir: &Path) -> SnapshotFacts {
    let file = SnapshotFile::at(state_dir);
    let age = |path: &Path| {
        let written = fs::metadata(path).and_then(|found| found.modified()).ok()?;
        Some(
            SystemTime::now()
                .duration_since(written)
                .unwrap_or_default()
                .as_secs(),
        )
    };
    let content = file
        .read()
        .map_err(|error| error.to_string())
        .map(|snapshot| snapshot.map(|snapshot| (age(file.path()).unwrap_or_default(), snapshot.version)));
    SnapshotFacts {
        path: file.path().into(),
        content,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_agents_flags_are_taken_over() {
        let settings = [
            ("control", "https://a:1,https://b:2"),
            ("control-ca", "/pki/ca.pem"),
            ("control-token-file", "/pki/token"),
            ("control-name", "mesh"),
        ];
        let settings = settings
            .map(|(flag, value)| (flag.to_owned(), value.to_owned()))
            .into();
        let mut control = ControlArgs::default();
        fill(&mut control, &settings);
        assert_eq!(control.control.len(), 2);
        assert_eq!(control.control_ca.as_deref(), Some(Path::new("/pki/ca.pem")));
        assert_eq!(control.control_name.as_deref(), Some("mesh"));
        assert!(control.check().is_ok() && !control.control_plaintext);
    }

    #[test]
    fn what_is_no_certificate_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        assert!(seconds_left(&path).is_err());
        fs::write(&path, "nonsense").unwrap();
        assert!(seconds_left(&path).unwrap_err().contains("CERTIFICATE"));
    }

    #[test]
    fn a_snapshot_that_is_not_there_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(snapshot(folder.path()).content, Ok(None));
        fs::write(folder.path().join("snapshot.jsonl"), "{}").unwrap();
        assert!(snapshot(folder.path()).content.is_err());
    }
}
