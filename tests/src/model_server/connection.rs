// SPDX-License-Identifier: Apache-2.0
//! The handle by which a request reaches the TCP connection that carries it; made by [`super::listen`] for each
//! connection and put into the extensions of each of its requests.

use std::sync::Arc;

use tokio::sync::Notify;

/// Asks the task of one connection to act on its socket.
#[derive(Clone, Default)]
pub(super) struct ConnectionHandle {
    reset: Arc<Notify>,
}

impl ConnectionHandle {
    /// Has the connection closed with a RST. The request that asks is dropped with it.
    pub(super) fn reset(&self) {
        self.reset.notify_one();
    }

    pub(super) async fn reset_asked(&self) {
        self.reset.notified().await;
    }
}
