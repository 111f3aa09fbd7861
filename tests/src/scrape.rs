// SPDX-License-Identifier: Apache-2.0
//! Reads a scrape in Prometheus' text format as strictly as the format allows, so that tests find what Prometheus would
//! refuse or take for something else.
//!
//! Invariant: a line that is neither a comment of a family nor a sample of the family announced last is an error.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// Name and labels of a sample.
pub type Series = (String, BTreeMap<String, String>);

/// A scrape.
#[derive(Debug, Default)]
pub struct Scrape {
    /// Kind of each family.
    pub kinds: BTreeMap<String, String>,
    samples: BTreeMap<Series, f64>,
}

impl Scrape {
    /// Reads the text of a scrape.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the last line has no end");
        let mut scrape = Self::default();
        let mut family = String::new();
        let mut helps = Vec::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').with_context(|| format!("no text: {line}"))?;
                ensure!(
                    !text.is_empty() && !helps.contains(&name),
                    "help twice, or empty: {line}"
                );
                helps.push(name);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').with_context(|| format!("no kind: {line}"))?;
                ensure!(helps.last() == Some(&name), "no help just before: {line}");
                ensure!(
                    ["counter", "gauge", "histogram"].contains(&kind),
                    "unknown kind: {line}"
                );
                ensure!(
                    scrape.kinds.insert(name.into(), kind.into()).is_none(),
                    "family twice: {line}"
                );
                name.clone_into(&mut family);
            } else {
                let (series, value) = sample(line).with_context(|| format!("no sample: {line}"))?;
                let suffix = series
                    .0
                    .strip_prefix(&family)
                    .with_context(|| format!("not of {family}: {line}"))?;
                let suffixes: &[&str] = if scrape.kinds[&family] == "histogram" {
                    &["_bucket", "_sum", "_count"]
                } else {
                    &[""]
                };
                ensure!(suffixes.contains(&suffix), "not of {family}: {line}");
                ensure!(
                    scrape.samples.insert(series, value).is_none(),
                    "series twice: {line}"
                );
            }
        }
        Ok(scrape)
    }

    /// The samples with this name.
    pub fn samples(&self, name: &str) -> impl Iterator<Item = (&BTreeMap<String, String>, f64)> {
        let found = self.samples.iter().filter(move |((found, _), _)| found == name);
        found.map(|((_, labels), value)| (labels, *value))
    }

    /// Sum of the samples with this name and, among others, these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let is_right = |found: &BTreeMap<String, String>| {
            let has = |key: &str, value| found.get(key).is_some_and(|found| found == value);
            labels.iter().all(|(key, value)| has(key, value))
        };
        let found = self.samples(name).filter(|(found, _)| is_right(found));
        found.map(|(_, value)| value).sum()
    }

    /// The same as a whole number; panics if there is no such sample or the sum is none.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum = self.sum(name, labels);
        assert!(self.samples(name).next().is_some(), "no {name} in {self:?}");
        let whole = format!("{sum}").parse();
        whole.unwrap_or_else(|_| panic!("{name} is {sum}"))
    }
}

fn sample(line: &str) -> Result<(Series, f64)> {
    let (series, value) = line.rsplit_once(' ').context("no value")?;
    let value: f64 = value.parse()?;
    let (name, mut rest) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').context("no closing brace")?),
        None => (series, ""),
    };
    ensure!(is_name(name), "{name:?} is no name");
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (key, quoted) = rest.split_once("=\"").context("no label")?;
        ensure!(is_name(key) && key != "__name__", "{key:?} is no label");
        let (value, left) = unquote(quoted)?;
        ensure!(
            labels.insert(key.to_owned(), value).is_none(),
            "label {key} twice"
        );
        rest = match left.strip_prefix(',') {
            Some(more) => more,
            None if left.is_empty() => left,
            None => bail!("{left:?} after a label"),
        };
    }
    Ok(((name.to_owned(), labels), value))
}

/// The text up to the closing quote, and what follows.
fn unquote(text: &str) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, escaped @ ('\\' | '"'))) => escaped,
                other => bail!("no escape: {other:?}"),
            }),
            char => value.push(char),
        }
    }
    bail!("no closing quote")
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || char == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let text = "# HELP f Text.\n# TYPE f counter\nf{a=\"x\",b=\"q\\\"\\\\\"} 1\nf{a=\"y\"} 2.5\n# HELP g T.\n# TYPE g gauge\ng 3\n";
        let scrape = Scrape::parse(text).unwrap();
        assert!((scrape.sum("f", &[]) - 3.5).abs() < f64::EPSILON);
        assert_eq!(scrape.count("f", &[("b", "q\"\\")]), 1);
        assert_eq!(scrape.count("g", &[]), 3);
        assert_eq!(scrape.samples("f").count(), 2);
    }

    #[test]
    fn what_prometheus_refuses_is_refused() {
        let head = "# HELP f Text.\n# TYPE f counter\n";
        for body in [
            "f{a=\"x\"} 1\nf{a=\"x\"} 1\n",
            "f{a=\"x\",a=\"x\"} 1\n",
            "f{a=\"x} 1\n",
            "f{a=x} 1\n",
            "f{a=\"x\"}\n",
            "f{a=\"x\" 1\n",
            "f one\n",
            "f 1",
            "g 1\n",
            "f_bucket{le=\"1\"} 1\n",
            "# TYPE f counter\nf 1\n",
            "\nf 1\n",
        ] {
            assert!(Scrape::parse(&format!("{head}{body}")).is_err(), "{body:?}");
        }
    }
}
