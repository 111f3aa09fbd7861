// SPDX-License-Identifier: Apache-2.0
//! Bytes to messages. Called by the reader of each message that stands in an `Any`.
//!
//! Invariant: fields that the message of this release does not have are told, not dropped in silence.

use prost::Message;

use super::notes::{IGNORED, Notes, Place, Read};

/// Decodes the message at `place`.
pub(crate) fn decode<M: Message + Default>(bytes: &[u8], place: Place<'_>, notes: &mut Notes) -> Read<M> {
    let message = match M::decode(bytes) {
        Ok(message) => message,
        Err(error) => {
            return place.refuse(format_args!(
                "cannot be decoded: {error}; send a message of the type it is said to have"
            ));
        }
    };
    // What the decoder skips is missing from the length.
    if message.encoded_len() < bytes.len() {
        notes.add(place, "(a field newer than this release)", IGNORED);
    }
    Ok(message)
}
