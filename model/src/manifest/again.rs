// SPDX-License-Identifier: Apache-2.0
//! Parses a text that was parsed before in another version: only the documents that changed are read.
//!
//! Used by `Manifest::parse_again`. Invariant: the result is that of parsing the whole text; where that is not certain, the whole
//! text is parsed.

use std::iter;

use super::{Document, Manifest};

/// The manifest of `text`, if it can be put together from `former`, which is that of `former_text`.
pub(super) fn patched(text: &str, former_text: &str, former: &Manifest) -> Option<Manifest> {
    if !former.errors.is_empty() || !is_plain(text) || !is_plain(former_text) {
        return None;
    }
    let (new, old): (Vec<&str>, Vec<&str>) = (chunks(text).collect(), chunks(former_text).collect());
    let head = new.iter().zip(&old).take_while(|(new, old)| new == old).count();
    let (new_rest, old_rest) = (&new[head..], &old[head..]);
    let tail = new_rest
        .iter()
        .rev()
        .zip(old_rest.iter().rev())
        .take_while(|(new, old)| new == old)
        .count();

    let count = |chunks: &[&str]| chunks.iter().filter(|chunk| has_content(chunk)).count();
    let (before, after) = (count(&old[..head]), count(&old_rest[old_rest.len() - tail..]));
    if count(&old) != former.documents.len() {
        return None;
    }
    let changed: String = new_rest[..new_rest.len() - tail].concat();
    let middle = Manifest::parse(&changed);
    if !middle.errors.is_empty() {
        // The whole text tells the right places.
        return None;
    }
    let kept = former.documents.len() - after;
    let documents = former.documents[..before]
        .iter()
        .chain(&middle.documents)
        .chain(&former.documents[kept..]);
    let number = |(index, document): (usize, &Document)| Document {
        number: index + 1,
        ..document.clone()
    };
    Some(Manifest {
        documents: documents.enumerate().map(number).collect(),
        ..Manifest::default()
    })
}

/// Whether documents are told apart by `---` alone: no directives, no end markers, no line ends of another kind.
fn is_plain(text: &str) -> bool {
    !text.contains('\r')
        && !text
            .lines()
            .any(|line| line.starts_with('%') || line.starts_with("..."))
}

/// The text, cut before each document marker: `---` at the start of a line, which no scalar can contain (YAML 1.2, 9.1.2).
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let is_marker = |at: &usize| rest[at + 4..].chars().next().is_none_or(char::is_whitespace);
        let end = rest
            .match_indices("\n---")
            .map(|(at, _)| at)
            .find(is_marker)
            .map_or(rest.len(), |at| at + 1);
        let (chunk, later) = rest.split_at(end);
        rest = later;
        Some(chunk)
    })
}

/// Whether a chunk is a document: it has more than its marker, blank lines and comments.
fn has_content(chunk: &str) -> bool {
    let body = chunk.strip_prefix("---").unwrap_or(chunk);
    body.lines()
        .map(str::trim)
        .any(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// Pieces of a text: a service by number, or something that is no document, or no resource.
    fn text(pieces: &[u8]) -> String {
        pieces.iter().fold(String::new(), |mut text, piece| {
            let _ = match piece {
                0 => write!(text, "---\n# only a comment\n"),
                1 => write!(text, "---\n\n"),
                2 => write!(text, "--- # with a comment\nkind: Nothing\n"),
                3 => write!(text, "---\nkind: [\n"),
                4 => writeln!(text, "%YAML 1.2"),
                5 => writeln!(text, "..."),
                6 => write!(text, "---\n~\n"),
                n => writeln!(
                    text,
                    "---\napiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: s{n}}}\n\
                     spec: {{addresses: [10.96.0.{n}], ports: [{{port: 80}}]}}"
                ),
            };
            text
        })
    }

    fn described(manifest: &Manifest) -> String {
        format!("{:?} {:?}", manifest.documents, manifest.errors)
    }

    proptest! {
        #[test]
        fn the_result_is_that_of_the_whole_text(
            old in prop::collection::vec(0..24_u8, 0..12),
            at in 0..12_usize,
            removed in 0..3_usize,
            added in prop::collection::vec(0..24_u8, 0..3),
        ) {
            let at = at.min(old.len());
            let mut new = old.clone();
            new.splice(at..(at + removed).min(old.len()), added);
            let (old, new) = (text(&old), text(&new));
            let former = Manifest::parse(&old);
            prop_assert_eq!(described(&Manifest::parse_again(&new, &old, &former)), described(&Manifest::parse(&new)));
        }
    }

    #[test]
    fn unchanged_documents_are_not_read_again() {
        let (old, new) = (text(&[7, 8, 0, 9]), text(&[7, 10, 0, 9]));
        let former = Manifest::parse(&old);
        let manifest = patched(&new, &old, &former).unwrap();
        let same = |index: usize| {
            format!("{:?}", manifest.documents[index]) == format!("{:?}", former.documents[index])
        };
        assert_eq!(
            (manifest.documents.len(), same(0), same(1), same(2)),
            (3, true, false, true)
        );
    }
}
