//! A figure of a run, and what medians and ratios say of several.

use crate::report::Report;
use crate::report_table::thousands;
use serde::de::{Deserialize, Deserializer, Error};

/// A figure that is shown.
#[derive(Debug)]
pub(crate) struct Metric {
    /// By which `cases.toml` names it.
    pub(crate) name: &'static str,
    /// With its unit, in tables.
    pub(crate) title: &'static str,
    /// `None` where the run does not have it.
    pub(crate) of: fn(&Report) -> Option<f64>,
}

/// The figures of a run against a server.
static METRICS: [Metric; 16] = [
    metric("server-cpu", "CPU per delivery, us", |run| Some(run.server.as_ref()?.cpu_us_per_delivery)),
    metric("deliveries-per-cpu", "deliveries per second of CPU", |run| {
        run.server.as_ref().map(|server| server.cpu_us_per_delivery).filter(|us| *us > 0.0).map(|us| 1e6 / us)
    }),
    metric("p50", "latency p50, ms", |run| Some(run.latency_us.p50 / 1e3)),
    metric("p99", "latency p99, ms", |run| Some(run.latency_us.p99 / 1e3)),
    metric("p999", "latency p99.9, ms", |run| Some(run.latency_us.p999 / 1e3)),
    metric("answer-p50", "publish to its answer p50, ms", |run| Some(run.publishes.answer_us.p50 / 1e3)),
    metric("answer-p99", "publish to its answer p99, ms", |run| Some(run.publishes.answer_us.p99 / 1e3)),
    metric("deliveries", "deliveries/s", |run| Some(run.deliveries.per_second)),
    metric("publishes", "publishes/s", |run| Some(run.publishes.per_second)),
    metric("memory", "resident bytes per subscriber", |run| {
        Some(run.server.as_ref()?.rss_bytes_per_subscriber)
    }),
    metric("connects", "connects/s", |run| Some(run.connect.per_second)),
    metric("batch", "publishes of a message", |run| run.publishes_per_message),
    metric("resumed", "from the kill until all had resumed, ms", |run| {
        Some(run.resumed.as_ref()?.all_us / 1e3)
    }),
    metric("resumed-p50", "from the kill until a subscriber had resumed p50, ms", |run| {
        Some(run.resumed.as_ref()?.each_us.p50 / 1e3)
    }),
    metric("resumed-p99", "… p99, ms", |run| Some(run.resumed.as_ref()?.each_us.p99 / 1e3)),
    metric("connect-cpu", "CPU per connect, us", |run| Some(run.server.as_ref()?.cpu_us_per_connect)),
];

pub(crate) const fn metric(
    name: &'static str,
    title: &'static str,
    of: fn(&Report) -> Option<f64>,
) -> Metric {
    Metric { name, title, of }
}

impl Metric {
    pub(crate) fn named(name: &str) -> Option<&'static Metric> {
        METRICS.iter().find(|metric| metric.name == name)
    }
}

impl<'de> Deserialize<'de> for &'static Metric {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        Metric::named(&name).ok_or_else(|| D::Error::custom(format!("there is no figure '{name}'")))
    }
}

/// Writes a figure as people read it.
pub(crate) fn show(value: f64) -> String {
    match value.abs() {
        under if under < 0.1 => format!("{value:.3}"),
        under if under < 10.0 => format!("{value:.2}"),
        under if under < 100.0 => format!("{value:.1}"),
        _ => thousands(value),
    }
}

/// The middle of several values and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Writes the median, with `mark` behind it, and the least and the most where they differ.
    pub(crate) fn text(&self, mark: &str) -> String {
        let median = show(self.median);
        match self.min == self.max {
            true => format!("{median}{mark}"),
            false => format!("{median}{mark} ({}–{})", show(self.min), show(self.max)),
        }
    }

    /// Returns that of some values; `None` of none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Spread { median: (lower + upper) / 2.0, min, max })
    }
}

/// Returns how many times `base` a value is, over rounds of both, each compared within itself, so that a machine which gets
/// slower over the rounds does not tell. `None` where no round says anything.
///
/// Of three rounds the least and the most have the true median between them with 75 % confidence, of five with 94 %, of six
/// with 97 %: all of n lie on one side of it in 2 of 2^n cases.
pub(crate) fn ratio_over(rounds: impl IntoIterator<Item = (f64, f64)>) -> Option<Spread> {
    let told = rounds.into_iter().filter(|(value, base)| *value > 0.0 && *base > 0.0);
    Spread::of(told.map(|(value, base)| value / base))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_between_two_their_mean() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 100.0]).unwrap().median, 3.0);
        assert_eq!(Spread::of([5.0]).unwrap().median, 5.0);
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn one_outlier_does_not_move_the_median() {
        assert_eq!(Spread::of([1.0, 1.0, 1.0, 1.0, 1e9]).unwrap().median, 1.0);
    }

    #[test]
    fn a_ratio_to_nothing_is_none() {
        let ratio = |value, base| ratio_over([(value, base)]).map(|spread| spread.median);
        assert_eq!(ratio(6.0, 3.0), Some(2.0));
        assert_eq!((ratio(1.0, 0.0), ratio(0.0, 1.0), ratio(-5.0, 1.0)), (None, None, None));
    }

    #[test]
    fn a_machine_that_slows_down_does_not_change_a_ratio() {
        let rounds = [(10.0, 5.0), (20.0, 10.0), (80.0, 40.0)];
        let twice = Some(Spread { median: 2.0, min: 2.0, max: 2.0 });
        assert_eq!(ratio_over(rounds), twice);
        assert_eq!(ratio_over(rounds.into_iter().chain([(7.0, 0.0)])), twice);
        assert_eq!(ratio_over([]), None);
    }

    #[test]
    fn figures_keep_about_three_digits() {
        assert_eq!([0.0301, 3.456, 34.56, 20_123_456.0].map(show), ["0.030", "3.46", "34.6", "20,123,456"]);
    }
}
