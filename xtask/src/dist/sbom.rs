// SPDX-License-Identifier: Apache-2.0
//! The bill of materials of a release in `CycloneDX` 1.5: every crate that is linked in, the kernel programs' included, as cargo resolved them.
//!
//! Invariant: made of `cargo metadata` and `Cargo.lock` alone; the same sources give the same bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{process, workspace};

/// The document, about what `packages` and the kernel programs need on `target`.
pub(crate) fn make(packages: &[&str], target: &str) -> Result<String> {
    let mut cargo = workspace::cargo("metadata")?;
    cargo.args(["--format-version", "1", "--locked", "--filter-platform", target]);
    let metadata: Value =
        serde_json::from_str(&process::capture(&mut cargo)?).context("read cargo's metadata")?;
    let lock = workspace::root().join("Cargo.lock");
    let lock = fs::read_to_string(&lock).with_context(|| format!("read {}", lock.display()))?;
    let roots: Vec<&str> = packages
        .iter()
        .copied()
        .chain([workspace::EBPF_PACKAGE])
        .collect();
    let document = document(&metadata, &checksums(&lock), &roots);
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn document(metadata: &Value, checksums: &BTreeMap<(String, String), String>, roots: &[&str]) -> Value {
    let linked = linked(metadata, roots);
    let packages: Vec<&Value> = array(&metadata["packages"])
        .iter()
        .filter(|package| linked.contains_key(text(&package["id"])))
        .collect();
    let mut components: Vec<Value> = packages
        .iter()
        .map(|package| component(package, checksums))
        .collect();
    components.sort_by(|a, b| text(&a["bom-ref"]).cmp(text(&b["bom-ref"])));
    let urls: BTreeMap<&str, String> = packages
        .iter()
        .map(|package| (text(&package["id"]), url(package)))
        .collect();
    let dependencies: BTreeMap<&String, Vec<&String>> = linked
        .iter()
        .filter_map(|(id, on)| Some((urls.get(id)?, on.iter().filter_map(|id| urls.get(id)).collect())))
        .collect();
    let dependencies: Vec<Value> = dependencies
        .iter()
        .map(|(from, on)| json!({ "ref": from, "dependsOn": on }))
        .collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": { "type": "application", "name": "nodemesh", "version": env!("CARGO_PKG_VERSION"), "bom-ref": "nodemesh" },
            "tools": { "components": [{ "type": "application", "name": "cargo xtask dist" }] },
        },
        "components": components,
        "dependencies": dependencies,
    })
}

/// The packages that are reached from `roots` by what is linked in, with what each needs.
fn linked<'a>(metadata: &'a Value, roots: &[&str]) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let nodes: BTreeMap<&str, &Value> = array(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| (text(&node["id"]), node))
        .collect();
    let is_root = |package: &&Value| roots.contains(&text(&package["name"])) && package["source"].is_null();
    let packages = array(&metadata["packages"]).iter();
    let mut waiting: Vec<&str> = packages
        .filter(is_root)
        .map(|package| text(&package["id"]))
        .collect();
    let mut found = BTreeMap::new();
    while let Some(id) = waiting.pop() {
        if found.contains_key(id) {
            continue;
        }
        let needs: BTreeSet<&str> = nodes
            .get(id)
            .map(|node| array(&node["deps"]))
            .unwrap_or_default()
            .iter()
            .filter(|dependency| {
                array(&dependency["dep_kinds"])
                    .iter()
                    .any(|kind| kind["kind"].is_null())
            })
            .map(|dependency| text(&dependency["pkg"]))
            .collect();
        waiting.extend(&needs);
        found.insert(id, needs);
    }
    found
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (text(&package["name"]), text(&package["version"]));
    let mut component = json!({
        "type": "library",
        "bom-ref": url(package),
        "name": name,
        "version": version,
        "purl": url(package),
    });
    // Cargo once took a slash for OR, which is no SPDX.
    if let Some(licence) = package["license"].as_str() {
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksums.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

fn url(package: &Value) -> String {
    format!(
        "pkg:cargo/{}@{}",
        text(&package["name"]),
        text(&package["version"])
    )
}

/// Checksum by name and version, from the lock file.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            package
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'))
                .map(str::to_owned)
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (field("name"), field("version"), field("checksum"))
        {
            found.insert((name, version), checksum);
        }
    }
    found
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_in_is_listed_with_licence_and_checksum_and_what_only_builds_is_not() {
        let package = |name: &str, source: Option<&str>| json!({ "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source });
        let on = |id: &str, kind: Option<&str>| json!({ "pkg": id, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [package("app", None), package("used", Some("r")), package("deep", Some("r")), package("builds", Some("r")), package("other", None)],
            "resolve": { "nodes": [
                { "id": "app", "deps": [on("used", None), on("builds", Some("build"))] },
                { "id": "used", "deps": [on("deep", None)] },
                { "id": "deep", "deps": [] },
            ] },
        });
        let lock = "version = 4\n\n[[package]]\nname = \"used\"\nversion = \"1.0.0\"\nsource = \"r\"\nchecksum = \"abc\"\n";
        let made = document(&metadata, &checksums(lock), &["app"]);
        let names: Vec<&str> = array(&made["components"])
            .iter()
            .map(|found| text(&found["name"]))
            .collect();
        assert_eq!(names, ["app", "deep", "used"]);
        assert_eq!(made["components"][2]["hashes"][0]["content"], "abc");
        assert_eq!(
            made["components"][1]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(
            made["dependencies"][0],
            json!({ "ref": "pkg:cargo/app@1.0.0", "dependsOn": ["pkg:cargo/used@1.0.0"] })
        );
    }
}
