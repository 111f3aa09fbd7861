// SPDX-License-Identifier: Apache-2.0
//! Takes secrets out of a text: private keys, tokens, passwords, whatever form they have.
//!
//! Invariant: works line by line on any text and rather takes too much than too little; names and paths of files stay, since they are
//! what one looks for.

use std::sync::LazyLock;

use regex::{Captures, Regex};

const GONE: &str = "[removed]";

/// `name: value`, `"name": "value"`, `name=value` and `--name value`, where the name says that the value is secret. The value goes to
/// the end of its quotes, or of the word.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"(?i)([A-Za-z0-9_.-]*(?:token|passw(?:or)?d|passphrase|secret|credentials?|api[_-]?key|private[_-]?key|client[_-]?key|access[_-]?key|authorization|cookie2?_secret)[A-Za-z0-9_.-]*["']?\s*(?::|=|\s)\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,;}\]]+)"#,
    )
});
/// `Authorization: Bearer x`, `Basic x`.
static SCHEME: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/._~=-]{8,}"));
/// A JSON web token.
static WEB_TOKEN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"));
/// User and password of a URL.
static USER: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@]+@"));
/// Keys of well-known services, by how they begin.
static KNOWN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"\b(sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[opsu]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{12,})")
});

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of this file")
}

/// The text without secrets.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
        if begins || in_key {
            // In one line, as in JSON, or in many.
            in_key = !line.contains("-----END");
            if begins {
                out.push_str(GONE);
                out.push('\n');
            }
            continue;
        }
        out.push_str(&redact_line(line));
    }
    out
}

fn redact_line(line: &str) -> String {
    let line = USER.replace_all(line, format!("${{1}}{GONE}@"));
    let line = SCHEME.replace_all(&line, format!("$1 {GONE}"));
    let line = WEB_TOKEN.replace_all(&line, GONE);
    let line = KNOWN.replace_all(&line, GONE);
    NAMED.replace_all(&line, named).into_owned()
}

/// What takes the place of a name and its value.
fn named(found: &Captures<'_>) -> String {
    let (name, value) = (&found[1], &found[2]);
    let bare = value.trim_matches(['"', '\'']);
    if is_harmless(name, bare) {
        return found[0].to_owned();
    }
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => format!("{name}{quote}{GONE}{quote}"),
        _ => format!("{name}{GONE}"),
    }
}

/// Whether the value is no secret although the name has such a word: the path of a file, a number, a unit of text, as in
/// `time_to_first_token_seconds 0.5`.
fn is_harmless(name: &str, value: &str) -> bool {
    let name = name
        .trim_end_matches([' ', ':', '=', '"', '\'', '\t'])
        .to_lowercase();
    let names_a_file = name.ends_with("file") || name.ends_with("path") || name.ends_with("-key");
    let is_path = value.starts_with('/') && names_a_file;
    let counts = [
        "first_token",
        "inter_token",
        "tokens",
        "prefill_token",
        "token_latency",
        "per_token",
    ];
    let is_measured =
        counts.iter().any(|word| name.contains(word)) || value.parse::<f64>().is_ok() && value.len() < 6;
    let is_empty = matches!(value, "" | "null" | "true" | "false" | "{" | "[");
    is_path || is_measured || is_empty
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "s3cr3tValue99";

    #[test]
    fn secrets_go_in_whatever_form_they_come() {
        let cases = [
            format!("token: {SECRET}"),
            format!("  apiToken: \"{SECRET}\""),
            format!("{{\"password\":\"{SECRET} with blanks\",\"a\":1}}"),
            format!("DB_PASSWORD={SECRET}"),
            format!("--client-secret {SECRET} --other"),
            format!("authorization: Bearer {SECRET}"),
            format!("header Authorization=Basic {SECRET}=="),
            format!("https://user:{SECRET}@host:15010/"),
            format!("api_key='{SECRET}'"),
            format!("apiKey: sk-{SECRET}0123456789"),
            format!("x sk-{SECRET}0123456789 y"),
            format!("jwt eyJhbGciOi.{SECRET}.{SECRET}"),
            format!("-----BEGIN EC PRIVATE KEY-----\n{SECRET}\n-----END EC PRIVATE KEY-----\n"),
            format!("\"key\": \"-----BEGIN PRIVATE KEY-----\\n{SECRET}\\n-----END PRIVATE KEY-----\"\n"),
        ];
        for text in cases {
            let left = redact(&text);
            assert!(
                !left.contains(SECRET) && left.contains(GONE),
                "{text:?} became {left:?}"
            );
        }
    }

    #[test]
    fn what_one_looks_for_stays() {
        for text in [
            "\"control-token-file\": \"/etc/nodemesh/token\",",
            "\"control-key\": \"/pki/agent.key\"",
            "nodemesh_time_to_first_token_seconds_bucket{le=\"0.5\"} 12",
            "# HELP nodemesh_inter_token_latency_seconds Gap between tokens, in seconds.",
            "\"time_to_first_token_seconds_p50\": 0.25,",
            "kind: Service\nmetadata: {name: chat, namespace: models}\n",
            "spec: {selector: {app: llama}, ports: [{port: 8000}]}",
            "control https://10.0.0.1:15010 for 3s",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            "token: null",
            "a line without anything\n\nand its end",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn the_rest_of_a_line_and_the_lines_around_stay() {
        let text = format!("before\nname: a, password: {SECRET}, zone: b\nafter\n");
        assert_eq!(
            redact(&text),
            format!("before\nname: a, password: {GONE}, zone: b\nafter\n")
        );
        let text = format!("a\n-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\nb\n");
        assert_eq!(redact(&text), format!("a\n{GONE}\nb\n"));
    }
}
