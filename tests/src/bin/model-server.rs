// SPDX-License-Identifier: Apache-2.0
//! `model-server`: a stand-in for one vLLM replica. See [`nodemesh_e2e::model_server`].
#![forbid(unsafe_code)]

use clap::Parser;
use nodemesh_e2e::model_server::{self, Options};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    model_server::run(Options::parse()).await
}
