// SPDX-License-Identifier: Apache-2.0
//! Takes records out of the ring buffer. Runs as one task, which sleeps until the programs write a record; `app` takes the last
//! ones when the programs have been told to write no more.
//!
//! Invariant: the task never waits for the writer.

use std::{sync::Arc, time::Duration};

use aya::{
    Ebpf,
    maps::{MapData, MapError, RingBuf},
};
use nodemesh_abi::{AccessRecord, limits, names::map};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
};
use tracing::warn;
use zerocopy::FromBytes as _;

use super::AccessLog;

/// Most records handed over at once; bounds the queue's memory.
const BATCH: usize = 512;
/// How long records gather before the next look: bounds the wakeups. The ring buffer holds 7,000 records.
const GATHER: Duration = Duration::from_millis(10);

/// The reading end of the ring buffer.
pub struct AccessReader {
    ring: RingBuf<MapData>,
}

impl AccessReader {
    /// Takes the ring buffer.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        let map = ebpf.take_map(map::ACCESS).ok_or_else(|| MapError::InvalidName {
            name: map::ACCESS.to_owned(),
        })?;
        Ok(Self {
            ring: RingBuf::try_from(map)?,
        })
    }

    /// Hands records to `log` until the other end of `until` is gone; `None` if they cannot be read.
    pub async fn forward(self, log: Arc<AccessLog>, mut until: oneshot::Receiver<()>) -> Option<Self> {
        // SAFETY: the ring buffer owns its descriptor and lives in the `AsyncFd`, which deregisters it before it is closed.
        let registered = unsafe { AsyncFd::register_with_interest(self.ring, Interest::READABLE) };
        let mut ring = match registered {
            Ok(ring) => ring,
            Err(error) => {
                warn!(%error, "cannot wait for the records of the access log");
                return None;
            }
        };
        loop {
            tokio::select! {
                ready = ring.readable_mut() => match ready {
                    Ok(mut ready) => {
                        // The kernel wakes only those who have read everything.
                        if drain(ready.get_inner_mut(), &log) {
                            ready.clear_ready();
                        }
                    }
                    Err(error) => {
                        warn!(%error, "cannot read the records of the access log");
                        return None;
                    }
                },
                _ = &mut until => break,
            }
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                _ = &mut until => break,
            }
        }
        let ring = ring.into_inner();
        Some(Self { ring })
    }

    /// Hands over what is there.
    pub fn drain(&mut self, log: &AccessLog) {
        drain(&mut self.ring, log);
    }
}

/// Hands over what is there, at most a ring buffer full; whether it was all.
fn drain(ring: &mut RingBuf<MapData>, log: &AccessLog) -> bool {
    const ROOM: usize = limits::ACCESS_BYTES as usize / size_of::<AccessRecord>();
    for _ in 0..=ROOM / BATCH {
        let mut batch = Vec::with_capacity(BATCH);
        let mut empty = false;
        while batch.len() < BATCH && !empty {
            match ring.next() {
                Some(item) => batch.extend(AccessRecord::read_from_prefix(&item).map(|(record, _)| record)),
                None => empty = true,
            }
        }
        if !batch.is_empty() {
            log.push(batch);
        }
        if empty {
            return true;
        }
    }
    false
}
