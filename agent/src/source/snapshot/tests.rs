// SPDX-License-Identifier: Apache-2.0
//! What is read back, and what is refused.

use tempfile::TempDir;

use super::*;

fn resources() -> Resources {
    let manifest = Manifest::parse(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {name: chat, namespace: models}\n\
         spec: {addresses: [10.96.0.1], ports: [{port: 80}], selector: {app: chat}}\n---\n\
         apiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {name: chat-0, namespace: models, labels: {app: chat}}\n\
         spec: {addresses: [10.0.0.1], weight: 7}\n---\n\
         apiVersion: nodemesh.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: p, namespace: models}\n\
         spec: {targetRef: {kind: Service, name: chat}, loadBalancer: {algorithm: round-robin}, limits: {connections: 4}}\n---\n\
         apiVersion: nodemesh.io/v1alpha1\nkind: AccessPolicy\nmetadata: {name: a, namespace: models}\n\
         spec: {targetRef: {kind: Service}, default: deny}\n",
    );
    Resources::merge([("test", &manifest)]).unwrap()
}

fn documents(resources: &Resources) -> Vec<serde_json::Value> {
    let services = resources.services().values().cloned().map(Resource::Service);
    let workloads = resources.workloads().values().cloned().map(Resource::Workload);
    let policies = resources
        .policies()
        .values()
        .cloned()
        .map(Resource::TrafficPolicy);
    let access = resources
        .access_policies()
        .values()
        .cloned()
        .map(Resource::AccessPolicy);
    services
        .chain(workloads)
        .chain(policies)
        .chain(access)
        .map(|resource| resource.to_value())
        .collect()
}

fn written() -> (TempDir, SnapshotFile, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let file = SnapshotFile::new(&folder.path().join("state")).unwrap();
    file.write("417", &resources()).unwrap();
    let bytes = fs::read(file.path()).unwrap();
    (folder, file, bytes)
}

fn refusal(file: &SnapshotFile, bytes: &[u8]) -> String {
    fs::write(file.path(), bytes).unwrap();
    let error = file.read().map(drop).unwrap_err();
    assert!(matches!(error, SnapshotError::Unusable { .. }), "{error}");
    error.to_string()
}

#[test]
fn what_is_written_is_read() {
    let (_folder, file, _) = written();
    let snapshot = file.read().unwrap().unwrap();
    assert_eq!(snapshot.version, "417");
    assert_eq!(documents(&snapshot.resources), documents(&resources()));
    assert_eq!(documents(&snapshot.resources).len(), 4);
    file.write("418", &Resources::default()).unwrap();
    let snapshot = file.read().unwrap().unwrap();
    assert_eq!(
        (snapshot.version.as_str(), documents(&snapshot.resources).len()),
        ("418", 0)
    );
}

#[test]
fn without_a_file_there_is_no_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    assert!(
        SnapshotFile::new(folder.path())
            .unwrap()
            .read()
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused() {
    let (_folder, file, bytes) = written();
    for length in 0..bytes.len() {
        refusal(&file, &bytes[..length]);
    }
}

#[test]
fn a_file_with_any_byte_changed_is_refused() {
    let (_folder, file, bytes) = written();
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 1;
        refusal(&file, &damaged);
    }
}

#[test]
fn another_format_is_named() {
    let (_folder, file, bytes) = written();
    let text = String::from_utf8(bytes).unwrap();
    let body =
        text[..text.rfind(TRAILER).unwrap()].replace("\"nodemesh_snapshot\":1", "\"nodemesh_snapshot\":2");
    let other = format!("{body}{TRAILER}{:08x}\n", crc32fast::hash(body.as_bytes()));
    let message = refusal(&file, other.as_bytes());
    assert!(
        message.contains("format 2") && message.contains("format 1"),
        "{message}"
    );
}

#[test]
fn a_sound_file_with_a_resource_that_is_none_is_refused() {
    let (_folder, file, bytes) = written();
    let text = String::from_utf8(bytes).unwrap();
    let body = text[..text.rfind(TRAILER).unwrap()].replace("\"port\":80", "\"port\":0");
    let other = format!("{body}{TRAILER}{:08x}\n", crc32fast::hash(body.as_bytes()));
    let message = refusal(&file, other.as_bytes());
    assert!(message.contains("port"), "{message}");
}

#[test]
fn an_unusable_file_is_set_aside_and_kept() {
    let (_folder, file, bytes) = written();
    fs::write(file.path(), &bytes[..9]).unwrap();
    let aside = file.set_aside().unwrap();
    assert_eq!(fs::read(aside).unwrap(), &bytes[..9]);
    assert!(file.read().unwrap().is_none());
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named_with_the_flag() {
    let folder = tempfile::tempdir().unwrap();
    let occupied = folder.path().join("file");
    fs::write(&occupied, "").unwrap();
    let error = SnapshotFile::new(&occupied.join("state"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("--state-dir"), "{error}");
}
