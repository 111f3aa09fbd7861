// SPDX-License-Identifier: Apache-2.0
//! A process that is killed while it writes.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
};

use tempfile::TempDir;

use super::{
    child::{WRITERS, key, writer},
    items, path,
};

const ROUNDS: usize = 12;

#[tokio::test]
async fn all_that_was_acknowledged_survives_kill_9() {
    let folder = TempDir::new().unwrap();
    let path = path(&folder);
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut child = writer(&path);
        let mut lines = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let told: Vec<String> = lines
            .by_ref()
            .filter(|line| is_told(line))
            .take(fastrand::usize(1..400))
            .collect();
        child.kill().unwrap();
        child.wait().unwrap();
        // What it could say before it died counts, too.
        for line in told.into_iter().chain(lines.filter(|line| is_told(line))) {
            let words: Vec<u64> = line
                .split(' ')
                .skip(1)
                .map(|word| word.parse().unwrap())
                .collect();
            let [writer, n, revision] = words[..] else {
                panic!("{line}")
            };
            acknowledged.insert(key(writer as usize, n as usize), revision);
        }
        let there = items(&path).await;
        let versions: BTreeMap<&str, u64> = there.iter().map(|item| (&*item.key, item.version.0)).collect();
        for (key, revision) in &acknowledged {
            assert_eq!(
                versions.get(&**key),
                Some(revision),
                "round {round}: {key} was acknowledged"
            );
        }
        for writer in 0..WRITERS {
            let prefix = format!("{writer}/");
            let of_writer: Vec<_> = there
                .iter()
                .filter(|item| item.key.starts_with(&prefix))
                .collect();
            for (n, item) in of_writer.iter().enumerate() {
                assert_eq!(
                    *item.key,
                    *key(writer, n),
                    "a writer's later write is not there without the earlier ones"
                );
                assert_eq!(item.value.len(), 100 + 37 * n % 3000);
            }
            let told = acknowledged.keys().filter(|key| key.starts_with(&prefix)).count();
            // One of each round may have been written and not acknowledged.
            assert!(
                (told..=told + round + 1).contains(&of_writer.len()),
                "{told} {}",
                of_writer.len()
            );
        }
    }
    assert!(acknowledged.len() > ROUNDS * 5, "{}", acknowledged.len());
}

/// Whether it is a line of ours, whole: the last one may be cut off by the kill.
fn is_told(line: &str) -> bool {
    line.starts_with("acknowledged ") && line.split(' ').count() == 4
}
