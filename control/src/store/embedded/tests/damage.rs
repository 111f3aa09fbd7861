// SPDX-License-Identifier: Apache-2.0
//! Files that are not what they should be.

use std::{fs, path::Path};

use redb::{Database, TableDefinition};
use tempfile::TempDir;

use super::{items, path, put};
use crate::store::{Item, StoreError, embedded::EmbeddedStore};

/// A store with enough in it that its trees have branches.
async fn sample(folder: &TempDir) -> (Vec<u8>, Vec<Item>) {
    let path = path(folder);
    let store = EmbeddedStore::open(&path).unwrap();
    let writes = (0..600).map(|n| {
        let key = format!("Service/models/service-with-a-name-of-some-length-{n}");
        let store = &store;
        async move { put(store, &key, None).await.unwrap() }
    });
    futures_util::future::join_all(writes).await;
    drop(store);
    let items = items(&path).await;
    (fs::read(&path).unwrap(), items)
}

fn refused(path: &Path, content: &[u8], what: &str) -> StoreError {
    fs::write(path, content).unwrap();
    let error = EmbeddedStore::open(path)
        .err()
        .unwrap_or_else(|| panic!("{what} is no store"));
    let text = error.to_string();
    assert!(text.contains(&*path.to_string_lossy()), "{text}");
    assert!(
        text.contains("restore") || text.contains("move the file away"),
        "{text}"
    );
    assert!(
        fs::read(path).unwrap() == content,
        "{what} was refused, and yet changed"
    );
    error
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let (whole, _) = sample(&folder).await;
    let mut lengths = vec![
        0,
        1,
        9,
        63,
        64,
        320,
        511,
        4095,
        4096,
        whole.len() / 2,
        whole.len() - 4096,
        whole.len() - 1,
    ];
    lengths.extend((0..30).map(|_| fastrand::usize(..whole.len())));
    for length in lengths {
        let error = refused(
            &path(&folder),
            &whole[..length],
            &format!("a file of {length} bytes"),
        );
        assert!(matches!(error, StoreError::Corrupt { .. }), "{length}: {error}");
    }
    fs::write(path(&folder), &whole).unwrap();
    assert_eq!(items(&path(&folder)).await.len(), 600);
}

#[tokio::test]
async fn a_damaged_file_is_refused_or_what_is_damaged_is_not_used() {
    let folder = TempDir::new().unwrap();
    let (whole, expected) = sample(&folder).await;
    let path = path(&folder);
    let mut refusals = 0;
    let places = (0..320).chain((0..400).map(|_| fastrand::usize(320..whole.len())));
    for place in places {
        let mut damaged = whole.clone();
        damaged[place] ^= 1 << fastrand::u32(..8);
        fs::write(&path, &damaged).unwrap();
        match EmbeddedStore::open(&path) {
            Ok(store) => {
                let found = crate::store::Store::list(&store, "").await.unwrap().items;
                assert!(
                    found == expected,
                    "byte {place} was damaged, and its value believed"
                );
            }
            Err(StoreError::Corrupt { .. } | StoreError::Format { .. }) => refusals += 1,
            Err(error) => panic!("byte {place}: {error}"),
        }
    }
    assert!(refusals > 20, "{refusals}");
}

#[tokio::test]
async fn what_is_no_store_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = path(&folder);
    for (content, what) in [
        (&b"a: b\n"[..], "YAML"),
        (&[0; 10_000], "zeroes"),
        (&[0xff; 4096], "ones"),
    ] {
        let error = refused(&path, content, what);
        assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {error}");
    }
    fs::remove_file(&path).unwrap();
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(TableDefinition::<u64, u64>::new("of somebody else"))
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(
        error.to_string().contains("no store of nodemesh-control"),
        "{error}"
    );
    let error = EmbeddedStore::open(folder.path()).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

#[tokio::test]
async fn a_file_of_another_format_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = path(&folder);
    drop(EmbeddedStore::open(&path).unwrap());
    let database = Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(
        matches!(&error, StoreError::Format { found, known: 1, .. } if found == "2"),
        "{error}"
    );
    assert!(
        error.to_string().contains("start the release that wrote it"),
        "{error}"
    );
}
