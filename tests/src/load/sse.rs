// SPDX-License-Identifier: Apache-2.0
//! Server-sent events, parsed as the bytes come. Only `data` matters here; other fields and comments are skipped.
//! Rules: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>.

/// Parser of one stream. Bytes may be split anywhere, also within a line end.
#[derive(Default)]
pub(super) struct SseParser {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    after_cr: bool,
}

impl SseParser {
    /// Takes the next bytes and calls `on_event` with the data of each event that they complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut on_event: impl FnMut(&[u8])) {
        while let Some((&first, rest)) = bytes.split_first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = rest;
                continue;
            }
            let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.extend_from_slice(bytes);
                return;
            };
            self.after_cr = bytes[end] == b'\r';
            self.line.extend_from_slice(&bytes[..end]);
            self.end_line(&mut on_event);
            bytes = &bytes[end + 1..];
        }
    }

    fn end_line(&mut self, on_event: &mut impl FnMut(&[u8])) {
        if self.line.is_empty() {
            if std::mem::take(&mut self.has_data) {
                on_event(&self.data);
            }
            self.data.clear();
            return;
        }
        if let Some(value) = data_value(&self.line) {
            if std::mem::replace(&mut self.has_data, true) {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(value);
        }
        self.line.clear();
    }
}

/// The value of a `data` field; `None` for every other line.
fn data_value(line: &[u8]) -> Option<&[u8]> {
    match line.strip_prefix(b"data")? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}
