// SPDX-License-Identifier: Apache-2.0
//! What there is at the moment of a scrape: resources, nodes and how far they are, load.
//!
//! Invariant: a series is there as long as what it is about; nothing is kept between scrapes.

mod load;
mod nodes;
mod resources;

use std::{sync::Arc, time::Instant};

use prometheus::{
    TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{Lag, Metrics};
use crate::north::Sources;

/// Where it is read.
#[derive(Clone)]
pub struct Live {
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The rest.
    pub sources: Sources,
    /// Since when nodes are behind.
    pub lag: Lag,
}

/// A family on its way to the text.
pub(super) struct Family {
    pub(super) encoded: MetricFamily,
    is_counter: bool,
    pub(super) labels: &'static [&'static str],
}

impl Live {
    /// All metrics in Prometheus' text format.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut families = self.metrics.registry.gather();
        let groups = self.groups().into_iter().flat_map(|(_, families)| families);
        families.extend(groups.map(MetricFamily::from));
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families)
    }

    /// What is read at the moment, by what it is about.
    pub(super) fn groups(&self) -> [(&'static str, Vec<Family>); 3] {
        let state = self.sources.registry.state();
        [
            ("Resources", resources::families(&state)),
            ("Nodes", nodes::families(&self.sources, &self.lag, Instant::now())),
            ("Load", load::families(&self.sources.loads)),
        ]
    }
}

impl Family {
    fn gauge(name: &str, help: &str, labels: &'static [&'static str]) -> Self {
        Self::new(name, help, labels, MetricType::GAUGE)
    }

    fn counter(name: &str, help: &str, labels: &'static [&'static str]) -> Self {
        Self::new(name, help, labels, MetricType::COUNTER)
    }

    fn new(name: &str, help: &str, labels: &'static [&'static str], kind: MetricType) -> Self {
        let mut encoded = MetricFamily::default();
        encoded.set_name(format!("nodemesh_control_{name}"));
        encoded.set_help(help.to_owned());
        encoded.set_field_type(kind);
        Self {
            encoded,
            is_counter: kind == MetricType::COUNTER,
            labels,
        }
    }

    fn add(&mut self, values: &[&str], number: f64) {
        let pairs = self.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::default();
        metric.set_label(pairs.collect());
        if self.is_counter {
            let mut counter = Counter::default();
            counter.set_value(number);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(number);
            metric.set_gauge(gauge);
        }
        self.encoded.mut_metric().push(metric);
    }

    fn with(mut self, number: f64) -> Self {
        self.add(&[], number);
        self
    }
}

impl From<Family> for MetricFamily {
    fn from(family: Family) -> Self {
        family.encoded
    }
}
