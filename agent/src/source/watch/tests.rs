// SPDX-License-Identifier: Apache-2.0
//! The watch over real files. An event is waited for; that there is none is told by the one that a later change causes.

use std::{fs::File, io::Write as _, os::unix::fs::symlink, time::Duration};

use tempfile::TempDir;
use tokio::time;

use super::*;

/// Long enough for the slowest machine: only a failure takes it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Scene {
    folder: TempDir,
    watch: SourceWatch,
}

impl Scene {
    /// A folder that `prepare` filled, with a watch of `watched` in it.
    fn new(watched: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let watch = SourceWatch::new(&folder.path().join(watched)).unwrap();
        Self { folder, watch }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits for the announcement of what was done before.
    async fn expect_change(&mut self, what: &str) {
        let change = time::timeout(PATIENCE, self.watch.changed());
        change
            .await
            .unwrap_or_else(|_| panic!("{what} was not announced"));
    }

    /// Takes the announcements that are on their way: the one of a mark comes after them.
    async fn quiet(&mut self) {
        for _ in 0..2 {
            write(&self.path("mark"), "");
            self.expect_change("a closed file").await;
        }
    }
}

/// What `act` does to a folder, as far as it matters: the names in the events, in order.
fn what_matters<T>(act: impl FnOnce(&Path) -> T) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("there"), "a");
    let (sender, events) = std::sync::mpsc::channel();
    let handler = move |event: notify::Result<Event>| {
        let event = event.unwrap();
        if matters(&event) {
            let _ = sender.send(event.paths[0].file_name().unwrap().to_str().unwrap().to_owned());
        }
    };
    let mut watcher = notify::recommended_watcher(handler).unwrap();
    watcher.watch(folder.path(), RecursiveMode::NonRecursive).unwrap();
    let _held = act(folder.path());
    // The kernel queues events in order.
    fs::create_dir(folder.path().join("end")).unwrap();
    let next = || events.recv_timeout(PATIENCE).unwrap();
    std::iter::from_fn(|| Some(next()).filter(|name| name != "end")).collect()
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_rename_into_place_is_announced() {
    let mut scene = Scene::new("mesh.yaml", |folder| write(&folder.join("mesh.yaml"), "a"));
    write(&scene.path("next"), "b");
    scene.quiet().await;
    fs::rename(scene.path("next"), scene.path("mesh.yaml")).unwrap();
    scene.expect_change("a rename").await;
}

#[test]
fn an_open_file_matters_when_it_is_closed() {
    let half_written = |folder: &Path| {
        let mut file = File::create(folder.join("open")).unwrap();
        file.write_all(b"half").unwrap();
        file.sync_all().unwrap();
        file
    };
    assert!(what_matters(half_written).is_empty());
    assert_eq!(what_matters(|folder| drop(half_written(folder))), ["open"]);
}

#[test]
fn reading_does_not_matter() {
    let read = |folder: &Path| drop(fs::read(folder.join("there")).unwrap());
    assert!(what_matters(read).is_empty());
}

#[tokio::test]
async fn files_of_a_folder_are_announced() {
    let mut scene = Scene::new("conf", |folder| fs::create_dir(folder.join("conf")).unwrap());
    write(&scene.path("conf/a.yaml"), "a");
    scene.expect_change("a new file").await;
    symlink("a.yaml", scene.path("conf/b.yaml")).unwrap();
    scene.expect_change("a new link").await;
    fs::remove_file(scene.path("conf/a.yaml")).unwrap();
    scene.expect_change("a removed file").await;
}

#[tokio::test]
async fn another_folder_in_the_place_of_the_watched_one_is_followed() {
    let mut scene = Scene::new("conf", |folder| fs::create_dir(folder.join("conf")).unwrap());
    fs::remove_dir(scene.path("conf")).unwrap();
    scene.expect_change("a removed folder").await;
    fs::create_dir(scene.path("conf")).unwrap();
    scene.expect_change("a new folder").await;
    scene.quiet().await;
    write(&scene.path("conf/a.yaml"), "a");
    scene.expect_change("a file in the new folder").await;
}

/// As the kubelet does it: `mesh.yaml` is a link to `..data/mesh.yaml`, and `..data` one to the version.
#[tokio::test]
async fn every_version_of_a_kubernetes_volume_is_announced() {
    let mut scene = Scene::new("mesh.yaml", |folder| {
        fs::create_dir(folder.join("..1")).unwrap();
        write(&folder.join("..1/mesh.yaml"), "1");
        symlink("..1", folder.join("..data")).unwrap();
        symlink("..data/mesh.yaml", folder.join("mesh.yaml")).unwrap();
    });
    for version in 2..5 {
        fs::create_dir(scene.path(&format!("..{version}"))).unwrap();
        write(&scene.path(&format!("..{version}/mesh.yaml")), "next");
        symlink(format!("..{version}"), scene.path("..data_tmp")).unwrap();
        scene.quiet().await;
        fs::rename(scene.path("..data_tmp"), scene.path("..data")).unwrap();
        scene.expect_change("a swapped link").await;
        fs::remove_dir_all(scene.path(&format!("..{}", version - 1))).unwrap();
    }
}

#[tokio::test]
async fn the_target_of_a_link_is_followed() {
    let mut scene = Scene::new("mesh.yaml", |folder| {
        for name in ["one", "two"] {
            fs::create_dir(folder.join(name)).unwrap();
            write(&folder.join(name).join("file"), name);
        }
        symlink("one/file", folder.join("mesh.yaml")).unwrap();
    });
    write(&scene.path("one/file"), "changed");
    scene.expect_change("a change behind the link").await;
    symlink("two/file", scene.path("next")).unwrap();
    fs::rename(scene.path("next"), scene.path("mesh.yaml")).unwrap();
    scene.quiet().await;
    write(&scene.path("two/file"), "changed");
    scene.expect_change("a change behind the new link").await;
}

#[test]
fn links_in_a_circle_end_somewhere() {
    let folder = tempfile::tempdir().unwrap();
    symlink("b", folder.path().join("a")).unwrap();
    symlink("a", folder.path().join("b")).unwrap();
    assert_eq!(
        folders(&folder.path().join("a")),
        BTreeSet::from([folder.path().to_owned()])
    );
}

#[test]
fn a_full_queue_counts_as_a_change() {
    let overflow = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
    assert!(matters(&overflow));
    assert!(!matters(&Event::new(EventKind::Other)));
}
