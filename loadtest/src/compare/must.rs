//! What the first server has to reach, and whether it does.

use crate::compare::metric::Metric;
use crate::compare::results::Results;
use crate::report_table::thousands;

/// One figure, or how many times another it is, and where it has to lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Must {
    pub(crate) metric: Metric,
    pub(crate) beside: Beside,
    pub(crate) bound: Bound,
    /// Shown with it, bound to nothing.
    pub(crate) also: Option<Metric>,
    /// Said behind the bound.
    pub(crate) wish: &'static str,
}

/// What the figure is set against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beside {
    /// It counts by itself.
    Nothing,
    /// Another server's in the same rounds.
    Peer(&'static str),
    /// Its own in another case.
    Case(&'static str),
}

/// Where it has to lie.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Above(f64),
}

impl Must {
    /// A figure by itself.
    pub(crate) const fn figure(metric: Metric, bound: Bound) -> Must {
        Must { metric, beside: Beside::Nothing, bound, also: None, wish: "" }
    }

    /// So many times another server's.
    pub(crate) const fn times(metric: Metric, peer: &'static str, bound: Bound) -> Must {
        Must { metric, beside: Beside::Peer(peer), bound, also: None, wish: "" }
    }

    /// In words.
    pub(crate) fn text(&self) -> String {
        let (word, value) = match self.bound {
            Bound::AtMost(value) => ("at most", value),
            Bound::AtLeast(value) => ("at least", value),
            Bound::Above(value) => ("above", value),
        };
        let times = if value == 1.0 { String::new() } else { format!("{value} times ") };
        let what = match self.beside {
            Beside::Nothing => thousands(value),
            Beside::Peer(peer) => format!("{times}{peer}'s"),
            Beside::Case(case) => format!("{times}that of {case}"),
        };
        format!("{}: {word} {what}{}", self.metric.title(), self.wish)
    }

    /// What was measured of `peer` in `case`, in words, and whether it is enough; `None` when it was not measured.
    pub(crate) fn measured(&self, results: &Results, case: &str, peer: &str) -> Option<(String, bool)> {
        let own = results.spread(case, peer, self.metric)?.median;
        let (value, base) = match self.beside {
            Beside::Nothing => (own, None),
            Beside::Peer(base) => {
                (results.ratio((case, peer), (case, base), self.metric)?, Some((case, base)))
            }
            Beside::Case(base) => {
                (results.ratio((case, peer), (base, peer), self.metric)?, Some((base, peer)))
            }
        };
        let figure = |(case, peer): (&str, &str), metric: Metric| {
            let median = results.spread(case, peer, metric).map(|spread| metric.show(spread.median));
            format!("{}{}", median.unwrap_or_default(), results.mark(case, peer))
        };
        let mut text = match base {
            None => figure((case, peer), self.metric),
            Some(base) => {
                format!(
                    "{value:.2} times ({} against {})",
                    figure((case, peer), self.metric),
                    figure(base, self.metric)
                )
            }
        };
        if let (Some(also), Some(base)) = (self.also, base) {
            let (own, other) = (figure((case, peer), also), figure(base, also));
            text.push_str(&format!("; {}: {own} against {other}", also.title()));
        }
        Some((text, self.bound.holds(value)))
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

/// Mistakes of every run of one server, of all cases together.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Mistakes {
    pub(crate) runs: usize,
    /// Of these, so many read every event.
    pub(crate) proofs: usize,
    /// Runs with a mistake of any kind, or that could not be measured.
    pub(crate) failed: usize,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) reordered: u64,
    pub(crate) gaps: u64,
    pub(crate) cut: u64,
}

impl Mistakes {
    /// Of `peer`.
    pub(crate) fn of(results: &Results, peer: &str) -> Mistakes {
        let mut all = Mistakes::default();
        for record in results.records.iter().filter(|record| record.peer == peer) {
            all.runs += 1;
            let Some(report) = &record.report else {
                all.failed += 1;
                continue;
            };
            let (seen, churn) = (&report.deliveries, report.churn.unwrap_or_default());
            all.proofs += usize::from(report.verified);
            all.failed += usize::from(!report.passed());
            all.lost += seen.lost + seen.missed_by_cut + churn.missed;
            all.doubled += seen.doubled;
            all.reordered += seen.reordered.unwrap_or(0);
            all.gaps += seen.gaps;
            all.cut += seen.cut + churn.cut;
        }
        all
    }

    /// In words.
    pub(crate) fn text(&self) -> String {
        let Mistakes { runs, proofs, failed, lost, doubled, reordered, gaps, cut } = self;
        let failed = if *failed > 0 { format!("; {failed} FAILED") } else { String::new() };
        format!(
            "{lost} / {doubled} / {reordered} / {gaps} / {cut} in {runs} runs, {proofs} of which read every event{failed}"
        )
    }

    /// Whether there are none.
    pub(crate) fn none(&self) -> bool {
        self.failed + (self.lost + self.doubled + self.reordered + self.gaps + self.cut) as usize == 0
    }
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
    fn a_single_mistake_is_not_none() {
        assert!(Mistakes { runs: 3, proofs: 1, ..Mistakes::default() }.none());
        for mistakes in [
            Mistakes { failed: 1, ..Mistakes::default() },
            Mistakes { lost: 1, ..Mistakes::default() },
            Mistakes { reordered: 1, ..Mistakes::default() },
        ] {
            assert!(!mistakes.none(), "{mistakes:?}");
        }
    }

    #[test]
    fn a_must_is_said_in_words() {
        let text = |must: Must| must.text();
        assert_eq!(
            text(Must::times(Metric::ServerCpu, "nchan", Bound::AtMost(0.6))),
            "CPU per delivery, us: at most 0.6 times nchan's"
        );
        assert_eq!(
            text(Must::figure(Metric::Deliveries, Bound::AtLeast(1e7))),
            "deliveries/s: at least 10,000,000"
        );
        assert_eq!(
            text(Must::times(Metric::Connects, "nchan", Bound::Above(1.0))),
            "connects/s: above nchan's"
        );
        let shards = Must {
            beside: Beside::Case("flood"),
            ..Must::figure(Metric::DeliveriesPerCpu, Bound::AtLeast(0.85))
        };
        assert_eq!(text(shards), "deliveries per second of CPU: at least 0.85 times that of flood");
    }
}
