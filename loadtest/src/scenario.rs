//! Named starting points for the flags of a run: each asks one question of a server. A flag that is given overrides them.

use clap::ValueEnum;
use std::time::Duration;

/// A question that a run asks of a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Scenario {
    /// 1,000 subscribers, 100 events a second: what does one delivery cost, and how late is it?
    Paced,
    /// 1,000 subscribers, publishes as fast as they are taken: how much can it deliver?
    Flood,
    /// 10,000 subscribers, 10 events a second: what does a large audience cost?
    Many,
    /// 10,000 topics of one subscriber each, publishes to random ones as fast as they are taken
    Topics,
    /// 1,000 subscribers of which 400 come and go, 200 times a second in all
    Churn,
    /// 100 subscribers of which 10 stop reading: do the others notice?
    Slow,
    /// 15,000 subscribers and one event: what does waiting cost?
    Idle,
}

/// The values that a scenario sets. Flags of the same names say more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Preset {
    pub(crate) subscribers: usize,
    pub(crate) topics: usize,
    pub(crate) random_topics: bool,
    pub(crate) churning: usize,
    pub(crate) stalled: usize,
    /// Events a second; `None` for as fast as they are taken.
    pub(crate) rate: Option<f64>,
    pub(crate) events: Option<u64>,
    pub(crate) size: usize,
    pub(crate) settle: Duration,
}

impl Preset {
    /// Returns what the scenario sets, or a run without any.
    pub(crate) fn of(scenario: Option<Scenario>) -> Preset {
        let plain = Preset {
            subscribers: 1_000,
            topics: 1,
            random_topics: false,
            churning: 0,
            stalled: 0,
            rate: Some(100.0),
            events: None,
            size: 128,
            settle: Duration::ZERO,
        };
        match scenario {
            None | Some(Scenario::Paced) => plain,
            Some(Scenario::Flood) => Preset { rate: None, ..plain },
            Some(Scenario::Many) => Preset { subscribers: 10_000, rate: Some(10.0), ..plain },
            Some(Scenario::Topics) => {
                Preset { subscribers: 10_000, topics: 10_000, random_topics: true, rate: None, ..plain }
            }
            Some(Scenario::Churn) => Preset { churning: 400, ..plain },
            // 2 MB/s to each reader: one that stalls is megabytes behind within seconds.
            Some(Scenario::Slow) => {
                Preset { subscribers: 100, stalled: 10, rate: Some(2_000.0), size: 1_024, ..plain }
            }
            // A server gives back, or takes, some memory right after the last connect.
            Some(Scenario::Idle) => {
                Preset { subscribers: 15_000, events: Some(1), settle: Duration::from_secs(1), ..plain }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_what_its_name_says() {
        let of = |scenario| Preset::of(Some(scenario));
        assert_eq!(of(Scenario::Paced), Preset::of(None));
        assert_eq!(of(Scenario::Flood).rate, None);
        assert!(of(Scenario::Many).subscribers >= 10_000);
        let topics = of(Scenario::Topics);
        assert!(topics.topics == topics.subscribers && topics.random_topics);
        for scenario in Scenario::value_variants() {
            let Preset { churning, stalled, subscribers, .. } = of(*scenario);
            assert!(churning + stalled < subscribers, "{scenario:?} has steady subscribers");
        }
        assert!(of(Scenario::Churn).churning > 0 && of(Scenario::Slow).stalled > 0);
    }
}
