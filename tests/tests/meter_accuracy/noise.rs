// SPDX-License-Identifier: Apache-2.0
//! What the machine itself adds to a time: how much later than asked threads wake up that do nothing but wait, while a test runs.
//!
//! Invariant: it knows nothing of the meter, so no error of the meter can hide in it.

use std::{
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::errors::quantile;

const PERIOD: Duration = Duration::from_millis(2);
const THREADS: usize = 4;

/// The measurement, while it lasts.
pub struct Listening {
    stops: Vec<Sender<()>>,
    threads: Vec<JoinHandle<Vec<Duration>>>,
}

/// How late the threads woke up.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    pub p50: Duration,
    pub p99: Duration,
}

impl Listening {
    pub fn start() -> Self {
        let (stops, threads) = (0..THREADS)
            .map(|_| {
                let (stop, stopped) = mpsc::channel::<()>();
                let listen = move || {
                    let mut late = Vec::new();
                    loop {
                        let began = Instant::now();
                        match stopped.recv_timeout(PERIOD) {
                            Err(RecvTimeoutError::Timeout) => late.push(began.elapsed().saturating_sub(PERIOD)),
                            _ => return late,
                        }
                    }
                };
                (stop, thread::spawn(listen))
            })
            .unzip();
        Self { stops, threads }
    }

    pub fn stop(self) -> Noise {
        drop(self.stops);
        let late = self.threads.into_iter().flat_map(|thread| thread.join().expect("no panic"));
        let mut late: Vec<Duration> = late.collect();
        Noise {
            p50: quantile(&mut late, 0.5),
            p99: quantile(&mut late, 0.99),
        }
    }
}
