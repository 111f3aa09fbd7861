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

const fn layout(base: u32, since: u32) -> Option<Layout> {
    Some(Layout { base, since })
}

fn backwards(_: Layout, value: &[u8]) -> Option<Vec<u8>> {
    Some(value.iter().rev().copied().collect())
}

#[test]
fn a_map_is_shared_translated_or_begins_anew() {
    let door: Option<Door> = Some(backwards);
    let rows = |former: Option<Layout>, door| {
        Choice::Rows(Translation {
            former: former.unwrap(),
            door,
        })
    };
    let cases: [(&str, Shape, Form, Option<Layout>, Choice); 11] = [
        (
            "the same",
            shape("m", 3, 5, None),
            form(ARRAY, 16),
            layout(3, 5),
            Choice::Share,
        ),
        (
            "a ring buffer",
            shape("m", 3, 3, None),
            form(RING, 16),
            layout(3, 3),
            Choice::Share,
        ),
        (
            "of another size than it says",
            shape("m", 3, 5, None),
            form(ARRAY, 8),
            layout(3, 5),
            Choice::Anew,
        ),
        (
            "grown since",
            shape("m", 3, 5, None),
            form(ARRAY, 8),
            layout(3, 3),
            rows(layout(3, 3), None),
        ),
        (
            "shrunk again",
            shape("m", 3, 3, None),
            form(ARRAY, 24),
            layout(3, 9),
            rows(layout(3, 9), None),
        ),
        (
            "changed, with a door",
            shape("m", 5, 5, door),
            form(ARRAY, 8),
            layout(3, 3),
            rows(layout(3, 3), door),
        ),
        (
            "changed, without",
            shape("m", 5, 5, None),
            form(ARRAY, 8),
            layout(3, 3),
            Choice::Anew,
        ),
        (
            "from the future",
            shape("m", 5, 5, door),
            form(ARRAY, 16),
            layout(9, 9),
            Choice::Anew,
        ),
        (
            "nobody told",
            shape("m", 3, 3, None),
            form(ARRAY, 16),
            None,
            Choice::Anew,
        ),
        (
            "records",
            shape(map::CONNECTIONS, 3, 5, None),
            form(STORAGE, 8),
            layout(3, 3),
            Choice::Records(8),
        ),
        (
            "records of another kind",
            shape("m", 3, 5, None),
            form(STORAGE, 8),
            layout(3, 3),
            Choice::Anew,
        ),
    ];
    for (name, shape, form, former, expected) in cases {
        assert_eq!(choose(&shape, form, former), expected, "{name}");
    }
}

#[test]
fn an_older_version_that_did_not_tell_has_what_ours_says_of_its_time() {
    let of = |base, since, version| untold(&shape("m", base, since, None), version);
    assert_eq!(of(3, 3, 3), layout(3, 3));
    assert_eq!(of(3, ABI_VERSION, 3), layout(3, 3), "before it grew");
    assert_eq!(of(ABI_VERSION, ABI_VERSION, 3), layout(3, 3), "before it changed");
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
    let shared: BTreeMap<&'static str, Choice> = all.map(|name| (name, Choice::Share)).collect();
    assert_eq!(together(shared.clone()), shared);
    for broken in [map::CONNECTIONS, map::TRAFFIC] {
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
