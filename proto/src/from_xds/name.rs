// SPDX-License-Identifier: Apache-2.0
//! Names of services whose listeners do not say which service they are of.
//!
//! Invariant: a listener always gets the same name, and two listeners different ones (as far as 32 bits of hash tell them apart).

use nodemesh_model::{
    Problem, ResourceName,
    name::{DEFAULT_NAMESPACE, dns_label},
};

/// Longest part of a listener's name that is kept, so that a hash fits behind it.
const MAX_KEPT: usize = 63 - 9;

/// The service of the listener `listener`, as far as its metadata says `namespace` and `name`.
pub(super) fn service_name(
    listener: &str,
    namespace: Option<&str>,
    name: Option<&str>,
) -> Result<ResourceName, Problem> {
    let namespace = namespace.unwrap_or(DEFAULT_NAMESPACE);
    match name {
        Some(name) => ResourceName::new(namespace, name),
        None => ResourceName::new(namespace, &derived(listener)),
    }
}

/// A DNS label for any text: itself if it is one, else what it has of a label and a hash.
fn derived(text: &str) -> String {
    if dns_label(text).is_ok() {
        return text.to_owned();
    }
    let mut kept = String::new();
    for char in text.chars().map(|char| char.to_ascii_lowercase()) {
        if kept.len() == MAX_KEPT {
            break;
        }
        if char.is_ascii_alphanumeric() {
            kept.push(char);
        } else if !kept.is_empty() && !kept.ends_with('-') {
            kept.push('-');
        }
    }
    let kept = match kept.trim_end_matches('-') {
        "" => "listener",
        kept => kept,
    };
    format!("{kept}-{:08x}", fnv_1a(text) >> 32)
}

fn fnv_1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_stay_readable() {
        assert_eq!(derived("llama-8000"), "llama-8000");
        let of = |text| {
            derived(text)
                .rsplit_once('-')
                .map(|(kept, _)| kept.to_owned())
                .unwrap()
        };
        assert_eq!(of("listener_0"), "listener-0");
        assert_eq!(of("10.96.0.10_8000"), "10-96-0-10-8000");
        assert_eq!(of("Outbound|8000||LLaMA.models"), "outbound-8000-llama-models");
        assert_eq!(of("ä/ö"), "listener");
        assert_ne!(derived("A"), derived("a_"));
    }

    proptest! {
        #[test]
        fn any_text_has_a_name(text in ".*") {
            prop_assert!(service_name(&text, None, None).is_ok());
        }
    }
}
