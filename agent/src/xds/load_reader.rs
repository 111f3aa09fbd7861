// SPDX-License-Identifier: Apache-2.0
//! Reads from the kernel's maps what load reports tell. Called by `load_report`, on a thread that may wait.
//!
//! Invariant: what is read is what the clients of this node sent; what others sent to the backends of this node, their nodes tell.

use std::collections::BTreeMap;

use anyhow::Result;
use nodemesh_abi::{Ip16, Outcome, Port, Protocol, Traffic, Vantage, traffic::SHARED_PAIR};
use nodemesh_model::FrontendName;

use super::load_book::{Counters, Key, Levels, Load};
use crate::{admin::Node, reconcile::view::View};

/// Reads what the programs counted of every backend that this node's clients have used.
pub(super) fn read(node: &Node) -> Result<BTreeMap<Key, Load>> {
    let view = node.view();
    let mut loads: BTreeMap<Key, Load> = BTreeMap::new();
    for (name, backend, id, traffic) in backends(&view) {
        let state = node.maps.backend_state(id)?;
        if state.opened == 0 {
            continue;
        }
        let row = match traffic {
            SHARED_PAIR => Traffic::default(),
            pair => node.maps.traffic(Vantage::Client.row(pair))?,
        };
        let key = (cluster(name), backend.0, backend.1);
        loads.entry(key).or_default().add(load(&row, state.active));
    }
    Ok(loads)
}

type Endpoint = (Ip16, Port);

/// Every backend, those that only have old sockets among them: whose it is, its address, its id and its pair of rows.
fn backends(view: &View) -> impl Iterator<Item = (&FrontendName, Endpoint, u32, u32)> {
    let live = view.frontends.iter().flat_map(|programmed| {
        let places = programmed.frontend.backends.iter().zip(&programmed.backends);
        places.map(|(backend, place)| {
            (
                &programmed.name,
                (backend.addr, backend.port),
                place.id,
                place.traffic,
            )
        })
    });
    let names: BTreeMap<u32, &FrontendName> = if view.retired.is_empty() {
        BTreeMap::new()
    } else {
        view.frontends
            .iter()
            .map(|programmed| (programmed.service_id, &programmed.name))
            .collect()
    };
    let retired = view.retired.iter().filter_map(move |(id, retired)| {
        let row = &retired.row;
        let name = names.get(&row.service).copied()?;
        (retired.service.as_ref() == Some(&name.service)).then_some((
            name,
            (row.addr, row.port),
            *id,
            row.traffic,
        ))
    });
    live.chain(retired)
}

/// The name of the cluster, as nodemesh's control plane gives it.
fn cluster(name: &FrontendName) -> String {
    match name.protocol {
        Protocol::Tcp => format!("{}/{}", name.service, name.port),
        Protocol::Udp => format!("{}/{}/udp", name.service, name.port),
    }
}

fn load(row: &Traffic, connections: u64) -> Load {
    let sum = |outcomes: &[Outcome]| -> u64 {
        outcomes
            .iter()
            .map(|outcome| row.requests[*outcome as usize])
            .sum()
    };
    let in_flight = row.in_flight.cast_signed().max(0).cast_unsigned();
    let (ttft_ns, buckets) = row.first_token.split_last().expect("a histogram has a sum");
    Load {
        counters: Counters {
            issued: sum(Outcome::ALL) + in_flight,
            succeeded: sum(&[Outcome::Success, Outcome::ClientError]),
            failed: sum(&[
                Outcome::ServerError,
                Outcome::Truncated,
                Outcome::NoResponse,
                Outcome::KeepaliveRace,
            ]),
            first_tokens: buckets.iter().sum(),
            first_token_ns: *ttft_ns,
        },
        levels: Levels {
            in_flight,
            connections: connections.cast_signed().max(0).cast_unsigned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Traffic {
        let mut row = Traffic {
            in_flight: 3,
            ..Traffic::default()
        };
        row.requests[Outcome::Success as usize] = 10;
        row.requests[Outcome::ClientError as usize] = 2;
        row.requests[Outcome::ServerError as usize] = 1;
        row.requests[Outcome::Canceled as usize] = 4;
        row.first_token[5] = 9;
        *row.first_token.last_mut().unwrap() = 4_500_000_000;
        row
    }

    #[test]
    fn a_canceled_request_is_issued_and_neither_success_nor_error() {
        let load = load(&row(), 6);
        assert_eq!(
            load.counters,
            Counters {
                issued: 20,
                succeeded: 12,
                failed: 1,
                first_tokens: 9,
                first_token_ns: 4_500_000_000,
            }
        );
        assert_eq!((load.levels.in_flight, load.levels.connections), (3, 6));
    }

    #[test]
    fn a_number_in_flight_below_zero_is_zero() {
        let row = Traffic {
            in_flight: u64::MAX,
            ..Traffic::default()
        };
        assert_eq!(load(&row, u64::MAX), Load::default());
    }
}
