// SPDX-License-Identifier: Apache-2.0
//! The announcement that this process is about to end.

use tokio::sync::watch;

/// Tells all streams, and the readiness probe, that the process is about to end. A copy is the same announcement.
#[derive(Clone, Debug)]
pub struct Ending {
    announced: watch::Sender<bool>,
}

impl Default for Ending {
    fn default() -> Self {
        Self {
            announced: watch::Sender::new(false),
        }
    }
}

impl Ending {
    /// Makes the announcement.
    pub fn announce(&self) {
        self.announced.send_replace(true);
    }

    /// Whether it was made.
    pub fn is_announced(&self) -> bool {
        *self.announced.borrow()
    }

    /// Waits for it.
    pub async fn announced(&self) {
        // `self` keeps the sender.
        let _ = self
            .announced
            .subscribe()
            .wait_for(|is_announced| *is_announced)
            .await;
    }
}
