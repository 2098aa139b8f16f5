//! What the first server has to reach, and whether it does.

use crate::bench::NONE;
use crate::bench::metric::{Metric, Spread, show};
use crate::bench::results::Results;
use crate::report_table::thousands;
use serde::Deserialize;
use std::fmt::Write;

/// A bound of a figure, or of how many times another it is.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Must {
    pub(crate) metric: &'static Metric,
    /// The figure it is set against; otherwise it counts by itself.
    #[serde(flatten)]
    pub(crate) beside: Option<Beside>,
    #[serde(flatten)]
    pub(crate) bound: Bound,
    /// Shown with it, bound to nothing.
    pub(crate) also: Option<&'static Metric>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Beside {
    /// Another server's in the same rounds.
    Peer(String),
    /// Its own in another case.
    Case(String),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Above(f64),
}

impl Must {
    /// Says it in words.
    pub(crate) fn text(&self) -> String {
        let (word, value) = match self.bound {
            Bound::AtMost(value) => ("at most", value),
            Bound::AtLeast(value) => ("at least", value),
            Bound::Above(value) => ("above", value),
        };
        let times = if value == 1.0 { String::new() } else { format!("{value} times ") };
        let what = match &self.beside {
            None => thousands(value),
            Some(Beside::Peer(peer)) if peer == "bare" => format!("{times}the bare consumer's"),
            Some(Beside::Peer(peer)) => format!("{times}{peer}'s"),
            Some(Beside::Case(case)) => format!("{times}that of {case}"),
        };
        format!("{}: {word} {what}", self.metric.title)
    }

    /// Says what was measured of `peer` in `case`, and whether it is enough; `None` when it was not measured.
    fn measured<S>(&self, results: &Results<S>, case: &str, peer: &str) -> Option<(String, bool)> {
        let figure = |(case, peer): (&str, &str), metric: &Metric| {
            let median = results.spread(case, peer, metric).map(|spread| show(spread.median));
            format!("{}{}", median.unwrap_or_default(), results.mark(case, peer))
        };
        let own = results.spread(case, peer, self.metric)?.median;
        let mut text = figure((case, peer), self.metric);
        let base = match &self.beside {
            None => return Some((text, self.bound.holds(own))),
            Some(Beside::Peer(base)) => (case, base.as_str()),
            Some(Beside::Case(base)) => (base.as_str(), peer),
        };
        let Spread { median: ratio, min, max } = results.ratio((case, peer), base, self.metric)?;
        let base_text = figure(base, self.metric);
        text = format!("{ratio:.2} times ({min:.2}–{max:.2}; {text} against {base_text})");
        if let Some(also) = self.also {
            let (own, other) = (figure((case, peer), also), figure(base, also));
            text.push_str(&format!("; {}: {own} against {other}", also.title));
        }
        Some((text, self.bound.holds(ratio)))
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(most) => value <= most,
            Bound::AtLeast(least) => value >= least,
            Bound::Above(bound) => value > bound,
        }
    }
}

/// Writes the table of what `peer` must reach: by case, and at last what all runs must, with what was measured of it.
pub(crate) fn must_table<S>(
    out: &mut String,
    results: &Results<S>,
    (title, peer): (&str, &str),
    musts: &[(&str, &Must)],
    (all, measured, enough): (&str, String, bool),
) {
    let _ = writeln!(out, "\n**{title} must reach**\n\n| row | must | measured | reached |");
    let _ = writeln!(out, "| --- | --- | --- | --- |");
    let mut row = |name: &str, must: &str, measured: &str, enough: Option<bool>| {
        let reached = match enough {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not measured",
        };
        let _ = writeln!(out, "| {name} | {must} | {measured} | {reached} |");
    };
    for (case, must) in musts {
        match must.measured(results, case, peer) {
            Some((measured, enough)) => row(case, &must.text(), &measured, Some(enough)),
            None => row(case, &must.text(), NONE, None),
        }
    }
    row("all", all, &measured, Some(enough));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_on_its_own_side() {
        let of = |bound: Bound| [0.5, 1.0, 1.5].map(|value| bound.holds(value));
        assert_eq!(of(Bound::AtMost(1.0)), [true, true, false]);
        assert_eq!(of(Bound::AtLeast(1.0)), [false, true, true]);
        assert_eq!(of(Bound::Above(1.0)), [false, false, true]);
    }

    #[test]
    fn a_must_is_said_in_words() {
        for (must, text) in [
            (
                "metric='server-cpu'\npeer='nchan'\nat_most=0.6",
                "CPU per delivery, us: at most 0.6 times nchan's",
            ),
            ("metric='deliveries'\nat_least=1e7", "deliveries/s: at least 10,000,000"),
            ("metric='connects'\npeer='nchan'\nabove=1.0", "connects/s: above nchan's"),
            (
                "metric='deliveries-per-cpu'\ncase='flood'\nat_least=0.85",
                "deliveries per second of CPU: at least 0.85 times that of flood",
            ),
        ] {
            assert_eq!(toml::from_str::<Must>(must).unwrap().text(), text);
        }
    }
}
