// SPDX-License-Identifier: Apache-2.0
//! Compiles the part of etcd's API that the store uses. The crate `etcd-client` would need `protoc` on every machine that builds.

use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("proto");
    println!("cargo:rerun-if-changed={}", folder.display());
    let files = protox::compile(["etcd.proto"], [folder])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(files)?;
    Ok(())
}
