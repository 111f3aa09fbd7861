// SPDX-License-Identifier: Apache-2.0
//! Rows that are missing or wrong: what the programs then do, line by line of the table in `docs/datapath.md`. A decision about access
//! never lets anybody in, and nothing else cuts traffic for which there is somewhere to go.
//!
//! The agent does not run, since it would put the rows right.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use nodemesh_abi::{
    Backend, CgroupEntry, Endpoint, EndpointKey, InternalError, Service as ServiceRow, ServiceKey,
};
use nodemesh_agent::datapath::{MapReader, MapWriter};
use nodemesh_e2e::{
    bed::{Bed, Family, Replica, connect},
    manifest::{AccessPolicy, Manifest, Policy, Service, workload},
    process::Place,
    topology::Pod,
};
use serde_json::json;

const IN: &str = "ok";
const DENIED: &str = "EACCES";
const REFUSED: &str = "ECONNREFUSED";
const SILENCE: &str = "TIMEOUT";
/// A number that nothing has.
const NOWHERE: u32 = 4_000;

/// Services with a replica each on the node of the client, whose agent has ended.
struct Scene {
    bed: Bed,
    maps: MapWriter,
    reader: MapReader,
    server: Pod,
    replicas: Vec<Replica>,
}

impl Scene {
    /// With a service of each of these names; the client is allowed to connect to them all, nobody else is.
    fn new(names: &[&str]) -> Self {
        let mut bed = Bed::new();
        let server = bed.a.pod("server").unwrap();
        let replicas: Vec<Replica> = (9000..)
            .zip(names)
            .map(|(port, name)| Replica::start(&server, name, port))
            .collect();
        let chat = json!({"cgroup": "client", "addresses": [bed.client.v4(), bed.client.v6()]});
        let mut manifest = Manifest::of([workload("apps", "chat", &chat)]);
        manifest = manifest.and(AccessPolicy::of_all().default("deny"));
        for (number, replica) in (1..).zip(&replicas) {
            let name = replica.name();
            let service = Service::new(name, Family::V4.vip(number)).also_at(Family::V6.vip(number).ip());
            // Rules of its own: a table of its own.
            let rule = AccessPolicy::of(name).rule("allow", [json!({"workloads": ["chat"]})]);
            manifest = manifest
                .and(service.to(Family::BOTH.map(|family| replica.at(family))))
                .and(rule)
                .and(Policy::of(name).set("limits", json!({"connections": 1000})));
        }
        bed.start(&manifest, &[]);
        bed.agent.kill().unwrap();
        let pins = bed.a.pins();
        let (maps, reader) = (MapWriter::open(&pins).unwrap(), MapReader::open(&pins).unwrap());
        Self {
            bed,
            maps,
            reader,
            server,
            replicas,
        }
    }

    /// Rows of the service `number`, from 1, one per family.
    fn services(&self, number: u8) -> Vec<(ServiceKey, ServiceRow)> {
        let vips = Family::BOTH.map(|family| family.vip(number));
        let is_its = |key: &ServiceKey| {
            let place = (std::net::IpAddr::from(key.addr).to_canonical(), key.port.get());
            vips.iter().any(|vip| (vip.ip(), vip.port()) == place)
        };
        let rows = self.maps.services().unwrap().into_iter();
        let rows: Vec<_> = rows.filter(|(key, _)| is_its(key)).collect();
        assert_eq!(rows.len(), 2);
        rows
    }

    /// Changes the rows of a service.
    fn change(&mut self, number: u8, change: impl Fn(&mut ServiceRow)) {
        for (key, mut row) in self.services(number) {
            change(&mut row);
            self.maps.put_service(&key, &row).unwrap();
        }
    }

    /// The endpoints of the service `number`.
    fn endpoints(&self, number: u8) -> Vec<(EndpointKey, Endpoint)> {
        let replica = &self.replicas[usize::from(number) - 1];
        let port = replica.at(Family::V4).port();
        let rows = self.maps.endpoints().unwrap().into_iter();
        let rows: Vec<_> = rows.filter(|(key, _)| key.port.get() == port).collect();
        assert_eq!(rows.len(), 2);
        rows
    }

    /// What the client meets at the service `number`, which is the same in both families.
    #[track_caller]
    fn meets(&self, number: u8) -> String {
        let [v4, v6] = Family::BOTH.map(|family| outcome(&self.bed.client.place(), family.vip(number)));
        assert_eq!(v4, v6);
        v4
    }

    /// What a client without an agent meets at the replica itself.
    #[track_caller]
    fn meets_directly(&self, number: u8) -> String {
        let place = Place {
            cgroup: self.bed.server.cgroup().into(),
            ..self.bed.client.place()
        };
        let replica = &self.replicas[usize::from(number) - 1];
        let [v4, v6] = Family::BOTH.map(|family| outcome(&place, replica.at(family)));
        assert_eq!(v4, v6);
        v4
    }

    fn errors(&self, kind: InternalError) -> u64 {
        self.reader.internal_errors().unwrap()[kind as usize]
    }
}

fn outcome(place: &Place, to: std::net::SocketAddr) -> String {
    let report = connect(place, to, &["--timeout", "400ms"]);
    report.errors.into_keys().next().unwrap_or_else(|| IN.to_owned())
}

#[test]
fn an_error_in_a_decision_about_access_denies() {
    let mut scene = Scene::new(&["whole", "no-table", "no-policy", "short-table"]);
    for number in 1..=4 {
        assert_eq!(
            (scene.meets(number), scene.meets_directly(number)),
            (IN.into(), IN.into())
        );
    }
    let before = scene.errors(InternalError::Policy);

    // The table is gone.
    let policy = scene.services(2)[0].1.policy;
    assert_eq!(scene.endpoints(2)[0].1.policy, policy);
    scene.maps.delete_policy(policy).unwrap();
    assert_eq!(scene.meets(2), DENIED);
    assert_eq!(scene.errors(InternalError::Policy), before + 2);
    assert_eq!(scene.meets_directly(2), SILENCE);
    assert!(
        scene.errors(InternalError::Policy) >= before + 4,
        "at the server, too"
    );

    // The row names one that never was.
    scene.change(3, |row| row.policy = NOWHERE);
    assert_eq!(scene.meets(3), DENIED);
    for (key, mut row) in scene.endpoints(3) {
        row.policy = NOWHERE;
        scene.maps.put_endpoint(&key, &row).unwrap();
    }
    assert_eq!(scene.meets_directly(3), SILENCE);

    // The client is newer than the table.
    let (cgroup, entry) = scene.maps.cgroups().unwrap()[0];
    let newer = CgroupEntry {
        identity: 60_000,
        ..entry
    };
    scene.maps.put_cgroup(cgroup, &newer).unwrap();
    assert_eq!(scene.meets(4), DENIED);
    scene.maps.put_cgroup(cgroup, &entry).unwrap();
    assert_eq!(scene.meets(4), IN);
    for (prefix, identity) in scene.maps.identities().unwrap() {
        scene.maps.put_identity(prefix, 60_000).unwrap();
        assert_ne!(identity, 60_000);
    }
    assert_eq!(scene.meets_directly(4), SILENCE);

    // Nobody knows who the client is any more.
    for (prefix, _) in scene.maps.identities().unwrap() {
        scene.maps.delete_identity(prefix).unwrap();
    }
    assert_eq!(scene.meets_directly(1), SILENCE);
    scene.maps.delete_cgroup(cgroup).unwrap();
    assert_eq!(scene.meets(1), DENIED);
    drop(scene.server);
}

#[test]
fn an_error_in_anything_else_cuts_nothing_that_has_somewhere_to_go() {
    let mut scene = Scene::new(&["no-rules", "no-slots", "no-backend", "no-endpoint", "gone"]);
    for number in 1..=5 {
        assert_eq!(scene.meets(number), IN);
    }
    // Limits and health that cannot be found do not hold.
    scene.change(1, |row| row.rules = u32::MAX);
    assert_eq!(scene.meets(1), IN);

    // There is nowhere to send it.
    let before = scene.errors(InternalError::SlotTable);
    scene.change(2, |row| row.id = NOWHERE);
    assert_eq!(scene.meets(2), REFUSED);
    assert!(scene.errors(InternalError::SlotTable) >= before + 2);
    let before = scene.errors(InternalError::Backend);
    for (_, endpoint) in scene.endpoints(3) {
        scene
            .maps
            .put_backend(endpoint.backend, &Backend::UNUSED)
            .unwrap();
    }
    assert_eq!(scene.meets(3), REFUSED);
    assert!(scene.errors(InternalError::Backend) >= before + 2);

    // A replica that is no endpoint of the mesh is not metered, and guarded by its clients' nodes alone.
    for (key, _) in scene.endpoints(4) {
        scene.maps.delete_endpoint(&key).unwrap();
    }
    assert_eq!((scene.meets(4), scene.meets_directly(4)), (IN.into(), IN.into()));

    // An address that is no service any more passes untouched, to where it leads by itself.
    for (key, _) in scene.services(5) {
        scene.maps.delete_service(&key).unwrap();
    }
    assert_ne!(scene.meets(5), DENIED);
    assert_eq!(scene.meets_directly(5), IN);
    drop(scene.server);
}
