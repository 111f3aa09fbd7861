// SPDX-License-Identifier: Apache-2.0
//! Clocks that jump: a process whose monotonic clock is a year ahead, as after the move of a store to another machine. The wall
//! clock is not read at all.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{child, path, put};
use crate::store::{Store as _, embedded::EmbeddedStore};

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(2);
const YEAR_S: &str = "31536000";

#[tokio::test]
async fn leases_last_as_long_as_they_should_when_clocks_jump() {
    let folder = TempDir::new().unwrap();
    let path = path(&folder);
    let store = EmbeddedStore::open(&path).unwrap();
    let long = store.grant(LONG).await.unwrap();
    put(&store, "from here", Some(long.id)).await.unwrap();
    drop(store);

    let inner = child::command("lives_in_another_time", &path);
    let is_root = nix::unistd::geteuid().is_root();
    let output = Command::new("unshare")
        .args([
            if is_root { "-T" } else { "-rT" },
            "--monotonic",
            YEAR_S,
            "--boottime",
            YEAR_S,
            "--fork",
        ])
        .arg(inner.get_program())
        .args(inner.get_args())
        .envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");

    let (store, start) = (EmbeddedStore::open(&path).unwrap(), Instant::now());
    assert!(
        store.get("from there").await.unwrap().is_some(),
        "its time begins when it can be renewed"
    );
    while store.get("from there").await.unwrap().is_some() {
        assert!(
            start.elapsed() < SHORT + Duration::from_secs(1),
            "it expires a second after its time at most"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.renew(long.id).await.unwrap(), long);
}

/// What the process in another time does.
pub(super) async fn in_another_time(path: &Path) {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    assert!(
        uptime.split('.').next().unwrap().parse::<u64>().unwrap() > 31_536_000,
        "{uptime}"
    );
    let store = EmbeddedStore::open(path).unwrap();
    let short = store.grant(SHORT).await.unwrap();
    put(&store, "from there", Some(short.id)).await.unwrap();
    // Leases that are over would have ended with that write.
    assert!(store.get("from here").await.unwrap().is_some());
}
