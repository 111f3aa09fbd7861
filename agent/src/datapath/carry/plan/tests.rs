// SPDX-License-Identifier: Apache-2.0
//! What becomes of maps of other layouts.

use super::*;

const ARRAY: u32 = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
const STORAGE: u32 = bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as u32;
const RING: u32 = bpf_map_type::BPF_MAP_TYPE_RINGBUF as u32;

fn shape(name: &'static str, base: u32, since: u32, door: Option<Door>) -> Shape {
    Shape {
        name,
        key: 4,
        value: 16,
        layout: Layout { base, since },
        door,
    }
}

fn form(kind: u32, value: usize) -> Form {
    Form { kind, key: 4, value }
}

/// Turns a value around, unless it is empty.
fn backwards(_: Layout, value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.iter().rev().copied().collect())
}

/// What becomes of a map `name` with the layout `own`, of which the other version has `former`: (base, since).
fn chosen(
    name: &'static str,
    own: (u32, u32),
    door: Option<Door>,
    form: Form,
    former: Option<(u32, u32)>,
) -> Choice {
    let former = former.map(|(base, since)| Layout { base, since });
    choose(&shape(name, own.0, own.1, door), form, former)
}

fn rows(base: u32, since: u32, door: Option<Door>) -> Choice {
    Choice::Rows(Translation {
        former: Layout { base, since },
        door,
    })
}

#[test]
fn a_map_is_shared_where_both_versions_have_it_alike() {
    let of = |own, form, former| chosen("m", own, None, form, former);
    assert_eq!(of((3, 5), form(ARRAY, 16), Some((3, 5))), Choice::Share);
    assert_eq!(of((3, 3), form(RING, 16), Some((3, 3))), Choice::Share);
    // Of another size than it says, or of which nobody told.
    assert_eq!(of((3, 5), form(ARRAY, 8), Some((3, 5))), Choice::Anew);
    assert_eq!(of((3, 3), form(ARRAY, 16), None), Choice::Anew);
}

#[test]
fn rows_are_translated_where_one_layout_is_known_from_the_other() {
    let door: Option<Door> = Some(backwards);
    let of = |own, door, form, former| chosen("m", own, door, form, Some(former));
    assert_eq!(
        of((3, 5), None, form(ARRAY, 8), (3, 3)),
        rows(3, 3, None),
        "grown"
    );
    assert_eq!(
        of((3, 3), None, form(ARRAY, 24), (3, 9)),
        rows(3, 9, None),
        "shrunk"
    );
    assert_eq!(of((5, 5), door, form(ARRAY, 8), (3, 3)), rows(3, 3, door));
    assert_eq!(of((5, 5), None, form(ARRAY, 8), (3, 3)), Choice::Anew, "no door");
    assert_eq!(
        of((5, 5), door, form(ARRAY, 16), (9, 9)),
        Choice::Anew,
        "the future"
    );
}

#[test]
fn only_records_of_connections_are_copied() {
    let of = |name| chosen(name, (3, 5), None, form(STORAGE, 8), Some((3, 3)));
    assert_eq!(of(map::CONNECTIONS), Choice::Records(8));
    assert_eq!(of(map::STREAMS), Choice::Anew);
}

#[test]
fn an_older_version_that_did_not_tell_has_what_ours_says_of_its_time() {
    let of = |base, since, version| untold(&shape("m", base, since, None), version);
    let at_3 = Some(Layout { base: 3, since: 3 });
    assert_eq!(of(3, 3, 3), at_3);
    assert_eq!(of(3, ABI_VERSION, 3), at_3, "before it grew");
    assert_eq!(of(ABI_VERSION, ABI_VERSION, 3), at_3, "before it changed");
    assert_eq!(of(3, 3, ABI_VERSION + 1), None);
}

#[test]
fn values_are_filled_up_cut_off_or_go_through_the_door() {
    let shape = shape("m", 3, 5, None);
    let grown = Translation {
        former: Layout { base: 3, since: 3 },
        door: None,
    };
    assert_eq!(grown.apply(&shape, &[7; 8]), Some([[7; 8], [0; 8]].concat()));
    assert_eq!(grown.apply(&shape, &[7; 24]), Some(vec![7; 16]));
    let through = Translation {
        door: Some(backwards),
        ..grown
    };
    let value: Vec<u8> = (0..16).collect();
    assert_eq!(through.apply(&shape, &value), Some((0..16).rev().collect()));
    assert_eq!(through.apply(&shape, &[1]), None, "what is not of our length");
}

#[test]
fn connections_and_their_counts_go_together() {
    let all = COUNTS_OF_CONNECTIONS
        .into_iter()
        .chain([map::CONNECTIONS, map::AFFINITY]);
    let without_flows: BTreeMap<&'static str, Choice> = all.map(|name| (name, Choice::Share)).collect();
    assert_eq!(
        together(without_flows.clone()),
        without_flows,
        "of a version without"
    );
    let flows = TABLE_OF_FLOWS.map(|name| (name, Choice::Share));
    let shared: BTreeMap<&'static str, Choice> = without_flows.into_iter().chain(flows).collect();
    assert_eq!(together(shared.clone()), shared);
    for broken in [map::CONNECTIONS, map::TRAFFIC, map::TRACK_INDEX] {
        let mut choices = shared.clone();
        choices.insert(broken, Choice::Anew);
        let choices = together(choices);
        let kept = choices.iter().filter(|(_, choice)| **choice == Choice::Share);
        assert_eq!(
            kept.map(|(name, _)| *name).collect::<Vec<_>>(),
            [map::AFFINITY],
            "without {broken}"
        );
    }
}
