// SPDX-License-Identifier: Apache-2.0
//! Test bed.
#![forbid(unsafe_code)]

mod errno;
mod file_limit;
pub mod load;
pub mod model_server;
pub mod probe;
