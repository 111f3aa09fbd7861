// SPDX-License-Identifier: Apache-2.0
//! The configuration changes while the agent runs: what is valid takes effect as a whole, anything else changes nothing.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use nodemesh_agent::api::{ConfigState, Status};
use nodemesh_e2e::{
    eventually::eventually,
    single_node::{DIRECT, SingleNode, said},
};

/// A scene whose agent runs with a folder of one file, `a.yaml`, with the service `a` of `r0` on port 8000.
fn started_with_folder() -> (SingleNode, PathBuf) {
    let mut scene = SingleNode::new();
    let folder = scene.agent.config().with_file_name("mesh.d");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), scene.service("a", 8000, &[0])).unwrap();
    scene
        .agent
        .start(&["--config", &folder.display().to_string()])
        .unwrap();
    (scene, folder)
}

/// Puts a file in place by a rename.
fn put(file: &Path, text: &str) {
    let next = file.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, file).unwrap();
}

/// Waits for a status that is right.
fn status(scene: &SingleNode, what: &str, is_right: impl Fn(&Status) -> bool) -> Status {
    eventually(what, || scene.agent.status().unwrap(), is_right)
}

/// Waits until the kernel has the configuration of this number, and no later one.
fn wait_for_generation(scene: &SingleNode, generation: u64) {
    let status = status(scene, "the configuration", |status| {
        status.config.applied_generation >= generation
    });
    let config = &status.config;
    assert_eq!(
        (config.state, config.generation),
        (ConfigState::Ok, generation),
        "{config:?}"
    );
    assert!(
        config.errors.is_empty() && status.problems.is_empty(),
        "{status:?}"
    );
}

/// Whether the last reload took effect, and how many did and did not, as the metrics say.
fn reloads(scene: &SingleNode) -> (u64, u64, u64) {
    let scrape = scene.scrape();
    let by_outcome = |outcome| scrape.count("nodemesh_config_reloads_total", &[("outcome", outcome)]);
    let successful = scrape.count("nodemesh_config_last_reload_successful", &[]);
    (successful, by_outcome("ok"), by_outcome("invalid"))
}

/// Checks that the reload was refused, that everybody is told, and that `r0` still answers on port 8000.
fn assert_refused(scene: &SingleNode, generation: u64, message: &str) {
    let status = status(scene, "the refusal", |status| {
        status.config.state == ConfigState::Invalid
    });
    let config = &status.config;
    assert_eq!(
        (config.generation, config.applied_generation),
        (generation, generation),
        "{config:?}"
    );
    assert!(
        config.errors.iter().any(|line| line.contains(message)),
        "{config:?}"
    );
    assert!(status.ready && status.problems.len() == 1, "{status:?}");
    let output = scene.agent.cli(&["status"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains(message) && said(&output).contains("INVALID"),
        "{}",
        said(&output)
    );
    let log = scene.agent.process();
    log.wait_for_log(|line| line.contains("the last good one stays in force"))
        .unwrap();
    log.wait_for_log(|line| line.contains("ERROR") && line.contains(message))
        .unwrap();
    let (successful, _, invalid) = reloads(scene);
    assert!(successful == 0 && invalid > 0);
    assert_eq!(
        scene.agent.http(&scene.node, "/readyz").unwrap().0,
        200,
        "it still serves"
    );
    assert!(scene.is_answered_by(8000, "r0"));
}

#[test]
fn a_file_renamed_into_place_takes_effect() {
    let scene = SingleNode::started(|scene| scene.service("a", 8000, &[0]), &[]);
    wait_for_generation(&scene, 1);
    assert!(scene.is_answered_by(8000, "r0"));
    scene.agent.configure(&scene.service("a", 8000, &[1])).unwrap();
    wait_for_generation(&scene, 2);
    assert!(scene.is_answered_by(8000, "r1"));
    scene
        .agent
        .configure(&(scene.service("a", 8000, &[1]) + &scene.service("b", 8001, &[0])))
        .unwrap();
    wait_for_generation(&scene, 3);
    assert!(scene.is_answered_by(8000, "r1") && scene.is_answered_by(8001, "r0"));
}

#[test]
fn a_file_rewritten_in_place_takes_effect_when_it_is_closed() {
    let scene = SingleNode::started(|scene| scene.service("a", 8000, &[0]), &[]);
    fs::write(scene.agent.config(), scene.service("a", 8000, &[1])).unwrap();
    wait_for_generation(&scene, 2);
    assert!(scene.is_answered_by(8000, "r1"));
}

/// A volume as the kubelet makes it: `mesh.yaml` is a link through `..data`, which names the version in force.
struct Volume {
    folder: PathBuf,
}

impl Volume {
    fn new(scene: &SingleNode) -> Self {
        let folder = scene.agent.config().with_file_name("volume");
        fs::create_dir(&folder).unwrap();
        symlink("..data/mesh.yaml", folder.join("mesh.yaml")).unwrap();
        let volume = Self { folder };
        volume.update("..1", &scene.service("a", 8000, &[0]));
        volume
    }

    /// Writes a new version, swaps the link, and removes the former version.
    fn update(&self, version: &str, text: &str) {
        let (data, next) = (self.folder.join("..data"), self.folder.join("..data_tmp"));
        let former = fs::read_link(&data).ok();
        fs::create_dir(self.folder.join(version)).unwrap();
        fs::write(self.folder.join(version).join("mesh.yaml"), text).unwrap();
        symlink(version, &next).unwrap();
        fs::rename(next, data).unwrap();
        if let Some(former) = former {
            fs::remove_dir_all(self.folder.join(former)).unwrap();
        }
    }

    /// Checks that updates take effect when `--config` is `path`.
    fn assert_followed(&self, mut scene: SingleNode, path: &Path) {
        scene
            .agent
            .start(&["--config", &path.display().to_string()])
            .unwrap();
        assert!(scene.is_answered_by(8000, "r0"));
        for (generation, version, replica) in [(2, "..2", 1), (3, "..3", 0)] {
            self.update(version, &scene.service("a", 8000, &[replica]));
            wait_for_generation(&scene, generation);
            assert!(scene.is_answered_by(8000, &format!("r{replica}")));
        }
    }
}

#[test]
fn a_folder_that_kubernetes_updates_takes_effect() {
    let scene = SingleNode::new();
    let volume = Volume::new(&scene);
    volume.assert_followed(scene, &volume.folder);
}

#[test]
fn a_file_that_kubernetes_updates_takes_effect() {
    let scene = SingleNode::new();
    let volume = Volume::new(&scene);
    volume.assert_followed(scene, &volume.folder.join("mesh.yaml"));
}

#[test]
fn a_folder_put_in_the_place_of_another_takes_effect() {
    let (scene, folder) = started_with_folder();
    let next = folder.with_extension("next");
    fs::create_dir(&next).unwrap();
    fs::write(next.join("a.yaml"), scene.service("a", 8000, &[1])).unwrap();
    fs::rename(&folder, folder.with_extension("former")).unwrap();
    fs::rename(&next, &folder).unwrap();
    wait_for_generation(&scene, 2);
    assert!(scene.is_answered_by(8000, "r1"));
    // The new folder is watched as the former one was.
    put(&folder.join("a.yaml"), &scene.service("a", 8000, &[0]));
    wait_for_generation(&scene, 3);
}

#[test]
fn an_invalid_file_leaves_the_last_good_one_in_force() {
    let scene = SingleNode::started(|scene| scene.service("a", 8000, &[0]), &[]);
    let invalid = scene.service_of("a", 8000, &scene.backend(1, ", weight: 0"));
    scene.agent.configure(&invalid).unwrap();
    assert_refused(
        &scene,
        1,
        "mesh.yaml: document 1, Service models/a, spec.backends[0].weight: weight is 0",
    );
    assert_eq!(reloads(&scene), (0, 1, 1));
    // Half of it valid is not half in force.
    scene
        .agent
        .configure(&(scene.service("b", 8001, &[0]) + &invalid))
        .unwrap();
    eventually(
        "the second refusal",
        || reloads(&scene),
        |reloads| *reloads == (0, 1, 2),
    );
    assert!(scene.is_answered_by(8001, DIRECT));
    assert_refused(&scene, 1, "mesh.yaml: document 2, Service models/a");

    scene.agent.configure(&scene.service("a", 8000, &[1])).unwrap();
    wait_for_generation(&scene, 2);
    assert!(scene.is_answered_by(8000, "r1"));
    assert_eq!(reloads(&scene), (1, 2, 2));
    assert_eq!(scene.scrape().count("nodemesh_config_generation", &[]), 2);
    assert!(scene.agent.cli(&["status"]).unwrap().status.success());
}

#[test]
fn a_good_file_back_after_a_bad_one_is_good_again() {
    let scene = SingleNode::started(|scene| scene.service("a", 8000, &[0]), &[]);
    scene.agent.configure("nonsense").unwrap();
    assert_refused(&scene, 1, "mesh.yaml: document 1: is the text \"nonsense\"");
    scene.agent.configure(&scene.service("a", 8000, &[0])).unwrap();
    wait_for_generation(&scene, 2);
}

#[test]
fn a_file_that_is_gone_leaves_the_last_good_one_in_force() {
    let scene = SingleNode::started(|scene| scene.service("a", 8000, &[0]), &[]);
    fs::remove_file(scene.agent.config()).unwrap();
    assert_refused(&scene, 1, "mesh.yaml: No such file or directory");
    scene.agent.configure(&scene.service("a", 8000, &[1])).unwrap();
    wait_for_generation(&scene, 2);
    assert!(scene.is_answered_by(8000, "r1"));
}

#[test]
fn a_folder_in_the_place_of_the_file_leaves_the_last_good_one_in_force() {
    let scene = SingleNode::started(|scene| scene.service("a", 8000, &[0]), &[]);
    let (file, folder) = (scene.agent.config(), scene.agent.config().with_extension("d"));
    fs::create_dir(&folder).unwrap();
    fs::remove_file(&file).unwrap();
    fs::rename(&folder, &file).unwrap();
    // An empty folder is not the wish for no services.
    assert_refused(&scene, 1, "mesh.yaml");
    fs::remove_dir(&file).unwrap();
    scene.agent.configure(&scene.service("a", 8000, &[1])).unwrap();
    wait_for_generation(&scene, 2);
    assert!(scene.is_answered_by(8000, "r1"));
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    let (scene, folder) = started_with_folder();
    let text = scene.service("a", 8000, &[1]) + &scene.service("c", 8002, &[1]);
    let half = text.len() / 2;
    let mut open = File::create(folder.join("a.yaml")).unwrap();
    open.write_all(&text.as_bytes()[..half]).unwrap();
    open.sync_all().unwrap();
    // Another file proves that the agent is awake, and must not make it look at the open one.
    put(&folder.join("b.yaml"), &scene.service("b", 8001, &[0]));
    wait_for_generation(&scene, 2);
    assert!(scene.is_answered_by(8001, "r0"));
    assert!(scene.is_answered_by(8000, "r0") && scene.is_answered_by(8002, DIRECT));
    open.write_all(&text.as_bytes()[half..]).unwrap();
    drop(open);
    wait_for_generation(&scene, 3);
    assert!(scene.is_answered_by(8000, "r1") && scene.is_answered_by(8002, "r1"));
}

#[test]
fn files_of_a_folder_come_and_go() {
    let (scene, folder) = started_with_folder();
    put(&folder.join("b.yml"), &scene.service("b", 8001, &[1]));
    wait_for_generation(&scene, 2);
    fs::write(folder.join("c.yaml"), scene.service("c", 8002, &[1])).unwrap();
    wait_for_generation(&scene, 3);
    // Neither hidden files nor other names count.
    fs::write(folder.join(".d.yaml"), "nonsense").unwrap();
    fs::write(folder.join("d.yaml~"), "nonsense").unwrap();
    fs::remove_file(folder.join("a.yaml")).unwrap();
    wait_for_generation(&scene, 4);
    let named: Vec<String> = scene
        .agent
        .services()
        .unwrap()
        .into_iter()
        .map(|service| service.service)
        .collect();
    assert_eq!(named, ["models/b", "models/c"]);
    assert!(scene.is_answered_by(8000, DIRECT));
    assert!(scene.is_answered_by(8001, "r1") && scene.is_answered_by(8002, "r1"));
    // An error in one file holds all of them back, and names the file.
    put(&folder.join("b.yml"), &scene.service("c", 8002, &[0]));
    let refused = status(&scene, "the refusal", |status| {
        status.config.state == ConfigState::Invalid
    });
    let expected = "c.yaml: document 1, Service models/c: is defined twice, first in ";
    assert!(
        refused.config.errors[0].contains(expected),
        "{:?}",
        refused.config
    );
    fs::remove_file(folder.join("c.yaml")).unwrap();
    wait_for_generation(&scene, 5);
    assert!(scene.is_answered_by(8001, DIRECT) && scene.is_answered_by(8002, "r0"));
}

#[test]
fn what_has_not_changed_is_not_reloaded() {
    let (scene, folder) = started_with_folder();
    // A file of no manifest announces itself like any other; the next generation shows that it made none.
    fs::write(folder.join("notes.txt"), "nothing").unwrap();
    put(&folder.join("b.yaml"), &scene.service("b", 8001, &[1]));
    wait_for_generation(&scene, 2);
    assert_eq!(reloads(&scene), (1, 2, 0));
}
