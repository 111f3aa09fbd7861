// SPDX-License-Identifier: Apache-2.0
//! Which services may select a workload, and which workloads a service may select: by namespace and label.
//!
//! Written and read by `feed`. Each selector is filed under one of its labels, the one that fewest others had when it came; a
//! workload under all of its own. So a lookup costs the labels of the one and what shares a rare label with it, however many
//! services and workloads there are. Invariant: what is filed is found again by the same content, which is how it is taken out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use nodemesh_model::{ResourceName, Service, Workload};

/// A label of a namespace.
type Place = (Arc<str>, Arc<str>, Arc<str>);

fn place(name: &ResourceName, (key, value): (&String, &String)) -> Place {
    (
        name.namespace().into(),
        key.as_str().into(),
        value.as_str().into(),
    )
}

/// The services with selectors.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    filed: HashMap<Place, BTreeMap<ResourceName, Arc<Service>>>,
    /// Where each one is.
    places: HashMap<ResourceName, Place>,
    /// How many selectors have a label.
    uses: HashMap<Place, usize>,
}

impl Selectors {
    pub(super) fn insert(&mut self, service: &Arc<Service>) {
        let name = &service.metadata.name;
        let labels = service.selector.iter().flatten();
        let places: Vec<Place> = labels.map(|label| place(name, label)).collect();
        let rarest = places.iter().min_by_key(|place| self.uses.get(*place)).cloned();
        for place in places {
            *self.uses.entry(place).or_default() += 1;
        }
        if let Some(place) = rarest {
            let filed = self.filed.entry(place.clone()).or_default();
            filed.insert(name.clone(), Arc::clone(service));
            self.places.insert(name.clone(), place);
        }
    }

    pub(super) fn remove(&mut self, service: &Service) {
        let name = &service.metadata.name;
        for label in service.selector.iter().flatten() {
            let place = place(name, label);
            if let Some(count) = self.uses.get_mut(&place) {
                *count -= 1;
                if *count == 0 {
                    self.uses.remove(&place);
                }
            }
        }
        let Some(place) = self.places.remove(name) else {
            return;
        };
        if let Some(filed) = self.filed.get_mut(&place) {
            filed.remove(name);
            if filed.is_empty() {
                self.filed.remove(&place);
            }
        }
    }

    /// The services that select `workload`.
    pub(super) fn selecting(&self, workload: &Workload) -> impl Iterator<Item = &Arc<Service>> {
        let labels = &workload.metadata.labels;
        let places = labels.iter().map(|label| place(&workload.metadata.name, label));
        let filed = places.filter_map(|place| self.filed.get(&place));
        filed
            .flat_map(BTreeMap::values)
            .filter(|service| service.selects(labels))
    }
}

/// The workloads with labels.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    filed: HashMap<Place, BTreeSet<ResourceName>>,
}

impl Workloads {
    pub(super) fn insert(&mut self, workload: &Workload) {
        let name = &workload.metadata.name;
        for label in &workload.metadata.labels {
            let filed = self.filed.entry(place(name, label)).or_default();
            filed.insert(name.clone());
        }
    }

    pub(super) fn remove(&mut self, workload: &Workload) {
        let name = &workload.metadata.name;
        for label in &workload.metadata.labels {
            let place = place(name, label);
            if let Some(filed) = self.filed.get_mut(&place) {
                filed.remove(name);
                if filed.is_empty() {
                    self.filed.remove(&place);
                }
            }
        }
    }

    /// At least those that `service` selects: those with the rarest label of its selector.
    pub(super) fn selected(&self, service: &Service) -> impl Iterator<Item = &ResourceName> {
        let labels = service.selector.iter().flatten();
        let sets = labels.map(|label| self.filed.get(&place(&service.metadata.name, label)));
        // A label that no workload has is the rarest.
        let rarest = sets.min_by_key(|set| set.map_or(0, BTreeSet::len)).flatten();
        rarest.into_iter().flatten()
    }
}
