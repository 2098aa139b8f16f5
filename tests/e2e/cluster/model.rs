//! What was published, what each subscriber saw, and what it must have seen: too plain to be wrong.

use std::collections::{BTreeMap, BTreeSet};

/// The event that a publisher sent, by its publisher and its number there; in one topic.
pub(super) type Number = (usize, usize);

/// The first event of each topic, and the last.
pub(super) const BEGIN: Number = (999, 1);
pub(super) const END: Number = (999, 2);

/// What a publisher was told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// 200, with this id.
    Taken(String),
    /// 504, or the connection was lost: it may be there or not.
    Unknown,
    /// 503 or 507.
    Refused,
}

#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) topic: usize,
    pub(super) number: Number,
    pub(super) fate: Fate,
}

/// What a subscriber saw, in its order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    Event {
        topic: usize,
        number: Number,
        id: String,
    },
    /// With its reason.
    Gap(String),
}

/// All that a subscriber saw.
pub(super) struct Reading {
    pub(super) name: String,
    pub(super) topics: Vec<usize>,
    pub(super) seen: Vec<Seen>,
    pub(super) connections: usize,
}

/// All that happened.
pub(super) struct Story {
    pub(super) sent: Vec<Sent>,
    pub(super) readings: Vec<Reading>,
    /// The longest time in which no publish was answered 200.
    pub(super) longest_outage: std::time::Duration,
}

impl Story {
    /// Asserts that everybody saw what was taken, once, in order, and nothing that was refused.
    pub(super) fn check_without_gaps(&self) {
        for Reading { name, seen, .. } in &self.readings {
            let gap = seen.iter().position(|seen| matches!(seen, Seen::Gap(_)));
            if let Some(at) = gap {
                panic!(
                    "{name} was told of a gap: {:?}",
                    &seen[at.saturating_sub(3)..(at + 3).min(seen.len())]
                );
            }
        }
        self.check();
    }

    /// The same; but behind a gap events may be missing, or come again.
    pub(super) fn check(&self) {
        let topics: BTreeSet<usize> =
            self.readings.iter().flat_map(|reading| reading.topics.clone()).collect();
        let mut orders = 0;
        for topic in topics {
            let sent: BTreeMap<Number, &Fate> = self
                .sent
                .iter()
                .filter(|sent| sent.topic == topic)
                .map(|sent| (sent.number, &sent.fate))
                .collect();
            let readings = self.readings.iter().filter(|reading| reading.topics.contains(&topic));
            let mut whole: Option<(&str, Vec<Number>)> = None;
            for reading in readings {
                self.check_reading(reading, topic, &sent);
                let has_gap = reading.seen.iter().any(|seen| matches!(seen, Seen::Gap(_)));
                let order: Vec<_> = reading.of_topic(topic).map(|(number, _)| number).collect();
                match &whole {
                    _ if has_gap => {}
                    None => whole = Some((&reading.name, order)),
                    Some((name, other)) => {
                        let at = order.iter().zip(other).position(|(a, b)| a != b);
                        assert!(
                            order == *other,
                            "{} and {name} differ in topic {topic} at {at:?}",
                            reading.name
                        );
                        orders += 1;
                    }
                }
            }
        }
        println!("{} ({orders} orders compared)", self.figures());
    }

    fn check_reading(&self, reading: &Reading, topic: usize, sent: &BTreeMap<Number, &Fate>) {
        let name = &reading.name;
        // By publisher: the last number that was seen, and whether a gap was told since.
        let mut last: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
        // In their order, whether they are there or not.
        let mut unordered: BTreeSet<Number> = BTreeSet::new();
        let missing = |publisher: usize, after: usize, before: usize| {
            let mut between = sent.range((publisher, after + 1)..(publisher, before));
            between.find(|(_, fate)| matches!(fate, Fate::Taken(_))).map(|(number, _)| *number)
        };
        for (at, seen) in reading.seen.iter().enumerate() {
            let (number, id) = match seen {
                Seen::Gap(_) => {
                    last.values_mut().for_each(|(_, gap)| *gap = true);
                    unordered.clear();
                    continue;
                }
                Seen::Event { topic: other, .. } if *other != topic => continue,
                Seen::Event { number, id, .. } => (*number, id),
            };
            let around =
                || format!("{:?}", &reading.seen[at.saturating_sub(3)..(at + 2).min(reading.seen.len())]);
            match sent.get(&number) {
                None => panic!("{name} saw {number:?}, which nobody sent to topic {topic}: {}", around()),
                Some(Fate::Refused) => panic!("{name} saw {number:?}, which was refused: {}", around()),
                Some(Fate::Unknown) => {
                    assert!(unordered.insert(number), "{name} saw {number:?} twice: {}", around());
                    continue;
                }
                Some(Fate::Taken(told)) => {
                    let is_alone = reading.topics.len() == 1;
                    assert!(
                        !is_alone || told == id || self.has_gaps(),
                        "{name} saw {number:?} as {id}, not {told}"
                    );
                }
            }
            let (publisher, number) = number;
            let (before, gap) = last.insert(publisher, (number, false)).unwrap_or((0, false));
            // The first number of a publisher is 1.
            assert!(
                number > before || gap,
                "{name} saw {number} after {before} of {publisher}: {}",
                around()
            );
            let lost = if number > before { missing(publisher, before, number) } else { None };
            assert!(
                lost.is_none() || gap,
                "{name} did not see {lost:?} in topic {topic}, and no gap: {}",
                around()
            );
        }
        for publisher in sent.keys().map(|(publisher, _)| *publisher).collect::<BTreeSet<_>>() {
            let (before, gap) = last.get(&publisher).copied().unwrap_or((0, self.has_gap(reading)));
            let lost = missing(publisher, before, usize::MAX);
            assert!(
                lost.is_none() || gap,
                "{name} did not see {lost:?} in topic {topic} at the end, and no gap"
            );
        }
    }

    fn has_gap(&self, reading: &Reading) -> bool {
        reading.seen.iter().any(|seen| matches!(seen, Seen::Gap(_)))
    }

    fn has_gaps(&self) -> bool {
        self.readings.iter().any(|reading| self.has_gap(reading))
    }

    /// What it came to, in one line.
    pub(super) fn figures(&self) -> String {
        let count = |is: fn(&Fate) -> bool| self.sent.iter().filter(|sent| is(&sent.fate)).count();
        let seen = self.readings.iter().flat_map(|reading| &reading.seen);
        let gaps = seen.clone().filter(|seen| matches!(seen, Seen::Gap(_))).count();
        format!(
            "{} publishes taken, {} unknown, {} refused; {} events seen and {gaps} gaps on {} connections; \
             at most {:.1} s without a 200",
            count(|fate| matches!(fate, Fate::Taken(_))),
            count(|fate| *fate == Fate::Unknown),
            count(|fate| *fate == Fate::Refused),
            seen.count() - gaps,
            self.readings.iter().map(|reading| reading.connections).sum::<usize>(),
            self.longest_outage.as_secs_f64(),
        )
    }
}

impl Reading {
    fn of_topic(&self, topic: usize) -> impl Iterator<Item = (Number, &str)> {
        self.seen.iter().filter_map(move |seen| match seen {
            Seen::Event { topic: other, number, id } if *other == topic => Some((*number, &**id)),
            _ => None,
        })
    }
}
