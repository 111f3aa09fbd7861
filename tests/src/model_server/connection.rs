// SPDX-License-Identifier: Apache-2.0
//! The handle by which a request reaches the TCP connection that carries it; made by [`super::listen`] for each
//! connection and put into the extensions of each of its requests.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::recorder::{Mark, Recorder, Way};

/// Asks the task of one connection to act on its socket, and tells its recorder what comes.
#[derive(Clone)]
pub(super) struct ConnectionHandle {
    recorder: Arc<Recorder>,
    cut: Arc<Cut>,
}

#[derive(Default)]
struct Cut {
    /// Set before the notice.
    way: Mutex<Option<Way>>,
    asked: Notify,
}

impl ConnectionHandle {
    pub(super) fn new(recorder: Arc<Recorder>) -> Self {
        Self {
            recorder,
            cut: Arc::default(),
        }
    }

    /// Has the connection closed this way. The request that asks is dropped with it.
    pub(super) fn cut(&self, way: Way) {
        *self.cut.way.lock().unwrap_or_else(PoisonError::into_inner) = Some(way);
        self.cut.asked.notify_one();
    }

    pub(super) async fn cut_asked(&self) -> Way {
        loop {
            self.cut.asked.notified().await;
            if let Some(way) = *self.cut.way.lock().unwrap_or_else(PoisonError::into_inner) {
                return way;
            }
        }
    }

    /// The body of the request is complete.
    pub(super) fn request_read(&self) {
        self.recorder.request_read();
    }

    /// Says what the next write will carry.
    pub(super) fn mark(&self, mark: Mark) {
        self.recorder.mark(mark);
    }
}
