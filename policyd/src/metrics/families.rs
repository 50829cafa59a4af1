// SPDX-License-Identifier: GPL-3.0-only
//! Metrics by name, as Prometheus has them. The text of a sample is the library's work.

use std::collections::BTreeMap;

use policyd_analytics::spread::Spread;
use prometheus::TextEncoder;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// Labels with their values.
pub type Labels<'a> = [(&'static str, &'a str)];

/// Metrics by name.
#[derive(Default)]
pub struct Families(BTreeMap<&'static str, MetricFamily>);

impl Families {
    /// A count that only grows: its name ends with `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str, labels: &Labels<'_>, value: u64) {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        let mut metric = labelled(labels);
        metric.set_counter(counter);
        self.add(name, help, MetricType::COUNTER, metric);
    }

    /// What goes up and down.
    pub fn gauge(&mut self, name: &'static str, help: &str, labels: &Labels<'_>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = labelled(labels);
        metric.set_gauge(gauge);
        self.add(name, help, MetricType::GAUGE, metric);
    }

    /// Times, in seconds.
    pub fn times(&mut self, name: &'static str, help: &str, labels: &Labels<'_>, spread: &Spread) {
        let bucket = |(us, count): (u64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(us as f64 / 1e6);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(spread.up_to().map(bucket).collect());
        histogram.set_sample_count(spread.count());
        histogram.set_sample_sum(spread.sum_us as f64 / 1e6);
        let mut metric = labelled(labels);
        metric.set_histogram(histogram);
        self.add(name, help, MetricType::HISTOGRAM, metric);
    }

    fn add(&mut self, name: &'static str, help: &str, kind: MetricType, metric: Metric) {
        let family = self.0.entry(name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        });
        family.mut_metric().push(metric);
    }

    /// In Prometheus' text format, version 0.0.4; what there is nothing of is left out.
    ///
    /// # Errors
    /// What the library says; it knows of none for families that have metrics.
    pub fn text(self) -> Result<String, prometheus::Error> {
        let families: Vec<MetricFamily> = self.0.into_values().collect();
        TextEncoder::new().encode_to_string(&families)
    }
}

/// Labels without a value are left out: to Prometheus that is the same.
fn labelled(labels: &Labels<'_>) -> Metric {
    let pairs = labels.iter().filter(|(_, value)| !value.is_empty());
    let pairs = pairs.map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    Metric::from_label(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_what_prometheus_reads() {
        let mut families = Families::default();
        families.counter("b_total", "Bs.", &[("vm", "a\"b\\\n"), ("none", "")], 7);
        families.counter("b_total", "Bs.", &[("vm", "c")], 8);
        families.gauge("a", "As.", &[], 0.5);
        let mut spread = Spread::default();
        spread.add(100);
        spread.add(20_000_000);
        families.times("c_seconds", "Cs.", &[("vm", "c")], &spread);
        let text = families.text().expect("text");
        let head = "# HELP a As.\n# TYPE a gauge\na 0.5\n# HELP b_total Bs.\n# TYPE b_total counter\n\
            b_total{vm=\"a\\\"b\\\\\\n\"} 7\nb_total{vm=\"c\"} 8\n# HELP c_seconds Cs.\n# TYPE c_seconds histogram\n\
            c_seconds_bucket{vm=\"c\",le=\"0.0001\"} 1\n";
        assert!(text.starts_with(head), "{text}");
        let tail = "c_seconds_bucket{vm=\"c\",le=\"10\"} 1\nc_seconds_bucket{vm=\"c\",le=\"+Inf\"} 2\n\
            c_seconds_sum{vm=\"c\"} 20.0001\nc_seconds_count{vm=\"c\"} 2\n";
        assert!(text.ends_with(tail), "{text}");
    }
}
