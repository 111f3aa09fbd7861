// SPDX-License-Identifier: Apache-2.0
//! Bytes that nobody meant: they are refused, or they come to something that the model takes; there is no third way.

use nodemesh_model::strategy;
use proptest::{collection::vec, prelude::*, sample::Index};

use super::wire::{TYPES, desired_of, merged, received, sent};
use crate::from_xds::Received;

/// One change to the bytes of a message.
#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index),
    Double(Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        2 => (any::<Index>(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        1 => any::<Index>().prop_map(Mutation::Cut),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Mutation::Double(from, to)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let len = bytes.len();
    match mutation {
        Mutation::Set(at, byte) => bytes[at.index(len)] = *byte,
        Mutation::Insert(at, new) => {
            let at = at.index(len);
            bytes.splice(at..at, new.iter().copied());
        }
        Mutation::Cut(at) => bytes.truncate(at.index(len)),
        Mutation::Double(from, to) => {
            let part = bytes[from.index(len)..].to_vec();
            let to = to.index(len);
            bytes.splice(to..to, part);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes(puts in vec((0..TYPES.len(), "[ab]", vec(any::<u8>(), 0..64)), 0..32)) {
        let mut received = Received::default();
        for (kind, name, bytes) in puts {
            let _ = received.put(TYPES[kind], &name, &bytes);
        }
        desired_of(&received.assemble());
    }

    #[test]
    fn mutated_messages(
        documents in strategy::documents(),
        mutations in vec((any::<Index>(), vec(mutation(), 1..4)), 1..24),
    ) {
        let sent = sent(&merged(documents));
        let mut received = received(&sent);
        desired_of(&received.assemble());
        for (which, mutations) in mutations {
            if sent.is_empty() {
                break;
            }
            let (name, any) = &sent[which.index(sent.len())];
            let mut bytes = any.value.clone();
            for mutation in &mutations {
                mutate(&mut bytes, mutation);
            }
            let _ = received.put(&any.type_url, name, &bytes);
            desired_of(&received.assemble());
        }
    }
}
