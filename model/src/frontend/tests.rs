// SPDX-License-Identifier: Apache-2.0
//! Slot tables of frontends: which backends they hold, and by which ids.

use std::collections::BTreeSet;

use super::*;

fn frontend(table_size: Option<u32>, backends: &[(u32, BackendState)]) -> Frontend {
    let addr: IpAddr = "10.96.0.10".parse().unwrap();
    let backend = |(index, (weight, state)): (usize, &(u32, BackendState))| FrontendBackend {
        addr: IpAddr::from([10, 1, 0, index as u8]).into(),
        port: Port::new(8000),
        weight: *weight,
        state: *state,
        workload: None,
        locality: None,
        is_local: false,
        tier: 0,
    };
    Frontend {
        key: ServiceKey::new(addr.into(), Port::new(80), Protocol::Tcp as u8),
        service: ResourceName::new("models", "llama").unwrap(),
        model: None,
        port_name: None,
        algorithm: if table_size.is_some() {
            Algorithm::Maglev
        } else {
            Algorithm::LeastRequest
        },
        table_size,
        client_key: ClientKeySource::Workload,
        affinity_timeout_s: 0,
        access: None,
        rules: ServiceRules::shared_default(),
        backends: backends.iter().enumerate().map(backend).collect(),
        packet: None,
    }
}

use BackendState::{Active, Draining, Unhealthy};

#[test]
fn the_name_tells_address_family_port_and_protocol() {
    assert_eq!(
        frontend(None, &[]).name().to_string(),
        "models/llama:80/TCP (IPv4)"
    );
}

#[test]
fn the_packet_table_maps_alike_whatever_the_tiers_are() {
    let mut frontend = frontend(None, &[(1, Active), (3, Draining), (3, Active)]);
    let id_of = |index| 100 + index as u32;
    assert_eq!(frontend.packet_table(id_of), [Slot::EMPTY], "off the packet path");
    frontend.packet = Some(FrontendPacket {
        mode: PacketMode::Snat,
        node_port: None,
        external: Vec::new(),
        table_size: 1_021,
    });
    let table = frontend.packet_table(id_of);
    let share = table.iter().filter(|slot| slot.backend == 102).count();
    assert!(table.len() == 1_021 && (756..=776).contains(&share), "{share}");
    assert!(table.iter().all(|slot| slot.backend != 101));
    frontend.backends[2].tier = 1;
    assert_eq!(frontend.packet_table(id_of), table);
}

#[test]
fn packet_tables_have_about_a_hundred_slots_per_backend() {
    for backends in [1, 2, 3, 10, 40, 41, 160, 1_300, 10_000] {
        let size = packet_table_size(backends) as usize;
        let is_prime = (2..1_100).all(|divisor| divisor >= size || !size.is_multiple_of(divisor));
        assert!(size >= 100 * backends && is_prime, "{backends}: {size}");
    }
}

#[test]
fn only_active_backends_get_slots() {
    for size in [None, Some(251)] {
        let table = frontend(size, &[(1, Draining), (3, Active), (1, Unhealthy), (1, Active)])
            .slot_table(|index| 100 + index as u32);
        assert!(table.iter().all(|slot| slot.len as usize == table.len()));
        assert_eq!(table.len(), size.unwrap_or(2) as usize);
        let ids: BTreeSet<u32> = table.iter().flat_map(|slot| [slot.backend, slot.alias]).collect();
        assert_eq!(ids, BTreeSet::from([101, 103]));
    }
}

#[test]
fn without_an_active_backend_the_table_is_the_empty_slot() {
    for size in [None, Some(251)] {
        assert_eq!(frontend(size, &[(1, Draining)]).slot_table(|_| 1), [Slot::EMPTY]);
        assert_eq!(frontend(size, &[]).slot_table(|_| 1), [Slot::EMPTY]);
    }
}

#[test]
fn a_backend_that_drains_takes_only_its_own_keys_of_a_maglev_table_with_it() {
    let all = [(1, Active); 5];
    let mut drained = all;
    drained[2].1 = Draining;
    let id = |index: usize| index as u32;
    let (before, after) = (
        frontend(Some(16_381), &all).slot_table(id),
        frontend(Some(16_381), &drained).slot_table(id),
    );
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| old.backend != new.backend)
        .count();
    let own = before.iter().filter(|slot| slot.backend == 2).count();
    assert!(
        moved >= own && moved * 100 <= own * 105,
        "{moved} moved, {own} had to"
    );
}

#[test]
fn the_default_table_size_grows_with_the_number_of_backends() {
    for (asked, backends, expected) in [
        (None, 0, 16_381),
        (None, 64, 16_381),
        (None, 65, 131_071),
        (None, 200, 131_071),
        (None, 201, 1_048_573),
        (None, 1_000_000, 1_048_573),
        (Some(251), 251, 251),
        (Some(251), 252, 1_048_573),
    ] {
        assert_eq!(table_size(asked, backends), expected, "{asked:?}, {backends}");
    }
}

#[test]
fn the_hash_of_a_backend_is_a_constant() {
    let backend = &frontend(None, &[(1, Active)]).backends[0];
    let expected = mix(mix(mix(0) ^ 0x0000_ffff_0a01_0000) ^ 0x1f40);
    assert_eq!(backend.stable_hash(), expected);
}
