// SPDX-License-Identifier: Apache-2.0
//! Compiles `nodemesh/v1/*.proto` in pure Rust: no `protoc` on the machine is needed.

use std::error::Error;

const FILES: [&str; 4] = [
    "nodemesh/v1/registry.proto",
    "nodemesh/v1/node.proto",
    "nodemesh/v1/workload.proto",
    "nodemesh/v1/policy.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        // Maps in the order of their keys, so that equal messages have equal bytes.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
