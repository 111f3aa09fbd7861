// SPDX-License-Identifier: Apache-2.0
//! What network policies see of the cluster. Used by `mesh`.
//!
//! Invariant: the services in it are those that are in the mesh, with the pods that their endpoints name.

use std::collections::BTreeSet;

use super::{
    super::{
        finding::{ObjectId, ObjectKind},
        object::{ObjectName, Port, Service},
        translate::{
            self, Translation,
            network_policy::{Landscape, PortView, ServiceView},
        },
    },
    Mesh,
};

impl Mesh {
    /// What every network policy comes down to now.
    pub(super) fn network_policies(&self) -> Vec<(ObjectId, Translation)> {
        if self.objects.network_policies.is_empty() {
            return Vec::new();
        }
        let landscape = self.landscape();
        let policies = landscape.policies.iter();
        policies
            .map(|(name, policy)| {
                let translation = translate::network_policy::translate(name, policy, &landscape);
                (
                    ObjectId::new(ObjectKind::NetworkPolicy, name.clone()),
                    translation,
                )
            })
            .collect()
    }

    fn landscape(&self) -> Landscape<'_> {
        let objects = &self.objects;
        let services = objects.services.iter().filter(|(name, _)| {
            self.claims
                .makes(&ObjectId::new(ObjectKind::Service, (*name).clone()))
        });
        Landscape {
            services: services
                .map(|(name, service)| self.service_view(name, service))
                .collect(),
            pods: &objects.pods,
            namespaces: &objects.namespaces,
            policies: &objects.network_policies,
        }
    }

    fn service_view<'a>(&'a self, name: &'a ObjectName, service: &'a Service) -> ServiceView<'a> {
        let slices = self.slices_of.get(name).into_iter().flatten();
        let slices: Vec<_> = slices.filter_map(|name| self.objects.slices.get(name)).collect();
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        let names: BTreeSet<&str> = endpoints.filter_map(|endpoint| endpoint.pod.as_deref()).collect();
        let pods = names.into_iter().filter_map(|pod| {
            let pod = ObjectName::new(&name.namespace, pod);
            let found = self
                .objects
                .pods
                .get(&pod)
                .filter(|found| !found.has_host_network)?;
            Some((pod, found))
        });
        let port = |port: &'a Port| {
            let of_slices = slices.iter().flat_map(|slice| &slice.ports);
            let same = of_slices.filter(|own| own.name == port.name && own.protocol == port.protocol);
            let targets: BTreeSet<i32> = same.filter_map(|own| own.port.or(port.target)).collect();
            PortView {
                number: port.number,
                protocol: &port.protocol,
                targets: targets.into_iter().collect(),
            }
        };
        let known = service
            .ports
            .iter()
            .filter(|port| matches!(port.protocol.as_str(), "TCP" | "UDP"));
        ServiceView {
            name,
            ports: known.map(port).collect(),
            pods: pods.collect(),
        }
    }
}
