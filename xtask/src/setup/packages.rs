// SPDX-License-Identifier: Apache-2.0
//! Debian packages that tests, checks and releases call, each with what proves that it is there.
//!
//! To add one: a line in a list below. The proof, not the package, is what counts, so other distributions work too.

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
        name: "bpftool",
        proof: "bpftool",
        reason: "tests attach programs of others with it",
    },
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
    Package {
        name: "nginx-light",
        proof: "/usr/sbin/nginx",
        reason: "a server of the shortcut's tests",
    },
    Package {
        name: "haproxy",
        proof: "/usr/sbin/haproxy",
        reason: "a proxy of the shortcut's tests that splices",
    },
    Package {
        name: "nodejs",
        proof: "node",
        reason: "a server of the shortcut's tests; without Java and Go these skip what needs them, and say so",
    },
];

/// What checks the manifests of `deploy/`.
const DEPLOY: &[Package] = &[Package {
    name: "systemd",
    proof: "systemd-analyze",
    reason: "it checks the units",
}];

/// What a release is built with.
const DIST: &[Package] = &[Package {
    name: "musl-tools",
    proof: "musl-gcc",
    reason: "static binaries are linked with musl",
}];

/// What older kernels are run with.
const EMULATOR: &[Package] = &[
    Package {
        name: "qemu-system-x86",
        proof: "qemu-system-x86_64",
        reason: "it is the machine",
    },
    Package {
        name: "busybox-static",
        proof: "busybox",
        reason: "it is the system in it",
    },
    Package {
        name: "cpio",
        proof: "cpio",
        reason: "it makes the archive that the kernel unpacks",
    },
];

/// Installs what the tests need and is not there.
pub(crate) fn step(mode: Mode) -> Outcome {
    provide(NEEDED, mode)
}

/// The same for the checks of the manifests.
pub(crate) fn deploy(mode: Mode) -> Outcome {
    provide(DEPLOY, mode)
}

/// The same for releases.
pub(crate) fn dist(mode: Mode) -> Outcome {
    provide(DIST, mode)
}

/// The same for older kernels.
pub(crate) fn emulator(mode: Mode) -> Outcome {
    provide(EMULATOR, mode)
}

fn provide(needed: &'static [Package], mode: Mode) -> Outcome {
    let absent = absent(needed);
    let names: Vec<_> = absent.iter().map(|package| package.name).collect();
    if absent.is_empty() {
        return Outcome::Ready(join(needed, |package| package.name.to_owned()));
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

fn absent(needed: &'static [Package]) -> Vec<&'static Package> {
    let there = |proof: &str| Path::new(proof).is_absolute() && Path::new(proof).exists();
    needed
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
