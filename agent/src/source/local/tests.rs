// SPDX-License-Identifier: Apache-2.0
//! What a reload does to the configuration in force and to its published status.

use std::{fs, path::PathBuf, sync::Arc};

use tempfile::TempDir;

use super::*;

fn service(port: &str) -> String {
    format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: chat}}\n\
         spec: {{addresses: [10.96.0.1], ports: [{{port: {port}}}]}}\n"
    )
}

fn file(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.yaml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn an_invalid_configuration_is_no_start() {
    let (_folder, path) = file(&service("0"));
    let errors = FileSource::load(&path, Locality::default()).unwrap_err();
    assert!(
        errors[0].contains("mesh.yaml") && errors[0].contains("port"),
        "{errors:?}"
    );
}

#[test]
fn the_last_good_configuration_stays_until_a_better_one_comes() {
    let (_folder, path) = file(&service("80"));
    let mut source = FileSource::load(&path, Locality::default()).unwrap();
    let status = source.status();
    let (first, generation) = source.desired();
    assert_eq!((generation, first.frontends.len()), (1, 1));

    fs::write(&path, service("nonsense")).unwrap();
    assert!(!source.reload(&BTreeSet::new()));
    assert!(Arc::ptr_eq(&source.desired().0, &first));
    let refused = status.borrow().clone();
    assert_eq!(
        (refused.generation, refused.reloads_ok, refused.reloads_failed),
        (1, 1, 1)
    );
    assert!(refused.errors[0].contains("mesh.yaml"), "{:?}", refused.errors);
    assert!(refused.tried_at >= refused.loaded_at);

    fs::write(&path, service("81")).unwrap();
    assert!(source.reload(&BTreeSet::new()));
    let (second, generation) = source.desired();
    assert_eq!(generation, 2);
    assert_ne!(second.frontends.keys().next(), first.frontends.keys().next());
    let accepted = status.borrow().clone();
    assert_eq!(
        (accepted.generation, accepted.reloads_ok, accepted.reloads_failed),
        (2, 2, 1)
    );
    assert!(accepted.errors.is_empty());
}

#[test]
fn a_reload_of_nothing_new_is_none() {
    let (_folder, path) = file(&service("80"));
    let mut source = FileSource::load(&path, Locality::default()).unwrap();
    let status = source.status();
    assert!(!source.reload(&BTreeSet::new()));
    let status = status.borrow().clone();
    assert_eq!(
        (status.generation, status.reloads_ok, status.reloads_failed),
        (1, 1, 0)
    );
}
