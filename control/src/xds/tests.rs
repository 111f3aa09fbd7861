// SPDX-License-Identifier: Apache-2.0
//! The protocol, with no network: rules one by one, and random histories against clients that hold what they are sent to be true.

mod client;
mod delta;
mod histories;
mod order;
mod sotw;
mod world;
