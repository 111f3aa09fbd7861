// SPDX-License-Identifier: Apache-2.0
//! A program of somebody else at a node's hook of `connect`, under a name of the test's choice: what `bpftool` loads and attaches is as
//! strange to the agent as what Cilium does.
//!
//! Invariant: it lets every connection pass, and is gone when the handle is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

use crate::topology::Node;

/// Which hook.
const HOOK: &str = "connect4";
const SECTION: &[u8] = b"cgroup/connect4";
/// `r0 = 1; exit`.
const ALLOW: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// The program, attached.
#[derive(Debug)]
pub struct ForeignProgram {
    pin: PathBuf,
    cgroup: PathBuf,
}

impl ForeignProgram {
    /// Attaches it so that others may be there too.
    pub fn beside(node: &Node, name: &str) -> Result<Self> {
        Self::attach(node, name, &["multi"])
    }

    /// Attaches it so that nobody else may.
    pub fn alone(node: &Node, name: &str) -> Result<Self> {
        Self::attach(node, name, &[])
    }

    fn attach(node: &Node, name: &str, flags: &[&str]) -> Result<Self> {
        // A bpf file system takes no dots in names.
        let root = node.pins().path().with_file_name("foreign");
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        let foreign = Self {
            pin: root.join(name),
            cgroup: node.cgroup().to_owned(),
        };
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("foreign.o");
        fs::write(&file, object(name)?)?;
        bpftool(&["prog", "load", text(&file)?, text(&foreign.pin)?])?;
        let mut command = vec![
            "cgroup",
            "attach",
            text(&foreign.cgroup)?,
            HOOK,
            "pinned",
            text(&foreign.pin)?,
        ];
        command.extend(flags);
        bpftool(&command)?;
        Ok(foreign)
    }
}

impl Drop for ForeignProgram {
    fn drop(&mut self) {
        let detached = text(&self.cgroup)
            .and_then(|cgroup| bpftool(&["cgroup", "detach", cgroup, HOOK, "pinned", text(&self.pin)?]));
        let removed = fs::remove_file(&self.pin).map_err(anyhow::Error::from);
        if let Err(error) = detached.and(removed) {
            eprintln!("{error:#}");
        }
        if let Some(folder) = self.pin.parent() {
            // Another one may be there.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// An object file with one program.
fn object(name: &str) -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let code = object.add_section(Vec::new(), SECTION.to_vec(), SectionKind::Text);
    object.append_section_data(code, &ALLOW, 8);
    object.add_symbol(Symbol {
        name: name.as_bytes().to_vec(),
        value: 0,
        size: ALLOW.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(code),
        flags: SymbolFlags::None,
    });
    let licence = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(licence, b"GPL\0", 1);
    object.write().context("write an object file")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of text")
}

fn bpftool(arguments: &[&str]) -> Result<()> {
    let output = Command::new("bpftool")
        .args(arguments)
        .output()
        .context("run bpftool")?;
    ensure!(
        output.status.success(),
        "bpftool {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
