//! A figure of a report, and what medians and ratios say of several.

use crate::report::Report;
use crate::report_table::thousands;

/// A figure that is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Metric {
    ServerCpu,
    DeliveriesPerCpu,
    P50,
    P99,
    P999,
    AnswerP50,
    AnswerP99,
    Deliveries,
    Publishes,
    Memory,
    Connects,
    ConnectCpu,
}

impl Metric {
    /// Its name and unit.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Metric::ServerCpu => "CPU per delivery, us",
            Metric::DeliveriesPerCpu => "deliveries per second of CPU",
            Metric::P50 => "latency p50, ms",
            Metric::P99 => "latency p99, ms",
            Metric::P999 => "latency p99.9, ms",
            Metric::AnswerP50 => "publish to its answer p50, ms",
            Metric::AnswerP99 => "publish to its answer p99, ms",
            Metric::Deliveries => "deliveries/s",
            Metric::Publishes => "publishes/s",
            Metric::Memory => "resident bytes per subscriber",
            Metric::Connects => "connects/s",
            Metric::ConnectCpu => "CPU per connect, us",
        }
    }

    /// The figure, if the run has it.
    pub(crate) fn of(self, report: &Report) -> Option<f64> {
        let server = report.server.as_ref();
        match self {
            Metric::ServerCpu => server.map(|server| server.cpu_us_per_delivery),
            Metric::DeliveriesPerCpu => {
                server.map(|server| server.cpu_us_per_delivery).filter(|us| *us > 0.0).map(|us| 1e6 / us)
            }
            Metric::P50 => Some(report.latency_us.p50 / 1e3),
            Metric::P99 => Some(report.latency_us.p99 / 1e3),
            Metric::P999 => Some(report.latency_us.p999 / 1e3),
            Metric::AnswerP50 => Some(report.publishes.answer_us.p50 / 1e3),
            Metric::AnswerP99 => Some(report.publishes.answer_us.p99 / 1e3),
            Metric::Deliveries => Some(report.deliveries.per_second),
            Metric::Publishes => Some(report.publishes.per_second),
            Metric::Memory => server.map(|server| server.rss_bytes_per_subscriber),
            Metric::Connects => Some(report.connect.per_second),
            Metric::ConnectCpu => server.map(|server| server.cpu_us_per_connect),
        }
    }

    /// As people read it.
    pub(crate) fn show(self, value: f64) -> String {
        show(value)
    }
}

/// A figure as people read it.
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
    /// `None` of no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let upper = *values.get(values.len() / 2)?;
        let lower = *values.get((values.len() - 1) / 2)?;
        Some(Spread { median: (lower + upper) / 2.0, min, max })
    }
}

/// How many times `base` a value is; `None` where that says nothing.
fn ratio(value: f64, base: f64) -> Option<f64> {
    (value > 0.0 && base > 0.0).then(|| value / base)
}

/// How many times `base` a value is, over rounds of both: the median of the rounds, each compared within itself, so that a
/// machine which gets slower over the rounds does not tell.
pub(crate) fn ratio_over(rounds: impl IntoIterator<Item = (f64, f64)>) -> Option<f64> {
    let ratios = rounds.into_iter().filter_map(|(value, base)| ratio(value, base));
    Spread::of(ratios).map(|spread| spread.median)
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
        assert_eq!(ratio(6.0, 3.0), Some(2.0));
        assert_eq!((ratio(1.0, 0.0), ratio(0.0, 1.0), ratio(-5.0, 1.0)), (None, None, None));
    }

    #[test]
    fn a_machine_that_slows_down_does_not_change_a_ratio() {
        let rounds = [(10.0, 5.0), (20.0, 10.0), (80.0, 40.0)];
        assert_eq!(ratio_over(rounds), Some(2.0));
        assert_eq!(ratio_over(rounds.into_iter().chain([(7.0, 0.0)])), Some(2.0));
        assert_eq!(ratio_over([]), None);
    }

    #[test]
    fn figures_keep_about_three_digits() {
        let show = |value| Metric::P50.show(value);
        assert_eq!(
            [show(0.0301), show(3.456), show(34.56), show(20_123_456.0)],
            ["0.030", "3.46", "34.6", "20,123,456"]
        );
    }
}
