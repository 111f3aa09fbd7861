// SPDX-License-Identifier: Apache-2.0
//! Files as editors, deployment tools and Kubernetes leave them.

use std::os::unix::fs::symlink;

use nodemesh_model::ResourceName;
use tempfile::TempDir;

use super::*;

/// A manifest with one service of this name.
fn service(name: &str) -> String {
    // An address of its own, since two services must not share one.
    let octet = name.bytes().fold(0_u8, u8::wrapping_add);
    format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{addresses: [10.96.0.{octet}], ports: [{{port: 80}}]}}\n"
    )
}

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn names(resources: &Resources) -> Vec<&str> {
    resources.services().keys().map(ResourceName::name).collect()
}

/// Reads, which must give these services.
fn assert_services(files: &mut ManifestFiles, expected: &[&str]) {
    let resources = files.read(&BTreeSet::new()).unwrap().expect("something changed");
    assert_eq!(names(&resources), expected);
}

#[test]
fn manifests_of_a_folder_are_merged_and_others_ignored() {
    let folder = folder(&[
        ("b.yml", &service("b")),
        ("a.yaml", &service("a")),
        (".hidden.yaml", "no: manifest"),
        ("a.yaml.bak", "no: manifest"),
        ("notes.txt", "no: manifest"),
    ]);
    fs::create_dir(folder.path().join("sub.yaml")).unwrap();
    let mut files = ManifestFiles::new(folder.path());
    assert_services(&mut files, &["a", "b"]);
}

#[test]
fn what_has_not_changed_is_none() {
    let folder = folder(&[("a.yaml", &service("a"))]);
    let mut files = ManifestFiles::new(folder.path());
    assert_services(&mut files, &["a"]);
    assert!(files.read(&BTreeSet::new()).unwrap().is_none());
    fs::write(folder.path().join("other.txt"), "x").unwrap();
    assert!(files.read(&BTreeSet::new()).unwrap().is_none());
}

#[test]
fn only_a_changed_file_is_parsed_again() {
    let folder = folder(&[("a.yaml", &service("a")), ("b.yaml", &service("b"))]);
    let mut files = ManifestFiles::new(folder.path());
    let before = files.read(&BTreeSet::new()).unwrap().unwrap();
    fs::write(folder.path().join("b.yaml"), service("c")).unwrap();
    let after = files.read(&BTreeSet::new()).unwrap().unwrap();
    assert_eq!(names(&after), ["a", "c"]);
    let of_a = |resources: &Resources| resources.services().values().next().unwrap().clone();
    assert!(std::sync::Arc::ptr_eq(&of_a(&before), &of_a(&after)));
}

#[test]
fn a_file_that_is_removed_takes_its_resources_along() {
    let folder = folder(&[("a.yaml", &service("a")), ("b.yaml", &service("b"))]);
    let mut files = ManifestFiles::new(folder.path());
    assert_services(&mut files, &["a", "b"]);
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    assert_services(&mut files, &["b"]);
    assert!(files.read(&BTreeSet::new()).unwrap().is_none());
}

#[test]
fn a_half_written_file_is_refused_and_taken_when_it_is_complete() {
    let folder = folder(&[("a.yaml", &service("a"))]);
    let mut files = ManifestFiles::new(&folder.path().join("a.yaml"));
    assert_services(&mut files, &["a"]);
    let (text, path) = (service("b"), folder.path().join("a.yaml"));
    let half = &text[..text.len() - 12];
    fs::write(&path, half).unwrap();
    let errors = files.read(&BTreeSet::new()).unwrap_err();
    assert!(
        errors[0].starts_with(&format!("{}: document 1", path.display())),
        "{errors:?}"
    );
    // The same once more is the same error, not a new one.
    assert!(files.read(&BTreeSet::new()).unwrap().is_none());
    fs::write(&path, &text).unwrap();
    assert_services(&mut files, &["b"]);
}

#[test]
fn an_empty_file_is_refused_and_one_with_a_comment_is_not() {
    let folder = folder(&[("a.yaml", "")]);
    let path = folder.path().join("a.yaml");
    let mut files = ManifestFiles::new(folder.path());
    let errors = files.read(&BTreeSet::new()).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("a.yaml: the file is empty"), "{errors:?}");
    fs::write(&path, "# nothing yet\n").unwrap();
    assert_services(&mut files, &[]);
}

#[test]
fn every_bad_file_is_named() {
    let folder = folder(&[
        ("a.yaml", "kind: ["),
        ("b.yaml", &service("b")),
        ("c.yaml", "kind: ]"),
    ]);
    let errors = ManifestFiles::new(folder.path())
        .read(&BTreeSet::new())
        .unwrap_err();
    assert!(errors.iter().any(|line| line.contains("a.yaml")), "{errors:?}");
    assert!(errors.iter().any(|line| line.contains("c.yaml")), "{errors:?}");
    assert!(!errors.iter().any(|line| line.contains("b.yaml")), "{errors:?}");
}

#[test]
fn a_path_that_is_not_there_is_named_with_the_remedy() {
    let folder = folder(&[]);
    let path = folder.path().join("a.yaml");
    let errors = ManifestFiles::new(&path).read(&BTreeSet::new()).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with(&path.display().to_string()) && errors[0].contains("--config"),
        "{errors:?}"
    );
}

#[test]
fn files_that_come_back_as_they_were_are_good_again() {
    let outer = folder(&[]);
    let (conf, away) = (outer.path().join("conf"), outer.path().join("away"));
    fs::create_dir(&conf).unwrap();
    fs::write(conf.join("a.yaml"), service("a")).unwrap();
    let mut files = ManifestFiles::new(&conf);
    assert_services(&mut files, &["a"]);
    fs::rename(&conf, &away).unwrap();
    files.read(&BTreeSet::new()).unwrap_err();
    fs::rename(&away, &conf).unwrap();
    assert_services(&mut files, &["a"]);
}

#[test]
fn a_change_beside_an_unreadable_file_is_not_lost() {
    let folder = folder(&[("a.yaml", &service("a")), ("b.yaml", &service("b"))]);
    let (other, link) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
    let mut files = ManifestFiles::new(folder.path());
    assert_services(&mut files, &["a", "b"]);
    fs::write(&other, service("c")).unwrap();
    fs::write(&link, "").unwrap();
    files.read(&BTreeSet::new()).unwrap_err();
    fs::remove_file(&link).unwrap();
    assert_services(&mut files, &["c"]);
}

/// As the kubelet does it: the files are links through `..data`, which is swapped for another folder.
#[test]
fn a_kubernetes_volume_is_read_through_its_links() {
    let folder = folder(&[]);
    let put = |version: &str, name: &str| {
        let (data, next) = (folder.path().join(version), folder.path().join("..data_tmp"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("mesh.yaml"), service(name)).unwrap();
        symlink(version, &next).unwrap();
        fs::rename(next, folder.path().join("..data")).unwrap();
    };
    put("..1", "a");
    symlink("..data/mesh.yaml", folder.path().join("mesh.yaml")).unwrap();
    for path in [folder.path().to_owned(), folder.path().join("mesh.yaml")] {
        let mut files = ManifestFiles::new(&path);
        assert!(files.read(&BTreeSet::new()).unwrap().is_some());
        assert!(files.read(&BTreeSet::new()).unwrap().is_none());
    }
    let mut files = ManifestFiles::new(folder.path());
    assert_services(&mut files, &["a"]);
    put("..2", "b");
    assert_services(&mut files, &["b"]);
}

#[test]
fn a_file_that_somebody_writes_is_taken_as_it_was() {
    let folder = folder(&[("a.yaml", &service("a"))]);
    let mut files = ManifestFiles::new(folder.path());
    files.read(&BTreeSet::new()).unwrap().unwrap();
    let path = folder.path().join("a.yaml");
    fs::write(&path, "half of").unwrap();
    fs::write(folder.path().join("b.yaml"), service("b")).unwrap();
    let unfinished = BTreeSet::from([fs::canonicalize(&path).unwrap()]);
    assert_eq!(names(&files.read(&unfinished).unwrap().unwrap()), ["a", "b"]);
    fs::write(&path, service("c")).unwrap();
    assert_eq!(names(&files.read(&BTreeSet::new()).unwrap().unwrap()), ["b", "c"]);
}

#[test]
fn a_folder_without_manifests_is_refused() {
    let errors = ManifestFiles::new(folder(&[("notes.txt", "")]).path())
        .read(&BTreeSet::new())
        .unwrap_err();
    assert!(
        errors[0].contains("no *.yaml or *.yml file is in it"),
        "{errors:?}"
    );
}
