// SPDX-License-Identifier: Apache-2.0
//! Where a TLS handshake ends among the bytes of a client. Its last record often shares a read with the first request, whose bytes
//! and time of arrival would be lost otherwise.
//!
//! Used by [`super::recorder`] until the handshake is over. Invariant: walks record headers only, so it works on any ciphertext.

/// Content type of sealed records.
const SEALED: u8 = 0x17;
const HEADER_BYTES: usize = 5;

/// The records of a client so far.
#[derive(Default)]
pub(super) struct Handshake {
    header: Vec<u8>,
    /// Bytes left of the record after its header.
    left: usize,
    sealed: Vec<Sealed>,
}

/// A sealed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) bytes: u64,
    /// Its first byte was read.
    pub(super) first_ns: u64,
}

impl Handshake {
    /// Takes the bytes of a read.
    pub(super) fn read(&mut self, mut bytes: &[u8], now_ns: u64) {
        while let Some(&first) = bytes.first() {
            if self.left == 0 {
                if self.header.is_empty() && first == SEALED {
                    self.sealed.push(Sealed {
                        bytes: 0,
                        first_ns: now_ns,
                    });
                }
                self.header.push(first);
                self.count(1);
                bytes = &bytes[1..];
                if let [_, _, _, high, low] = self.header[..] {
                    self.left = u16::from_be_bytes([high, low]).into();
                }
            } else {
                let (part, rest) = bytes.split_at(self.left.min(bytes.len()));
                self.count(part.len());
                self.left -= part.len();
                bytes = rest;
            }
            if self.left == 0 && self.header.len() == HEADER_BYTES {
                self.header.clear();
            }
        }
    }

    fn count(&mut self, bytes: usize) {
        if self.header.first() == Some(&SEALED)
            && let Some(record) = self.sealed.last_mut()
        {
            record.bytes += bytes as u64;
        }
    }

    /// The records that are not of the handshake: in TLS 1.3, the first sealed one still is.
    pub(super) fn application(&self, is_v13: bool) -> &[Sealed] {
        self.sealed.get(usize::from(is_v13)..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Handshake, Sealed};

    fn record(kind: u8, length: u8) -> Vec<u8> {
        [vec![kind, 3, 3, 0, length], vec![SEALED_LOOKALIKE; length.into()]].concat()
    }

    const SEALED_LOOKALIKE: u8 = 0x17;

    #[test]
    fn application_bytes_are_found_wherever_reads_are_split() {
        let all = [
            record(22, 40),
            record(20, 1),
            record(23, 30),
            record(23, 50),
            record(23, 9),
        ]
        .concat();
        let request = all.len() - 5 - 50 - 5 - 9;
        for split in 1..all.len() {
            let mut handshake = Handshake::default();
            handshake.read(&all[..split], 1);
            handshake.read(&all[split..], 2);
            let first_ns = if split > request { 1 } else { 2 };
            let application = handshake.application(true);
            assert_eq!(application[0], Sealed { bytes: 55, first_ns }, "split at {split}");
            assert_eq!(
                application.iter().map(|record| record.bytes).sum::<u64>(),
                55 + 14
            );
            assert_eq!(handshake.application(false).len(), 3);
        }
    }

    #[test]
    fn a_handshake_alone_has_no_application_bytes() {
        let mut handshake = Handshake::default();
        handshake.read(&[record(22, 40), record(20, 1), record(23, 30)].concat(), 1);
        assert_eq!(handshake.application(true), []);
    }
}
