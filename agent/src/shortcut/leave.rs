// SPDX-License-Identifier: Apache-2.0
//! Ends the shortcut of live connections where no agent runs and none is to come: part of `nodemesh cleanup`.
//!
//! Invariant: nothing that was sent is lost. A socket whose application does not read keeps what waits for it, and stays in the map
//! until it is closed: the kernel keeps map and program for it, without a pin.

use std::{
    io,
    time::{Duration, Instant},
};

use nodemesh_abi::names::map;
use tracing::warn;

use super::pause::pause;
use crate::datapath::{
    PinRoot,
    ends::{self, Ends},
};

/// Time in which a message that was on its way is there.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// Longest that applications are waited for which do not read.
const PATIENCE: Duration = Duration::from_secs(3);

/// Switches the shortcut off and takes every socket out whose application has read all; how many others there are. To be called while the
/// programs are attached.
pub fn leave(pins: &PinRoot) -> io::Result<usize> {
    if !pins.map(map::SHORT_SOCKS).exists() {
        return Ok(0);
    }
    let ends = Ends::open(pins).map_err(io::Error::other)?;
    ends::switch_off(pins)?;
    if ends.enrolled().is_empty() {
        return Ok(0);
    }
    pause(ON_ITS_WAY);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = ends.enrolled();
        for cookie in &left {
            if let Err(error) = ends.take_out(*cookie) {
                warn!(%error, "could not take a socket out of the shortcut");
            }
        }
        if left.is_empty() || Instant::now() >= deadline {
            return Ok(left.len());
        }
        pause(Duration::from_millis(20));
    }
}
