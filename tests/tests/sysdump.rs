// SPDX-License-Identifier: Apache-2.0
//! `nodemesh sysdump`: what is in the archive, with and without an agent, and that planted secrets are not.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use nodemesh_e2e::single_node::{SingleNode, said};

const SECRETS: [&str; 4] = [
    "plantedPassword1",
    "plantedToken22",
    "plantedBearer333",
    "plantedKey4444",
];

/// The files of an archive by their names, as `tar` unpacks them.
fn unpack(archive: &Path) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar");
    let unpacked = tar
        .arg("-xzf")
        .arg(archive)
        .arg("-C")
        .arg(folder.path())
        .arg("--strip-components=1")
        .output()
        .unwrap();
    assert!(unpacked.status.success(), "{}", said(&unpacked));
    let mut files = BTreeMap::new();
    let mut waiting = vec![folder.path().to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(folder.path()).unwrap().display().to_string();
                files.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    files
}

fn dump(scene: &SingleNode) -> BTreeMap<String, String> {
    let archive = scene.agent.config().with_file_name("dump.tar.gz");
    let _ = fs::remove_file(&archive);
    let output = scene
        .agent
        .cli(&[
            "sysdump",
            "--file",
            archive.to_str().unwrap(),
            "--config",
            scene.agent.config().to_str().unwrap(),
            "--pin-dir",
            scene.node.pins().path().to_str().unwrap(),
            "--cgroup",
            scene.node.cgroup().to_str().unwrap(),
        ])
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    unpack(&archive)
}

#[test]
fn the_archive_has_what_is_needed_and_no_secret() {
    let [password, token, bearer, key] = SECRETS;
    let mut scene = SingleNode::configured();
    let comment = format!(
        "# password: {password}\n# apiToken = \"{token}\"\n# curl -H 'Authorization: Bearer {bearer}'\n\
         # -----BEGIN PRIVATE KEY-----\n# {key}\n# -----END PRIVATE KEY-----\n"
    );
    scene
        .agent
        .configure(&(comment + &scene.service("a", 8000, &[0])))
        .unwrap();
    scene.agent.start(&[]).unwrap();
    // The agent's log has what came in an error.
    let wrong = scene
        .agent
        .cli(&["log", "--agent", &format!("secret={password}")])
        .unwrap();
    drop(wrong);
    let held = scene.hold(8000, 2);
    let files = dump(&scene);
    drop(held);
    for (name, words) in [
        ("version.txt", "ABI"),
        ("check.json", "\"verdict\": \"ok\""),
        ("agent/status.json", "\"ready\":true"),
        ("agent/settings.json", "\"pin-dir\""),
        ("agent/services.json", "models/a"),
        ("agent/connections.json", &scene.replica(0)),
        ("agent/metrics.txt", "nodemesh_build_info"),
        ("agent/log.txt", "ready"),
        ("agent/events.json", ""),
        ("kernel/programs.txt", "\tconnect4\t"),
        ("kernel/maps.txt", "services"),
        ("kernel/pins.txt", "links/connect4"),
        ("host/mounts.txt", "cgroup2"),
        ("config/mesh.yaml", "kind: Service"),
    ] {
        let text = files
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", files.keys()));
        assert!(
            text.contains(words) && !text.starts_with("not available"),
            "{name}: {text}"
        );
    }
    for (name, text) in &files {
        for secret in SECRETS {
            assert!(!text.contains(secret), "{secret} is in {name}:\n{text}");
        }
    }
    assert!(files["config/mesh.yaml"].contains("[removed]"));
}

#[test]
fn an_archive_without_an_agent_says_what_is_missing() {
    let scene = SingleNode::configured();
    let files = dump(&scene);
    assert!(files["agent/status.json"].starts_with("not available: no agent answers at "));
    assert!(files["check.json"].contains("\"in_flight\": false"));
    assert!(files["config/mesh.yaml"].contains("kind: Service"));
    let twice = scene.agent.config().with_file_name("dump.tar.gz");
    let refused = scene
        .agent
        .cli(&["sysdump", "--file", twice.to_str().unwrap()])
        .unwrap();
    assert!(!refused.status.success() && said(&refused).contains("--file names another place"));
}
