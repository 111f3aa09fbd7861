// SPDX-License-Identifier: Apache-2.0
//! A scrape on its way into text: turns what the modules that fill the families know into the `prometheus` crate's families,
//! and has its encoder write them.
//!
//! ```text
//! Family + labels + numbers ─► Samples ─► proto::MetricFamily ─► TextEncoder ─► text
//! ```
//!
//! A node with 2,000 metered backends has several hundred thousand series, so one family at a time is held as values; all of them
//! together are held as text only. Invariant: callers give each series once; a scrape with the same series twice is refused as a
//! whole.

use prometheus::{
    Result, TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};

use super::family::{Family, Kind};

/// The families that have been written.
#[derive(Debug, Default)]
pub(super) struct Scrape {
    text: String,
}

/// The samples of one family.
#[derive(Debug)]
pub(super) struct Samples {
    family: &'static Family,
    metrics: Vec<Metric>,
}

/// The first labels of a sample: all of them, but for those that [`Samples::number`] adds.
#[derive(Clone, Debug, Default)]
pub(super) struct Labels(Vec<LabelPair>);

/// The bounds of a histogram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Inclusive upper bounds.
    pub(super) bounds: &'static [u64],
    /// How many units of the bounds and of the sum make one of the family's.
    pub(super) scale: f64,
}

impl Labels {
    /// The labels `names`, with `values`.
    pub(super) fn new(names: &[&str], values: &[&str]) -> Self {
        debug_assert_eq!(names.len(), values.len(), "{names:?}");
        Self(
            names
                .iter()
                .zip(values)
                .map(|(name, value)| pair(name, value))
                .collect(),
        )
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

impl Samples {
    /// One number; `more` are the values of the family's labels that `labels` does not have.
    pub(super) fn number(&mut self, labels: &Labels, more: &[&str], number: f64) {
        let mut metric = self.metric(labels, more);
        match self.family.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(number);
                metric.set_counter(counter);
            }
            Kind::Gauge | Kind::Histogram => {
                debug_assert_eq!(self.family.kind, Kind::Gauge, "{}", self.family.name);
                let mut gauge = Gauge::default();
                gauge.set_value(number);
                metric.set_gauge(gauge);
            }
        }
        self.metrics.push(metric);
    }

    /// One histogram: `counts` per bucket, not cumulative, the last one without a bound, and the sum of all values in the unit
    /// of the bounds.
    pub(super) fn histogram(&mut self, labels: &Labels, bounds: Bounds, counts: &[u64], sum: u64) {
        let Bounds { bounds, scale } = bounds;
        debug_assert_eq!(self.family.kind, Kind::Histogram, "{}", self.family.name);
        debug_assert_eq!(bounds.len() + 1, counts.len(), "{}", self.family.name);
        let mut cumulative = 0;
        let buckets = bounds.iter().zip(counts).map(|(bound, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound as f64 / scale);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = Histogram::default();
        // The encoder adds the bucket without a bound.
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum as f64 / scale);
        let mut metric = self.metric(labels, &[]);
        metric.set_histogram(histogram);
        self.metrics.push(metric);
    }

    fn metric(&self, labels: &Labels, more: &[&str]) -> Metric {
        let Labels(first) = labels;
        let names = self.family.labels;
        debug_assert_eq!(first.len() + more.len(), names.len(), "{}", self.family.name);
        let mut all = Vec::with_capacity(names.len());
        all.extend_from_slice(first);
        all.extend(
            names[first.len()..]
                .iter()
                .zip(more)
                .map(|(name, value)| pair(name, value)),
        );
        let mut metric = Metric::default();
        metric.set_label(all);
        metric
    }
}

impl Scrape {
    /// Writes the samples of `family` that `fill` gathers; nothing if there are none.
    pub(super) fn family(&mut self, family: &'static Family, fill: impl FnOnce(&mut Samples)) -> Result<()> {
        let mut samples = Samples {
            family,
            metrics: Vec::new(),
        };
        fill(&mut samples);
        if samples.metrics.is_empty() {
            return Ok(());
        }
        let mut encoded = MetricFamily::default();
        encoded.set_name(family.name.to_owned());
        encoded.set_help(family.help.to_owned());
        encoded.set_field_type(match family.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
            Kind::Histogram => MetricType::HISTOGRAM,
        });
        encoded.set_metric(samples.metrics);
        TextEncoder::new().encode_utf8(&[encoded], &mut self.text)
    }

    /// Writes a family that has one sample and no labels.
    pub(super) fn single(&mut self, family: &'static Family, number: f64) -> Result<()> {
        self.family(family, |samples| samples.number(&Labels::default(), &[], number))
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HISTOGRAM: Family = Family {
        name: "f",
        kind: Kind::Histogram,
        unit: "seconds",
        labels: &["a"],
        help: "h",
        counterpart: None,
    };
    static TIMES: Family = HISTOGRAM;
    static COUNTER: Family = Family {
        name: "c_total",
        kind: Kind::Counter,
        labels: &["a", "b"],
        ..HISTOGRAM
    };
    static PLAIN: Family = Family {
        name: "plain",
        kind: Kind::Gauge,
        labels: &[],
        ..HISTOGRAM
    };

    #[test]
    fn buckets_cumulate() {
        let mut scrape = Scrape::default();
        let bounds = Bounds {
            bounds: &[100_000_000, 1_000_000_000],
            scale: 1e9,
        };
        let labels = Labels::new(TIMES.labels, &["x"]);
        let fill = |samples: &mut Samples| samples.histogram(&labels, bounds, &[2, 2, 3], 4_500_000_000);
        scrape.family(&TIMES, fill).unwrap();
        assert_eq!(
            scrape.finish(),
            "# HELP f h\n# TYPE f histogram\nf_bucket{a=\"x\",le=\"0.1\"} 2\nf_bucket{a=\"x\",le=\"1\"} 4\n\
             f_bucket{a=\"x\",le=\"+Inf\"} 7\nf_sum{a=\"x\"} 4.5\nf_count{a=\"x\"} 7\n"
        );
    }

    #[test]
    fn labels_are_completed_and_their_values_escaped() {
        let mut scrape = Scrape::default();
        scrape.single(&PLAIN, 0.5).unwrap();
        let fill = |samples: &mut Samples| {
            samples.number(&Labels::new(&["a"], &["q\"\\\n"]), &["y"], 3.0);
            samples.number(&Labels::default(), &["x", "y"], 4.0);
        };
        scrape.family(&COUNTER, fill).unwrap();
        assert_eq!(
            scrape.finish(),
            "# HELP plain h\n# TYPE plain gauge\nplain 0.5\n\
             # HELP c_total h\n# TYPE c_total counter\nc_total{a=\"q\\\"\\\\\\n\",b=\"y\"} 3\nc_total{a=\"x\",b=\"y\"} 4\n"
        );
    }

    #[test]
    fn a_family_without_samples_is_not_announced() {
        let mut scrape = Scrape::default();
        scrape.family(&COUNTER, |_| {}).unwrap();
        assert_eq!(scrape.finish(), "");
    }
}
