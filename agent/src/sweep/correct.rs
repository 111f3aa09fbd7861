// SPDX-License-Identifier: Apache-2.0
//! Corrects a row through the program `correct`, which adds atomically: a write from here would undo what programs add at that
//! moment.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use nodemesh_abi::names::program;

use super::drift::Correction;

/// Adds a correction to a row of `traffic`.
pub type Correct = Box<dyn FnMut(u32, Correction) -> Result<()> + Send>;

/// Corrects with the program in `ebpf`.
pub fn corrector(ebpf: Arc<Mutex<Ebpf>>) -> Correct {
    Box::new(move |row, correction| {
        let ebpf = ebpf.lock().expect("no holder panics");
        let program: &RawTracePoint = ebpf
            .program(program::CORRECT)
            .context("the object lacks the program that corrects")?
            .try_into()?;
        let mut options = RawTracePointRunOptions::new();
        options.args[..3].copy_from_slice(&[row.into(), correction.in_flight, correction.request_bytes]);
        let result = program
            .test_run(options)
            .context("run the program that corrects")?;
        ensure!(result.return_value == 0, "there is no row {row} to correct");
        Ok(())
    })
}
