// SPDX-License-Identifier: Apache-2.0
//! Debian packages that the tests call, each with what proves that it is there.
//!
//! To add one: a line in [`NEEDED`]. The proof, not the package, is what counts, so other distributions work too.

use std::path::Path;

use crate::{
    process,
    setup::{
        apt,
        outcome::{Mode, Outcome},
    },
};

struct Package {
    name: &'static str,
    /// A command in `PATH`, or a file by its absolute path.
    proof: &'static str,
    reason: &'static str,
}

const NEEDED: &[Package] = &[
    Package {
        name: "iproute2",
        proof: "ip",
        reason: "tests build topologies of network namespaces",
    },
    Package {
        name: "curl",
        proof: "curl",
        reason: "a client of the meter's tests",
    },
    Package {
        name: "nghttp2-client",
        proof: "h2load",
        reason: "an HTTP/2 client of the meter's tests",
    },
    Package {
        name: "nftables",
        proof: "nft",
        reason: "what the packet path is measured against",
    },
    Package {
        name: "nghttp2-server",
        proof: "nghttpd",
        reason: "an HTTP/2 server of the meter's tests",
    },
];

/// Installs what is not there.
pub(crate) fn step(mode: Mode) -> Outcome {
    let absent = absent();
    let names: Vec<_> = absent.iter().map(|package| package.name).collect();
    if absent.is_empty() {
        return Outcome::Ready(join(NEEDED, |package| package.name.to_owned()));
    }
    let what = join(&absent, |package| {
        format!("{} ({}: {})", package.proof, package.name, package.reason)
    });
    let remedy = format!("`{}`", apt::install_line(&names));
    if mode == Mode::Check {
        return Outcome::missing(what, remedy);
    }
    if !apt::present() {
        return Outcome::missing(
            what,
            "install the packages of this distribution that provide them",
        );
    }
    match apt::install(&names) {
        Ok(()) => Outcome::Installed(names.join(", ")),
        Err(error) => Outcome::missing(format!("{what}: {error:#}"), remedy),
    }
}

fn absent() -> Vec<&'static Package> {
    let there = |proof: &str| Path::new(proof).is_absolute() && Path::new(proof).exists();
    NEEDED
        .iter()
        .filter(|package| !there(package.proof) && process::find(package.proof).is_none())
        .collect()
}

fn join<'a, P: std::borrow::Borrow<Package> + 'a>(packages: &[P], text: fn(&Package) -> String) -> String {
    packages
        .iter()
        .map(|package| text(package.borrow()))
        .collect::<Vec<_>>()
        .join(", ")
}
