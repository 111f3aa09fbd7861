// SPDX-License-Identifier: Apache-2.0
//! Clients that connect while a test does something to the mesh. Invariant: one connection that fails, fails the test.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::connect;
use crate::process::Place;

/// Connections that are made all the time, none of which may fail.
#[derive(Debug)]
pub struct Connecting {
    is_over: Arc<AtomicBool>,
    thread: thread::JoinHandle<u64>,
}

impl Connecting {
    /// Starts them from `place`.
    pub fn start(place: Place, to: SocketAddr) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let is_over_too = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut made = 0;
            while !is_over_too.load(Ordering::Relaxed) {
                // Without TIME_WAIT: ports would run out.
                connect(&place, to, &["--count", "100", "--close", "rst"]).assert_all_ok(100);
                made += 100;
            }
            made
        });
        Self { is_over, thread }
    }

    /// Ends them; panics if one failed.
    pub fn finish(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let made = self.thread.join().expect("no connection failed");
        assert!(made > 0);
    }
}
