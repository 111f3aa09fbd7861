// SPDX-License-Identifier: Apache-2.0
//! The log of the kernel programs, copied into the agent's own. Runs as one task.
//!
//! Invariant: reading never holds a program up; what does not fit the ring buffer is dropped by the program.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;

/// The reading end of the programs' log.
pub struct ProgramLog {
    logger: EbpfLogger<&'static dyn log::Log>,
}

impl ProgramLog {
    /// Takes the log's ring buffer.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self, aya_log::Error> {
        Ok(Self {
            logger: EbpfLogger::init(ebpf)?,
        })
    }

    /// Forwards messages until the runtime ends.
    pub async fn forward(self) {
        // SAFETY: the logger owns its descriptor and lives in the `AsyncFd`, which deregisters it before it is closed.
        let registered = unsafe { AsyncFd::register_with_interest(self.logger, Interest::READABLE) };
        let mut logger = match registered {
            Ok(logger) => logger,
            Err(error) => return warn!(%error, "cannot wait for the programs' log"),
        };
        loop {
            match logger.readable_mut().await {
                Ok(mut ready) => {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
                Err(error) => return warn!(%error, "cannot read the programs' log"),
            }
        }
    }
}
