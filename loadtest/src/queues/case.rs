//! What is measured of queues.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One measurement, put to each contender in turn.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Each message carries a `message_id`; otherwise none does.
    pub(crate) message_ids: bool,
    /// Messages that the broker sends ahead of their acknowledgement, for each queue.
    pub(crate) prefetch: u16,
    pub(crate) rounds: usize,
    /// How long a round takes, about.
    pub(crate) seconds: f64,
}

/// How messages come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// All are there before the first is consumed.
    Drain,
    /// The same, as one point of a sweep.
    Sweep,
    /// They are published at a steady rate to consumers that are there.
    Paced,
}

const ROUNDS: usize = 5;
/// A table of many points, whose medians need be less exact.
const SWEEP_ROUNDS: usize = 3;

/// All of them. Rounds and duration stand over each one's own where they are given.
pub(crate) fn all(
    prefetch: u16,
    sweep: &[u16],
    rounds: Option<usize>,
    duration: Option<Duration>,
) -> Vec<Case> {
    let case = |name: &str, kind: Kind, message_ids: bool, prefetch: u16| {
        let (own_rounds, own_seconds) = match kind {
            Kind::Drain => (ROUNDS, 3.0),
            Kind::Paced => (ROUNDS, 6.0),
            Kind::Sweep => (SWEEP_ROUNDS, 2.0),
        };
        Case {
            name: name.to_owned(),
            kind,
            message_ids,
            prefetch,
            rounds: rounds.unwrap_or(own_rounds).max(1),
            seconds: duration.map_or(own_seconds, |duration| duration.as_secs_f64()),
        }
    };
    let mut all = vec![
        case("drain", Kind::Drain, false, prefetch),
        case("drain-ids", Kind::Drain, true, prefetch),
        case("paced", Kind::Paced, false, prefetch),
    ];
    all.extend(
        sweep.iter().map(|&prefetch| case(&format!("prefetch-{prefetch}"), Kind::Sweep, false, prefetch)),
    );
    all
}

impl Case {
    /// esper's `--queue-ack-window`.
    pub(crate) fn ack_window(&self) -> u16 {
        self.prefetch / 2
    }

    /// The bare consumer acknowledges so many messages at once: as many as esper does (`batch` in src/bridge/ledger.rs).
    pub(crate) fn batch(&self) -> u16 {
        ((self.prefetch - self.ack_window()) / 2).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_consumer_acknowledges_as_often_as_esper() {
        let batches = |prefetches: &[u16]| -> Vec<_> {
            let cases = all(200, prefetches, None, None).into_iter().filter(|case| case.kind == Kind::Sweep);
            cases.map(|case| (case.ack_window(), case.batch())).collect()
        };
        assert_eq!(batches(&[1, 10, 200, 1000]), [(0, 1), (5, 2), (100, 50), (500, 250)]);
    }
}
