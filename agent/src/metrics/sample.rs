// SPDX-License-Identifier: Apache-2.0
//! Samples on their way into Prometheus' text format. Used by `metrics` only.
//!
//! Invariant: samples of one family with equal labels (two ports of a service) are summed, since a scrape with the same
//! series twice is refused as a whole.

use std::collections::BTreeMap;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily};

use super::Family;

/// The samples of a scrape.
#[derive(Default)]
pub(super) struct Samples {
    families: BTreeMap<&'static str, (&'static Family, BTreeMap<Vec<String>, Value>)>,
}

enum Value {
    Counter(f64),
    Gauge(f64),
    Histogram(Buckets),
}

/// A histogram: per bucket, not cumulative; the last one has no bound.
pub(super) struct Buckets {
    bounds: Vec<f64>,
    counts: Vec<u64>,
    sum: f64,
}

/// A histogram of `counts` with one more bucket than `bounds`.
pub(super) fn histogram(bounds: &[f64], counts: &[u64], sum: f64) -> Buckets {
    Buckets {
        bounds: bounds.to_vec(),
        counts: counts.to_vec(),
        sum,
    }
}

impl Samples {
    pub(super) fn counter(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.add(family, labels, Value::Counter(value));
    }

    pub(super) fn gauge(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        self.add(family, labels, Value::Gauge(value));
    }

    pub(super) fn histogram(&mut self, family: &'static Family, labels: &[&str], value: Buckets) {
        self.add(family, labels, Value::Histogram(value));
    }

    fn add(&mut self, family: &'static Family, labels: &[&str], value: Value) {
        debug_assert_eq!(labels.len(), family.labels.len(), "{}", family.name);
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        let (_, series) = self
            .families
            .entry(family.name)
            .or_insert_with(|| (family, BTreeMap::new()));
        match (series.get_mut(&labels), value) {
            (Some(Value::Counter(sum)), Value::Counter(more))
            | (Some(Value::Gauge(sum)), Value::Gauge(more)) => *sum += more,
            (Some(Value::Histogram(sum)), Value::Histogram(more)) => {
                sum.sum += more.sum;
                sum.counts
                    .iter_mut()
                    .zip(more.counts)
                    .for_each(|(count, more)| *count += more);
            }
            (_, value) => {
                series.insert(labels, value);
            }
        }
    }

    pub(super) fn into_families(self) -> Vec<MetricFamily> {
        self.families
            .into_values()
            .map(|(family, series)| encode(family, series))
            .collect()
    }
}

fn encode(family: &Family, series: BTreeMap<Vec<String>, Value>) -> MetricFamily {
    let metrics = series.into_iter().map(|(labels, value)| {
        let mut metric = Metric::from_label(family.labels.iter().zip(labels).map(pair).collect());
        match value {
            Value::Counter(value) => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Value::Gauge(value) => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Value::Histogram(buckets) => metric.set_histogram(buckets.encode()),
        }
        metric
    });
    let mut encoded = MetricFamily::default();
    encoded.set_metric(metrics.collect());
    encoded.set_name(family.name.to_owned());
    encoded.set_help(family.help.to_owned());
    encoded.set_field_type(family.kind);
    encoded
}

fn pair((name, value): (&&str, String)) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name((*name).to_owned());
    pair.set_value(value);
    pair
}

impl Buckets {
    fn encode(self) -> Histogram {
        let mut cumulative = 0;
        let buckets = self.bounds.iter().zip(&self.counts).map(|(bound, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut encoded = Histogram::default();
        encoded.set_bucket(buckets.collect());
        encoded.set_sample_count(self.counts.iter().sum());
        encoded.set_sample_sum(self.sum);
        encoded
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{TextEncoder, proto::MetricType};

    use super::*;

    const FAMILY: Family = Family {
        name: "f",
        help: "h",
        kind: MetricType::HISTOGRAM,
        labels: &["a"],
    };

    #[test]
    fn equal_series_are_summed_and_buckets_cumulate() {
        let mut samples = Samples::default();
        samples.histogram(&FAMILY, &["x"], histogram(&[0.1, 1.0], &[1, 2, 3], 4.0));
        samples.histogram(&FAMILY, &["x"], histogram(&[0.1, 1.0], &[1, 0, 0], 0.5));
        let text = TextEncoder::new()
            .encode_to_string(&samples.into_families())
            .unwrap();
        assert_eq!(
            text,
            "# HELP f h\n# TYPE f histogram\nf_bucket{a=\"x\",le=\"0.1\"} 2\nf_bucket{a=\"x\",le=\"1\"} 4\n\
             f_bucket{a=\"x\",le=\"+Inf\"} 7\nf_sum{a=\"x\"} 4.5\nf_count{a=\"x\"} 7\n"
        );
    }
}
