// SPDX-License-Identifier: Apache-2.0
//! What the reader makes of resources: of nodemesh's own, of foreign ones, of broken ones.

mod admission;
mod broken;
mod changes;
mod envoy;
mod foreign;
mod garbage;
mod lacking;
mod round_trip;
mod wire;
