// SPDX-License-Identifier: Apache-2.0
//! The rows of admission: rules of services, identities of clients, tables of policies. Written before the services that name them.
//!
//! ```text
//! Desired ─► prepare: numbers ─► rules, tables, prefixes ─► (services, cgroups) ─► finish: what nobody names any more goes
//! ```
//!
//! Owned by the reconciler's thread. Invariant: at no moment is a client admitted that neither the former nor the new policies admit:
//! a table knows every identity before a row gives it to a client, and a table that cannot be written is taken away, which denies.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use nodemesh_abi::{
    AccessWord, EndpointKey, NumberKey, NumberKind, Rules, limits, names::map, policy::UNKNOWN,
};
use nodemesh_model::{
    Desired, Frontend, ResourceName,
    access::{AccessRules, Directory, Principal, PrincipalName},
};
use tracing::{debug, warn};

use super::{demand::Demand, ids::IdPool, numbers::Numbers, shared};
use crate::datapath::{
    MapWriter,
    listing::ConnectionLister,
    maps::{MapOpError, Prefix},
};

/// A policy that is nowhere: its table is not found, which denies.
const NO_TABLE: u32 = u32::MAX;

/// What the kernel knows frontends' rules and policies by.
#[derive(Clone, Debug, Default)]
pub struct Assigned {
    rules: HashMap<ResourceName, u32>,
    policies: HashMap<Arc<AccessRules>, u32>,
    /// Policies of endpoints whose services have not all the same.
    shared: HashMap<EndpointKey, u32>,
    /// Nanoseconds of `CLOCK_MONOTONIC`: since when a backend that is new takes connections.
    pub now_ns: u64,
}

impl Assigned {
    /// Index into `rules` of the frontend's service; 0, which limits nothing, if there was no room.
    pub fn rules(&self, frontend: &Frontend) -> u32 {
        self.rules.get(&frontend.service).copied().unwrap_or_default()
    }

    /// Index into `policies` of the frontend's access rules; 0 without any.
    pub fn policy(&self, frontend: &Frontend) -> u32 {
        frontend
            .access
            .as_ref()
            .map_or(0, |access| self.policies.get(access).copied().unwrap_or(NO_TABLE))
    }

    /// Index into `policies` of an endpoint; `None` if it is that of each of its services.
    pub fn shared(&self, endpoint: &EndpointKey) -> Option<u32> {
        self.shared.get(endpoint).copied()
    }
}

/// The rows, as they are in the kernel.
#[derive(Debug)]
pub struct Admission {
    services: Numbers<ResourceName>,
    identities: Numbers<PrincipalName>,
    policy_ids: IdPool,
    assigned: Assigned,
    principals: BTreeMap<PrincipalName, Arc<Principal>>,
    rules: BTreeMap<u32, Rules>,
    /// Counts open connections where caps are new.
    enlist: ConnectionLister,
    tables: HashMap<u32, Vec<AccessWord>>,
    /// Policies that several services make together, by number.
    demands: HashMap<Demand<u32>, u32>,
    prefixes: BTreeMap<Prefix, u32>,
    /// Whether what is in the kernel may be that of a former agent.
    is_adopted: bool,
}

impl Admission {
    /// Takes over the rows in `maps`; `policies` are the ids that rows of services and endpoints name.
    pub fn adopt(
        maps: &MapWriter,
        enlist: ConnectionLister,
        policies: impl IntoIterator<Item = u32>,
    ) -> Result<Self, MapOpError> {
        let numbers = maps.numbers()?;
        let mut policy_ids = IdPool::new(limits::POLICIES);
        // 0 is no policy.
        policy_ids.claim(0);
        for id in policies {
            policy_ids.claim(id);
        }
        Ok(Self {
            services: Numbers::adopt(NumberKind::Rules, maps.service_capacity(), &numbers),
            identities: Numbers::adopt(NumberKind::Identity, limits::MAX_IDENTITIES, &numbers),
            policy_ids,
            assigned: Assigned::default(),
            principals: BTreeMap::new(),
            rules: BTreeMap::new(),
            enlist,
            tables: HashMap::new(),
            demands: HashMap::new(),
            prefixes: maps.identities()?.into_iter().collect(),
            is_adopted: true,
        })
    }

    /// What frontends' rules and policies are known by.
    pub fn assigned(&self) -> &Assigned {
        &self.assigned
    }

    /// The identity of a principal.
    pub fn identity(&self, name: &PrincipalName) -> u32 {
        match name {
            PrincipalName::Unknown => UNKNOWN,
            known => self.identities.get(known).unwrap_or(UNKNOWN),
        }
    }

    /// Names of the identities.
    pub fn identities(&self) -> impl Iterator<Item = (u32, &PrincipalName)> {
        self.identities.iter().map(|(name, number)| (number, name))
    }

    /// Entries in use and capacity of the maps that are filled here.
    pub fn usage(&self) -> [(&'static str, (u64, u64)); 3] {
        let wide = |(used, most): (u32, u32)| (u64::from(used), u64::from(most));
        [
            (map::RULES, wide(self.services.usage())),
            (
                map::POLICIES,
                wide((self.policy_ids.in_use() - 1, limits::POLICIES - 1)),
            ),
            (
                map::IDENTITIES,
                (self.prefixes.len() as u64, u64::from(limits::IDENTITIES)),
            ),
        ]
    }

    /// Writes what services and clients of `desired` will name; every error that there was.
    pub fn prepare(&mut self, desired: &Desired, now_ns: u64, maps: &mut MapWriter) -> Vec<MapOpError> {
        let mut errors = Errors::default();
        self.assigned.now_ns = now_ns;
        self.prepare_rules(desired, maps, &mut errors);
        let has_news = self.number_principals(desired);
        self.write_numbers(maps, &mut errors);
        self.prepare_tables(desired, has_news, maps, &mut errors);
        self.prepare_shared(desired, maps, &mut errors);
        for (prefix, name) in &desired.prefixes {
            let (prefix, identity) = ((prefix.addr, prefix.bits), self.identity(name));
            if self.prefixes.get(&prefix) != Some(&identity)
                && errors.note(maps.put_identity(prefix, identity))
            {
                self.prefixes.insert(prefix, identity);
            }
        }
        errors.0
    }

    /// Removes what `desired` does not name and no row any more. To be called when all that refers to it is as desired.
    pub fn finish(&mut self, desired: &Desired, maps: &mut MapWriter) -> Vec<MapOpError> {
        let mut errors = Errors::default();
        let wanted: Vec<Prefix> = desired
            .prefixes
            .keys()
            .map(|prefix| (prefix.addr, prefix.bits))
            .collect();
        let gone: Vec<Prefix> = self
            .prefixes
            .keys()
            .filter(|prefix| wanted.binary_search(prefix).is_err())
            .copied()
            .collect();
        for prefix in gone {
            if errors.note(maps.delete_identity(prefix)) {
                self.prefixes.remove(&prefix);
            }
        }
        let services: HashSet<&ResourceName> = desired
            .frontends
            .values()
            .map(|frontend| &frontend.service)
            .collect();
        let free_rules = self.services.retain(|name| services.contains(name));
        self.assigned.rules.retain(|name, _| services.contains(name));
        for number in &free_rules {
            self.rules.remove(number);
        }
        let free_identities = self
            .identities
            .retain(|name| desired.principals.contains_key(name));
        if !free_rules.is_empty() || !free_identities.is_empty() {
            errors.note(maps.forget_clients(|key| {
                free_rules.contains(&key.rules) || free_identities.contains(&key.identity)
            }));
        }
        self.write_numbers(maps, &mut errors);
        self.free_tables(desired, maps, &mut errors);
        self.is_adopted = false;
        errors.0
    }

    fn prepare_rules(&mut self, desired: &Desired, maps: &mut MapWriter, errors: &mut Errors) {
        let mut changed = BTreeMap::new();
        for frontend in desired.frontends.values() {
            let Some(number) = self.services.give(&frontend.service) else {
                continue;
            };
            let row = frontend.rules.kernel;
            if self.rules.get(&number) != Some(&row) {
                changed.insert(number, row);
            }
            // The rules of a row that could not be written are those of its former owner at worst, until the next round.
            self.assigned
                .rules
                .entry(frontend.service.clone())
                .or_insert(number);
        }
        self.count_open(&changed, maps, errors);
        for (number, row) in changed {
            if errors.note(maps.put_rules(number, &row)) {
                self.rules.insert(number, row);
            }
        }
    }

    /// Counts open connections where `changed` rules have caps and the former ones had none, so that a cap holds for these too: first,
    /// those that come are counted and not limited; then those that are there are.
    fn count_open(&mut self, changed: &BTreeMap<u32, Rules>, maps: &mut MapWriter, errors: &mut Errors) {
        let mut has_new_caps = false;
        for (number, row) in changed {
            let former = match self.rules.get(number) {
                Some(former) => Ok(*former),
                None => maps.rules(*number),
            };
            // What is not known is taken to have counted nothing.
            if let Some(first) = row.counting(&former.unwrap_or_default()) {
                has_new_caps |= errors.note(maps.put_rules(*number, &first));
            }
        }
        if !has_new_caps || !errors.note(maps.wait_for_programs()) {
            return;
        }
        let started = Instant::now();
        match self.enlist.scan(|_| {}) {
            Ok(()) => debug!(
                elapsed_us = started.elapsed().as_micros() as u64,
                "counted what is open where caps are new"
            ),
            Err(error) => {
                warn!(%error, "connections that are open already do not count towards new caps");
            }
        }
    }

    /// Gives every principal a number; whether any of them is another than before.
    fn number_principals(&mut self, desired: &Desired) -> bool {
        if self.principals == desired.principals {
            return false;
        }
        for name in desired
            .principals
            .keys()
            .filter(|name| **name != PrincipalName::Unknown)
        {
            // `Desired` has no more principals than there are numbers.
            let _ = self.identities.give(name);
        }
        self.principals.clone_from(&desired.principals);
        true
    }

    fn write_numbers(&mut self, maps: &mut MapWriter, errors: &mut Errors) {
        let news: Vec<(NumberKey, Option<u32>)> = self
            .services
            .news()
            .into_iter()
            .chain(self.identities.news())
            .collect();
        for (key, number) in news {
            errors.note(match number {
                Some(number) => maps.put_number(key, number),
                None => maps.delete_number(&key),
            });
        }
    }

    fn prepare_tables(
        &mut self,
        desired: &Desired,
        has_news: bool,
        maps: &mut MapWriter,
        errors: &mut Errors,
    ) {
        let mut outdated: Vec<Arc<AccessRules>> = Vec::new();
        for access in desired
            .frontends
            .values()
            .filter_map(|frontend| frontend.access.as_ref())
        {
            if self.assigned.policies.contains_key(access) {
                continue;
            }
            if let Some(id) = self.policy_ids.take() {
                self.assigned.policies.insert(Arc::clone(access), id);
                outdated.push(Arc::clone(access));
            }
        }
        if has_news || self.is_adopted {
            outdated = self.assigned.policies.keys().cloned().collect();
        }
        let missing =
            |access: &&Arc<AccessRules>| !self.tables.contains_key(&self.assigned.policies[*access]);
        outdated.extend(
            self.assigned
                .policies
                .keys()
                .filter(missing)
                .cloned()
                .collect::<Vec<_>>(),
        );
        if outdated.is_empty() {
            return;
        }
        let directory = self.directory();
        for access in outdated {
            let id = self.assigned.policies[&access];
            let table = access.table(&directory);
            let words: Vec<AccessWord> =
                AccessWord::table(table.len() as u32, |identity| table[identity as usize]).collect();
            self.write_table(id, words, maps, errors);
        }
    }

    /// Numbers and writes what endpoints demand to which services with different policies lead.
    fn prepare_shared(&mut self, desired: &Desired, maps: &mut MapWriter, errors: &mut Errors) {
        let demands = shared::demands(desired, |frontend| self.assigned.policy(frontend));
        self.assigned.shared.clear();
        for (key, demand) in demands {
            let id = match demand.as_one() {
                _ if demand.is_nothing() => 0,
                Some(policy) => policy,
                None => self.demand_id(demand),
            };
            self.assigned.shared.insert(key, id);
        }
        let tables: Vec<_> = self
            .demands
            .iter()
            .map(|(demand, id)| (*id, shared::table(demand, &self.tables)))
            .collect();
        for (id, words) in tables {
            self.write_table(id, words, maps, errors);
        }
    }

    fn demand_id(&mut self, demand: Demand<u32>) -> u32 {
        if let Some(id) = self.demands.get(&demand) {
            return *id;
        }
        let Some(id) = self.policy_ids.take() else {
            return NO_TABLE;
        };
        self.demands.insert(demand, id);
        id
    }

    fn write_table(&mut self, id: u32, words: Vec<AccessWord>, maps: &mut MapWriter, errors: &mut Errors) {
        if self.tables.get(&id) == Some(&words) {
            return;
        }
        if errors.note(maps.swap_policies(&[(id, &words)])) {
            self.tables.insert(id, words);
        } else {
            // The former table may admit whom the new one denies.
            self.tables.remove(&id);
            errors.note(maps.delete_policy(id));
        }
    }

    /// All principals by number.
    fn directory(&self) -> Directory {
        let mut by_number = vec![None; self.identities.end() as usize];
        by_number[UNKNOWN as usize] = self.principals.get(&PrincipalName::Unknown).cloned();
        for (name, number) in self.identities.iter() {
            by_number[number as usize] = self.principals.get(name).cloned();
        }
        Directory::new(by_number)
    }

    fn free_tables(&mut self, desired: &Desired, maps: &mut MapWriter, errors: &mut Errors) {
        let wanted: HashSet<&Arc<AccessRules>> = desired
            .frontends
            .values()
            .filter_map(|frontend| frontend.access.as_ref())
            .collect();
        self.assigned.policies.retain(|access, _| wanted.contains(access));
        let shared: HashSet<u32> = self.assigned.shared.values().copied().collect();
        self.demands.retain(|_, id| shared.contains(id));
        let own = self.assigned.policies.values().chain(self.demands.values());
        let used: HashSet<u32> = own.copied().collect();
        let free = (1..limits::POLICIES).filter(|id| self.policy_ids.is_out(*id) && !used.contains(id));
        for id in free.collect::<Vec<_>>() {
            if errors.note(maps.delete_policy(id)) {
                self.tables.remove(&id);
                self.policy_ids.give_back(id);
            }
        }
    }
}

/// What went wrong.
#[derive(Default)]
struct Errors(Vec<MapOpError>);

impl Errors {
    /// Notes an error; whether there was none.
    fn note(&mut self, result: Result<(), MapOpError>) -> bool {
        result.map_err(|error| self.0.push(error)).is_ok()
    }
}
