// SPDX-License-Identifier: Apache-2.0
//! What `to_xds` writes reads back, whatever the resources and in whatever order they come.

use nodemesh_model::strategy;
use proptest::prelude::*;

use super::wire::{assert_no_complaint, compiled, desired_of, merged, put_all, received, sent};
use crate::from_xds::Received;

proptest! {
    #[test]
    fn everything_reads_back(documents in strategy::documents()) {
        let resources = merged(documents);
        let mut received = received(&sent(&resources));
        let assembled = received.assemble();
        assert_no_complaint(&assembled);
        prop_assert_eq!(desired_of(&assembled), compiled(&resources));
    }

    #[test]
    fn the_order_does_not_matter(
        (documents, sent) in strategy::documents().prop_flat_map(|documents| {
            let sent = sent(&merged(documents.clone()));
            (Just(documents), Just(sent).prop_shuffle())
        })
    ) {
        let mut received = Received::default();
        for message in &sent {
            put_all(&mut received, [message]);
            // Between any two resources a node may have to work with what there is.
            let assembled = received.assemble();
            prop_assert_eq!(&assembled.rejected, &[]);
            desired_of(&assembled);
        }
        let assembled = received.assemble();
        assert_no_complaint(&assembled);
        prop_assert_eq!(desired_of(&assembled), compiled(&merged(documents)));
    }

    #[test]
    fn a_change_gives_what_a_new_start_gives(
        before in strategy::documents(), after in strategy::documents(),
    ) {
        let (before, after) = (sent(&merged(before)), sent(&merged(after.clone())));
        let mut received = received(&before);
        received.assemble();
        put_all(&mut received, &after);
        for (name, any) in &before {
            let stays = after.iter().any(|(other, of)| (name, &any.type_url) == (other, &of.type_url));
            if !stays {
                prop_assert!(received.remove(&any.type_url, name));
            }
        }
        let assembled = received.assemble();
        assert_no_complaint(&assembled);
        let from_scratch = super::wire::received(&after).assemble();
        prop_assert_eq!(desired_of(&assembled), desired_of(&from_scratch));
        for type_url in super::wire::TYPES {
            let mut expected: Vec<_> = after
                .iter()
                .filter(|(_, any)| any.type_url == type_url)
                .map(|(name, _)| name.as_str())
                .collect();
            expected.sort_unstable();
            prop_assert_eq!(received.names(type_url), expected);
        }
    }
}
