// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask dist`: what is released: static binaries, what they are made of, and checksums.
//!
//! Invariant: what is in the output folder was started in an empty root directory, where no library and no other file exists, and is
//! within the sizes that are promised.

mod sbom;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    ebpf, process,
    setup::{self, Scope, cross},
    workspace,
};

/// The binaries.
const BINARIES: [&str; 3] = ["nodemesh-agent", "nodemesh", "nodemesh-control"];
/// Packages that have them.
const PACKAGES: [&str; 2] = ["nodemesh-agent", "nodemesh-control"];
/// Content of each image, beside the licences.
const IMAGES: [(&str, [&str; 2]); 2] = [
    ("agent", ["nodemesh-agent", "nodemesh"]),
    ("control", ["nodemesh-control", "nodemesh"]),
];
/// Largest agent, and largest content of an image, in bytes.
const MAX_AGENT: u64 = 15_000_000;
const MAX_IMAGE: u64 = 30_000_000;

/// Build what is released: static binaries, SBOM and checksums.
#[derive(clap::Args)]
pub(crate) struct Dist {
    /// Where to; `dist` in the target folder by default.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Dist {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let built = build()?;
        let out = self.out.map_or_else(
            || Ok(workspace::target_dir()?.join("dist")),
            Ok::<_, anyhow::Error>,
        )?;
        let out = std::path::absolute(out)?;
        gather(&built, &out)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Builds the binaries and returns their folder.
pub(crate) fn build() -> Result<PathBuf> {
    setup::ensure(Scope::Dist)?;
    let object = ebpf::stripped(&ebpf::build_object()?)?;
    let mut cargo = cross::cargo("build")?;
    cargo
        .args(["--locked", "--profile", "dist", "--bins"])
        .env("NODEMESH_EBPF_OBJECT", object);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    process::run(&mut cargo)?;
    Ok(workspace::target_dir()?.join(cross::target()).join("dist"))
}

/// Puts the binaries into `out`, with what belongs to them, and checks all.
fn gather(built: &Path, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    for name in BINARIES {
        fs::copy(built.join(name), out.join(name))
            .with_context(|| format!("copy {name} to {}", out.display()))?;
    }
    let sbom = "nodemesh.cdx.json";
    fs::write(out.join(sbom), sbom::make(&PACKAGES, &cross::target())?).context("write the SBOM")?;
    let mut sums = Command::new("sha256sum");
    let sums = process::capture(sums.current_dir(out).args(BINARIES).arg(sbom))?;
    fs::write(out.join("SHA256SUMS"), sums).context("write the checksums")?;
    for name in BINARIES {
        let size = size(out, name)?;
        println!("{name:<18}{:>6.1} MB  {}", size as f64 / 1e6, version(out, name)?);
        ensure!(
            size <= MAX_AGENT || name == "nodemesh-control",
            "{name} has {size} bytes, more than {MAX_AGENT}"
        );
    }
    for (image, content) in IMAGES {
        let sizes = content.map(|name| size(out, name));
        let total = sizes.into_iter().sum::<Result<u64>>()?;
        println!("image {image:<12}{:>6.1} MB", total as f64 / 1e6);
        ensure!(
            total <= MAX_IMAGE,
            "the image {image} has {total} bytes, more than {MAX_IMAGE}"
        );
    }
    println!("{}", out.display());
    Ok(())
}

fn size(folder: &Path, name: &str) -> Result<u64> {
    let file = folder.join(name);
    Ok(fs::metadata(&file)
        .with_context(|| format!("look at {}", file.display()))?
        .len())
}

/// What a binary says of itself in a root directory that has nothing else.
fn version(folder: &Path, name: &str) -> Result<String> {
    let root = folder.with_extension("root");
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    fs::copy(folder.join(name), root.join(name)).with_context(|| format!("copy {name}"))?;
    let mut chroot = Command::new("unshare");
    chroot
        .arg("--map-root-user")
        .arg("--root")
        .arg(&root)
        .arg(format!("/{name}"))
        .arg("--version");
    let said =
        process::capture(&mut chroot).with_context(|| format!("{name} does not start in an empty root"));
    fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    let said = said?.trim().to_owned();
    // The control plane knows nothing of the kernel.
    let names_abi = said.contains("ABI ") || name == "nodemesh-control";
    ensure!(
        said.contains("commit ") && names_abi,
        "{name} names no commit or ABI: {said}"
    );
    Ok(said)
}
