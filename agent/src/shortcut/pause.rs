// SPDX-License-Identifier: Apache-2.0
//! A pause of a thread that has nothing else to do: between two looks at a child process, and where the self-test lets the kernel
//! get ahead of it.
//!
//! Invariant: called in the keeper's thread and in the self-test's process alone, never by a task.

use std::time::Duration;

/// Waits.
#[expect(
    clippy::disallowed_methods,
    reason = "there is nothing that would signal the condition, and no runtime in these threads"
)]
pub(super) fn pause(time: Duration) {
    std::thread::sleep(time);
}
