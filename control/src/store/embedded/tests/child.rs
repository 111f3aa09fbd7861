// SPDX-License-Identifier: Apache-2.0
//! A store in a process of its own: the binary of the tests, started again with one of the tests below.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;

use super::{clocks, full_disk};
use crate::store::{Precondition, Store, embedded::EmbeddedStore};

/// Where the store of the process is.
const PATH: &str = "NODEMESH_TEST_STORE";
pub(super) const WRITERS: usize = 8;

/// The command that runs the test `name` of this module on the store at `path`.
pub(super) fn command(name: &str, path: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    let module = module_path!().split_once("::").unwrap().1;
    command
        .args([
            "--exact",
            &format!("{module}::{name}"),
            "--ignored",
            "--nocapture",
        ])
        .env(PATH, path)
        .stdin(Stdio::null());
    command
}

/// Starts [`writes_until_killed`] on the store at `path`.
pub(super) fn writer(path: &Path) -> Child {
    command("writes_until_killed", path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The key that a writer writes as its `n`-th one.
pub(super) fn key(writer: usize, n: usize) -> String {
    format!("{writer}/{n:06}")
}

fn path() -> PathBuf {
    env::var_os(PATH).expect("other tests start this one").into()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the tests of crashes"]
async fn writes_until_killed() {
    let store = Arc::new(EmbeddedStore::open(&path()).unwrap());
    let writers = (0..WRITERS).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let written = store.list(&format!("{writer}/")).await.unwrap().items.len();
            for n in written.. {
                let value = Bytes::from(vec![b'x'; 100 + 37 * n % 3000]);
                let revision = store
                    .put(&key(writer, n), value, Precondition::Absent, None)
                    .await
                    .unwrap();
                let mut out = std::io::stdout().lock();
                writeln!(out, "acknowledged {writer} {n} {revision}").unwrap();
            }
        })
    });
    for writer in futures_util::future::join_all(writers).await {
        writer.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the test of a full disk"]
async fn fills_its_disk() {
    full_disk::fill(&path()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the test of clocks"]
async fn lives_in_another_time() {
    clocks::in_another_time(&path()).await;
}
