// SPDX-License-Identifier: Apache-2.0
//! Writes samples in Prometheus' text format. Used by the modules that fill the families.
//!
//! A node with 2,000 metered backends has several hundred thousand lines, so a line is a few copies: labels are put into words
//! once for all samples about the same thing, bounds once for the process. Invariant: callers give each series once; a scrape
//! with the same series twice is refused as a whole.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
};

use super::family::Family;

/// A scrape being written.
#[derive(Debug, Default)]
pub(super) struct Scrape {
    families: BTreeMap<&'static str, (&'static Family, String)>,
}

/// The first labels of a sample, as they are written.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels {
    text: String,
    count: usize,
}

impl Labels {
    /// The labels `names`, with `values`.
    pub(super) fn new(names: &[&str], values: &[&str]) -> Self {
        debug_assert_eq!(names.len(), values.len(), "{names:?}");
        let mut text = String::new();
        for (name, value) in names.iter().zip(values) {
            append(&mut text, name, value);
        }
        Self {
            text,
            count: names.len(),
        }
    }
}

/// The bounds of a histogram, as they are written.
#[derive(Debug)]
pub(super) struct Bounds {
    texts: Vec<String>,
    scale: f64,
}

impl Bounds {
    /// The bounds `bounds`, in units of which `scale` make one of the family's.
    pub(super) fn new(bounds: &[u64], scale: f64) -> Self {
        let texts = bounds.iter().map(|bound| (*bound as f64 / scale).to_string());
        Self {
            texts: texts.chain(["+Inf".to_owned()]).collect(),
            scale,
        }
    }
}

impl Scrape {
    /// One sample; `more` are the values of the family's labels that `labels` does not have.
    pub(super) fn sample(
        &mut self,
        family: &'static Family,
        labels: &Labels,
        more: &[&str],
        value: impl Display,
    ) {
        debug_assert_eq!(labels.count + more.len(), family.labels.len(), "{}", family.name);
        let body = self.body(family);
        body.push_str(family.name);
        if !family.labels.is_empty() {
            body.push('{');
            body.push_str(&labels.text);
            for (name, value) in family.labels[labels.count..].iter().zip(more) {
                append(body, name, value);
            }
            body.push('}');
        }
        end(body, value);
    }

    /// The samples of a histogram: `counts` per bucket, not cumulative, the last one without a bound, and the sum of all values
    /// in the unit of the bounds.
    pub(super) fn histogram(
        &mut self,
        family: &'static Family,
        labels: &Labels,
        bounds: &Bounds,
        counts: &[u64],
        sum: u64,
    ) {
        debug_assert_eq!(labels.count, family.labels.len(), "{}", family.name);
        debug_assert_eq!(bounds.texts.len(), counts.len(), "{}", family.name);
        let body = self.body(family);
        let mut cumulative = 0;
        for (bound, count) in bounds.texts.iter().zip(counts) {
            cumulative += count;
            for part in [family.name, "_bucket{", &labels.text, ",le=\"", bound, "\"}"] {
                body.push_str(part);
            }
            end(body, cumulative);
        }
        for part in [family.name, "_sum{", &labels.text, "}"] {
            body.push_str(part);
        }
        end(body, sum as f64 / bounds.scale);
        for part in [family.name, "_count{", &labels.text, "}"] {
            body.push_str(part);
        }
        end(body, cumulative);
    }

    fn body(&mut self, family: &'static Family) -> &mut String {
        let (_, body) = self
            .families
            .entry(family.name)
            .or_insert_with(|| (family, String::new()));
        body
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        let bodies: usize = self.families.values().map(|(_, body)| body.len() + 256).sum();
        let mut text = String::with_capacity(bodies);
        for (name, (family, body)) in self.families {
            let Family { help, kind, .. } = family;
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {}", kind.word());
            text.push_str(&body);
        }
        text
    }
}

fn end(body: &mut String, value: impl Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(body, " {value}");
}

/// Adds a label to those that `text` ends with.
fn append(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() && !text.ends_with('{') {
        text.push(',');
    }
    text.push_str(name);
    text.push_str("=\"");
    for char in value.chars() {
        match char {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            char => text.push(char),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::family::Kind;

    const FAMILY: Family = Family {
        name: "f",
        kind: Kind::Histogram,
        unit: "seconds",
        labels: &["a"],
        help: "h",
        counterpart: None,
    };
    const COUNTER: Family = Family {
        name: "c_total",
        kind: Kind::Counter,
        labels: &["a", "b"],
        ..FAMILY
    };

    #[test]
    fn buckets_cumulate() {
        let mut scrape = Scrape::default();
        let bounds = Bounds::new(&[100_000_000, 1_000_000_000], 1e9);
        let labels = Labels::new(FAMILY.labels, &["x"]);
        scrape.histogram(&FAMILY, &labels, &bounds, &[2, 2, 3], 4_500_000_000);
        assert_eq!(
            scrape.finish(),
            "# HELP f h\n# TYPE f histogram\nf_bucket{a=\"x\",le=\"0.1\"} 2\nf_bucket{a=\"x\",le=\"1\"} 4\n\
             f_bucket{a=\"x\",le=\"+Inf\"} 7\nf_sum{a=\"x\"} 4.5\nf_count{a=\"x\"} 7\n"
        );
    }

    #[test]
    fn families_are_sorted_and_values_escaped() {
        let mut scrape = Scrape::default();
        let plain = Family {
            name: "plain",
            kind: Kind::Gauge,
            labels: &[],
            ..FAMILY
        };
        let plain: &'static Family = Box::leak(Box::new(plain));
        scrape.sample(plain, &Labels::default(), &[], 0.5);
        scrape.sample(&COUNTER, &Labels::new(&["a"], &["q\"\\\n"]), &["y"], 3);
        scrape.sample(&COUNTER, &Labels::default(), &["x", "y"], 4);
        assert_eq!(
            scrape.finish(),
            "# HELP c_total h\n# TYPE c_total counter\nc_total{a=\"q\\\"\\\\\\n\",b=\"y\"} 3\nc_total{a=\"x\",b=\"y\"} 4\n\
             # HELP plain h\n# TYPE plain gauge\nplain 0.5\n"
        );
    }
}
