//! What was published, what each subscriber saw, and what it must have seen: too plain to be wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// For so long after a node told of a gap another one may answer publishes that the gap is about: until it notices.
const NOTICED_AFTER: Duration = Duration::from_secs(6);

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
    /// When it was known.
    pub(super) at: Instant,
}

/// What a subscriber saw, in its order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    Event {
        topic: usize,
        number: Number,
        id: String,
    },
    /// With its reason, and when it was told.
    Gap(String, Instant),
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
    pub(super) longest_outage: Duration,
}

impl Story {
    /// Asserts that everybody saw what was taken, once, in order, and nothing that was refused.
    pub(super) fn check_without_gaps(&self) {
        for Reading { name, seen, .. } in &self.readings {
            let gap = seen.iter().position(|seen| matches!(seen, Seen::Gap(..)));
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
            let sent: BTreeMap<Number, &Sent> =
                self.sent.iter().filter(|sent| sent.topic == topic).map(|sent| (sent.number, sent)).collect();
            let readings = self.readings.iter().filter(|reading| reading.topics.contains(&topic));
            let mut longest: (&str, Vec<Number>) = ("", Vec::new());
            for reading in readings {
                self.check_reading(reading, topic, &sent);
                // Nothing is missing behind the last gap, and everybody saw the last event.
                let order = reading.behind_last_gap(topic);
                let (name, other) = &longest;
                let (n, m) = (order.len(), other.len());
                let at = (1..=n.min(m)).find(|back| order[n - back] != other[m - back]);
                assert!(
                    at.is_none(),
                    "{} and {name} differ in topic {topic}, {at:?} from the end",
                    reading.name
                );
                let is_whole = n == m || m == 0 || reading.has_gap() || self.has_gaps();
                assert!(is_whole, "{} and {name} saw {n} and {m} events of topic {topic}", reading.name);
                orders += usize::from(m > 0);
                if n > m {
                    longest = (&reading.name, order);
                }
            }
        }
        println!("{} ({orders} orders compared)", self.figures());
    }

    fn check_reading(&self, reading: &Reading, topic: usize, sent: &BTreeMap<Number, &Sent>) {
        let name = &reading.name;
        // By publisher: the last number that was seen, and whether a gap was told since.
        let mut last: BTreeMap<usize, (usize, bool)> = BTreeMap::new();
        let mut told: Option<Instant> = None;
        // In their order, whether they are there or not.
        let mut unordered: BTreeSet<Number> = BTreeSet::new();
        // A gap is told first, and then comes what is kept of what was before it.
        let missing = |publisher: usize, after: usize, before: usize, told: Option<Instant>| {
            let is_told = |at: Instant| told.is_some_and(|told| at < told + NOTICED_AFTER);
            let is_missing = |sent: &&Sent| matches!(sent.fate, Fate::Taken(_)) && !is_told(sent.at);
            let between = sent.range((publisher, after + 1)..(publisher, before));
            between.map(|(_, sent)| *sent).find(is_missing).map(|sent| sent.number)
        };
        for (at, seen) in reading.seen.iter().enumerate() {
            let (number, id) = match seen {
                Seen::Gap(_, at) => {
                    told = Some(*at);
                    last.values_mut().for_each(|(_, gap)| *gap = true);
                    unordered.clear();
                    continue;
                }
                Seen::Event { topic: other, .. } if *other != topic => continue,
                Seen::Event { number, id, .. } => (*number, id),
            };
            let around =
                || format!("{:?}", &reading.seen[at.saturating_sub(3)..(at + 2).min(reading.seen.len())]);
            match sent.get(&number).map(|sent| &sent.fate) {
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
            let (before, gap) = last.insert(publisher, (number, false)).unwrap_or((0, told.is_some()));
            // The first number of a publisher is 1.
            assert!(
                number > before || gap,
                "{name} saw {number} after {before} of {publisher}: {}",
                around()
            );
            let lost = if number > before { missing(publisher, before, number, told) } else { None };
            assert_eq!(lost, None, "{name} did not see it in topic {topic}, and no gap: {}", around());
        }
        for publisher in sent.keys().map(|(publisher, _)| *publisher).collect::<BTreeSet<_>>() {
            let (before, _) = last.get(&publisher).copied().unwrap_or((0, false));
            let lost = missing(publisher, before, usize::MAX, told);
            assert_eq!(lost, None, "{name} did not see it in topic {topic} at the end, and no gap");
        }
    }

    fn has_gaps(&self) -> bool {
        self.readings.iter().any(Reading::has_gap)
    }

    /// What it came to, in one line.
    pub(super) fn figures(&self) -> String {
        let count = |is: fn(&Fate) -> bool| self.sent.iter().filter(|sent| is(&sent.fate)).count();
        let seen = self.readings.iter().flat_map(|reading| &reading.seen);
        let gaps = seen.clone().filter(|seen| matches!(seen, Seen::Gap(..))).count();
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
    fn has_gap(&self) -> bool {
        self.seen.iter().any(|seen| matches!(seen, Seen::Gap(..)))
    }

    fn behind_last_gap(&self, topic: usize) -> Vec<Number> {
        let behind = self.seen.rsplit(|seen| matches!(seen, Seen::Gap(..))).next().unwrap_or_default();
        let of_topic = |seen: &Seen| match seen {
            Seen::Event { topic: other, number, .. } if *other == topic => Some(*number),
            _ => None,
        };
        behind.iter().filter_map(of_topic).collect()
    }
}

/// A story of two subscribers to one topic, as they saw it: numbers of publisher 0, and 0 for a gap. All numbers from 1 to
/// 9 were sent; 7 was refused, and nobody knows of 8.
fn story(orders: [&[usize]; 2]) -> Story {
    let fate = |number| match number {
        7 => Fate::Refused,
        8 => Fate::Unknown,
        _ => Fate::Taken(format!("id {number}")),
    };
    let start = Instant::now();
    let time = |number: usize| start + 10 * NOTICED_AFTER * number as u32;
    let seen = |order: &[usize], at: usize| match order[at] {
        0 => Seen::Gap("reset".to_owned(), time(*order.get(at + 1).unwrap_or(&10)) - 2 * NOTICED_AFTER),
        number => Seen::Event { topic: 0, number: (0, number), id: format!("id {number}") },
    };
    let reading = |order: &[usize]| Reading {
        name: format!("{order:?}"),
        topics: vec![0],
        seen: (0..order.len()).map(|at| seen(order, at)).collect(),
        connections: 1,
    };
    let sent = (1..10)
        .map(|number| Sent { topic: 0, number: (0, number), fate: fate(number), at: time(number) })
        .collect();
    Story { sent, readings: orders.map(reading).into(), longest_outage: Default::default() }
}

#[test]
fn the_model_finds_what_is_lost_doubled_out_of_order_or_made_up() {
    const ALL: &[usize] = &[1, 2, 3, 4, 5, 6, 9];
    for good in [ALL, &[8, 1, 2, 3, 4, 5, 6, 9], &[1, 2, 3, 4, 5, 6, 9, 8]] {
        story([good, good]).check_without_gaps();
    }
    for good in [&[1, 2, 0, 5, 6, 9][..], &[1, 2, 3, 0, 2, 3, 4, 5, 6, 9], &[0, 9], &[1, 2, 3, 4, 5, 6, 9, 0]]
    {
        story([ALL, good]).check();
        let result = std::panic::catch_unwind(|| story([ALL, good]).check_without_gaps());
        assert!(result.is_err(), "a gap: {good:?}");
    }
    for bad in [
        &[1, 2, 4, 5, 6, 9][..],
        &[1, 2, 3, 4, 5, 6],
        &[2, 3, 4, 5, 6, 9],
        &[1, 2, 2, 3, 4, 5, 6, 9],
        &[1, 2, 3, 5, 4, 6, 9],
        &[1, 2, 3, 4, 5, 6, 7, 9],
        &[8, 1, 2, 3, 4, 5, 6, 8, 9],
        &[1, 2, 3, 4, 5, 8, 6, 9],
        &[1, 2, 3, 4, 5, 6, 9, 10],
        &[1, 2, 0, 5, 9],
        &[1, 2, 5, 6, 0, 9],
    ] {
        let result = std::panic::catch_unwind(|| story([ALL, bad]).check());
        assert!(result.is_err(), "it is not seen: {bad:?}");
    }
}
