// SPDX-License-Identifier: Apache-2.0
//! Takes records out of a ring buffer of the programs. Used by the access log and by the events, one task each, which sleeps until
//! the programs write a record.
//!
//! Invariant: the task never waits for whoever takes the records.

use std::{marker::PhantomData, time::Duration};

use aya::{
    Ebpf,
    maps::{MapData, MapError, RingBuf},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
};
use tracing::warn;
use zerocopy::FromBytes;

/// Most records handed over at once; bounds the memory of whoever queues them.
const BATCH: usize = 512;

/// The reading end of a ring buffer of `T`.
pub struct Records<T> {
    ring: RingBuf<MapData>,
    name: &'static str,
    /// Records that the ring buffer has room for.
    room: usize,
    record: PhantomData<fn() -> T>,
}

impl<T: FromBytes> Records<T> {
    /// Takes the ring buffer `name`, which has room for `bytes`.
    pub fn open(ebpf: &mut Ebpf, name: &'static str, bytes: u32) -> Result<Self, MapError> {
        let map = ebpf.take_map(name).ok_or_else(|| MapError::InvalidName {
            name: name.to_owned(),
        })?;
        Ok(Self {
            ring: RingBuf::try_from(map)?,
            name,
            room: bytes as usize / size_of::<T>(),
            record: PhantomData,
        })
    }

    /// Hands records to `push` until the other end of `until` is gone; `None` if they cannot be read. They gather for `gather`
    /// before the next look, which bounds the wakeups.
    pub async fn forward(
        self,
        gather: Duration,
        push: impl Fn(Vec<T>),
        mut until: oneshot::Receiver<()>,
    ) -> Option<Self> {
        let Self { ring, name, room, .. } = self;
        // SAFETY: the ring buffer owns its descriptor and lives in the `AsyncFd`, which deregisters it before it is closed.
        let registered = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let mut ring = match registered {
            Ok(ring) => ring,
            Err(error) => {
                warn!(%error, ring = name, "cannot wait for the programs' records");
                return None;
            }
        };
        loop {
            tokio::select! {
                ready = ring.readable_mut() => match ready {
                    Ok(mut ready) => {
                        // The kernel wakes only those who have read everything.
                        if drain(ready.get_inner_mut(), room, &push) {
                            ready.clear_ready();
                        }
                    }
                    Err(error) => {
                        warn!(%error, ring = name, "cannot read the programs' records");
                        return None;
                    }
                },
                _ = &mut until => break,
            }
            tokio::select! {
                () = tokio::time::sleep(gather) => {}
                _ = &mut until => break,
            }
        }
        Some(Self {
            ring: ring.into_inner(),
            name,
            room,
            record: PhantomData,
        })
    }

    /// Hands over what is there.
    pub fn drain(&mut self, push: impl Fn(Vec<T>)) {
        drain(&mut self.ring, self.room, &push);
    }
}

/// Hands over what is there, at most a ring buffer full; whether it was all.
fn drain<T: FromBytes>(ring: &mut RingBuf<MapData>, room: usize, push: &impl Fn(Vec<T>)) -> bool {
    for _ in 0..=room / BATCH {
        let mut batch = Vec::with_capacity(BATCH);
        let mut empty = false;
        while batch.len() < BATCH && !empty {
            match ring.next() {
                Some(item) => batch.extend(T::read_from_prefix(&item).map(|(record, _)| record)),
                None => empty = true,
            }
        }
        if !batch.is_empty() {
            push(batch);
        }
        if empty {
            return true;
        }
    }
    false
}
