// SPDX-License-Identifier: Apache-2.0
//! Case `kubernetes`: a cluster is the source. How long a change of an `EndpointSlice` takes to the kernel and to 100 agents, and what a cluster of
//! 10,000 Services takes of the control plane, also when it has to list all of it anew.

mod push;
mod relist;

use std::net::Ipv4Addr;

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Run,
    control_lab::{ControlLab, endpoint, virtual_address},
};
use crate::kubernetes::{ApiServer, NAMESPACE, Served, objects};

/// Port of all endpoints.
const PORT: u16 = 8000;

pub(super) fn run(run: &Run) -> Result<String> {
    let mut text = push::run(run)?;
    for has_pods in [false, true] {
        text.push('\n');
        text += &relist::run(run, has_pods)?;
    }
    Ok(text)
}

/// An API server beside a control plane that follows it. Dropped in this order.
struct ClusterLab {
    api: ApiServer,
    lab: ControlLab,
}

impl ClusterLab {
    /// What `fill` puts into the API server is there before the control plane is.
    fn new(served: Served, fill: impl FnOnce(&ApiServer) -> Result<()>) -> Result<Self> {
        let (lab, api) = ControlLab::with(|node, control, flags| {
            let api = ApiServer::start(node, served)?;
            fill(&api)?;
            api.start_control(control, flags);
            Ok(api)
        })?;
        Ok(Self { api, lab })
    }
}

/// The Service `name` at the `number`th virtual address.
fn service(name: &str, number: u32) -> Value {
    objects::service(name, (virtual_address(number), PORT).into())
}

/// All endpoints of the Service `name`; each is the pod that has its address.
fn slice(name: &str, addresses: impl Iterator<Item = Ipv4Addr>) -> Value {
    let endpoints: Vec<Value> = addresses
        .map(|address| {
            json!({
                "addresses": [address], "nodeName": "a",
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "name": pod_name(address), "namespace": NAMESPACE},
            })
        })
        .collect();
    objects::slice(name, name, PORT, &endpoints)
}

fn pod_name(address: Ipv4Addr) -> String {
    format!("p{:08x}", u32::from(address))
}

/// The address that the `number`th endpoint of a run has which was not there before.
fn fresh(number: u32) -> Ipv4Addr {
    endpoint(1_000_000 + number)
}
