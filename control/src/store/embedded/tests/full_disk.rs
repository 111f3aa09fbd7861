// SPDX-License-Identifier: Apache-2.0
//! A disk that is full: a small tmpfs in a mount namespace of its own.

use std::{fs, path::Path, process::Command, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tempfile::TempDir;

use super::child;
use crate::store::{Precondition, Revision, Store as _, StoreError, embedded::EmbeddedStore};

/// A key, and when it was written.
type Written = (String, Revision);

const SIZE_BYTES: usize = 8 << 20;
const BALLAST_BYTES: usize = 4 << 20;

#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.redb");
    let inner = child::command("fills_its_disk", &path);
    let mount = format!("mount -t tmpfs -o size={SIZE_BYTES} tmpfs \"$1\" && shift && exec \"$@\"");
    let is_root = nix::unistd::geteuid().is_root();
    let mut command = Command::new("unshare");
    command
        .arg(if is_root { "-m" } else { "-rm" })
        .args(["sh", "-c", &mount, "sh"]);
    command
        .arg(folder.path())
        .arg(inner.get_program())
        .args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert!(!path.exists(), "the disk was another one");
}

/// What the process on the small disk does.
pub(super) async fn fill(path: &Path) {
    let ballast = path.with_file_name("ballast");
    let store = EmbeddedStore::open(path).unwrap();
    let lease = store.grant(Duration::from_secs(600)).await.unwrap();
    fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
    let mut there = until_full(&store).await;
    assert!(there.len() > 8, "{}", there.len());
    assert_eq!(
        found(&store).await,
        there,
        "what was acknowledged is there, and nothing else"
    );
    for _ in 0..20 {
        let error = write(&store, 9999).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Full { .. }),
            "it stays an error: {error}"
        );
        assert!(error.to_string().contains("store.redb: no room"), "{error}");
    }
    assert_eq!(store.renew(lease.id).await.unwrap(), lease, "leases need no room");
    let (freed, _) = there.remove(0);
    store.delete(&freed, Precondition::Any).await.unwrap();
    fs::remove_file(&ballast).unwrap();
    there.push(write(&store, 9999).await.expect("there is room again"));
    assert_eq!(found(&store).await, there);
    drop(store);
    assert_eq!(found(&EmbeddedStore::open(path).unwrap()).await, there);
}

/// What was acknowledged until nothing more fits.
async fn until_full(store: &EmbeddedStore) -> Vec<Written> {
    let mut there = Vec::new();
    for group in 0..1000 {
        let results = join_all((0..4).map(|n| write(store, group * 4 + n))).await;
        let is_full = results.iter().any(Result::is_err);
        for result in results {
            match result {
                Ok(written) => there.push(written),
                Err(error) => assert!(matches!(error, StoreError::Full { .. }), "{error}"),
            }
        }
        if is_full {
            break;
        }
    }
    // What is too much together may fit alone.
    for n in 5000.. {
        match write(store, n).await {
            Ok(written) => there.push(written),
            Err(StoreError::Full { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    there
}

async fn write(store: &EmbeddedStore, n: usize) -> Result<Written, StoreError> {
    let key = format!("{n:04}");
    let value = Bytes::from(vec![b'x'; 20_000]);
    let revision = store.put(&key, value, Precondition::Absent, None).await?;
    Ok((key, revision))
}

async fn found(store: &EmbeddedStore) -> Vec<Written> {
    let items = store.list("").await.unwrap().items;
    items
        .into_iter()
        .map(|item| (item.key.to_string(), item.version))
        .collect()
}
