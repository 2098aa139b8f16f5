//! An EventSource on many topics, and what is published to it.

use std::collections::BTreeMap;

use crate::support::{Event, Publisher, Server, Stream};

/// So many that hardly ever (once in half a million runs, were there only two) all are in one partition.
pub(super) const TREES: usize = 20;

/// Unless a flag says otherwise.
pub(super) const PARTITIONS: usize = 16;

pub(super) fn tree(number: usize) -> String {
    format!("tree{number:04}")
}

/// A server and a stream of several topics on it.
pub(super) struct Setup {
    pub(super) flags: &'static [&'static str],
    pub(super) target: String,
    /// Where a tree's event of this number goes.
    pub(super) topic: fn(usize, usize) -> String,
}

/// Topics that are ids; topics that are paths, two of one tree now and then; and everything.
pub(super) fn setups() -> [Setup; 3] {
    let query = |topics: Vec<String>| format!("/subscribe?{}", topics.join("&"));
    let ids = (0..TREES).map(|n| format!("topic={}", tree(n)));
    let paths = (0..TREES).map(|n| match n % 2 {
        0 => format!("topic={}", tree(n)),
        _ => format!("topic={0}/a&topic={0}%2Fb", tree(n)),
    });
    let path = |n, number| match (n % 2, number % 3) {
        (0, 0) => tree(n),
        (1, 0) => format!("{}/b/c", tree(n)),
        (_, 1) => format!("{}/a", tree(n)),
        _ => format!("{}/b", tree(n)),
    };
    [
        Setup { flags: &[], target: query(ids.collect()), topic: |n, _| tree(n) },
        Setup { flags: &["--namespaces"], target: query(paths.collect()), topic: path },
        Setup { flags: &["--namespaces"], target: "/subscribe/".to_owned(), topic: path },
    ]
}

/// What an EventSource keeps while its connections come and go (WHATWG HTML, section 9.2).
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub(super) target: String,
    /// What it says at its next connection, unless that is empty.
    pub(super) last_id: String,
    /// The data of all events but gaps.
    pub(super) data: Vec<String>,
    /// The data of the gaps.
    pub(super) gaps: Vec<String>,
}

impl Page {
    pub(super) fn new(target: &str) -> Page {
        Page { target: target.to_owned(), last_id: String::new(), data: Vec::new(), gaps: Vec::new() }
    }

    pub(super) fn connect(&self, server: &Server) -> Stream {
        let field = format!("Last-Event-ID: {}", self.last_id);
        let fields = if self.last_id.is_empty() { &[][..] } else { &[&*field] };
        let stream = Stream::open_with(server, &self.target, fields);
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        stream
    }

    /// Nothing in between two events changes it, so a connection that is cut after any byte leaves it as one that is cut
    /// after an event does.
    pub(super) fn take(&mut self, event: Event) {
        if !event.id.is_empty() {
            self.last_id = event.id;
        }
        match &*event.name {
            "gap" => self.gaps.push(event.data),
            _ if event.data.is_empty() => {}
            _ => self.data.push(event.data),
        }
    }

    /// Takes events until it has so many in all.
    pub(super) fn read_to(&mut self, stream: &mut Stream, count: usize) {
        while self.data.len() < count {
            self.take(stream.event());
        }
    }

    /// Asserts that it saw the first `count` events of each tree once each, in order.
    #[track_caller]
    pub(super) fn check(&self, trees: usize, count: usize, about: &str) {
        let mut numbers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for data in &self.data {
            let (tree, number) = data.split_once(' ').unwrap();
            numbers.entry(tree).or_default().push(number.parse().unwrap());
        }
        assert_eq!(numbers.len(), trees, "{about}");
        for (tree, numbers) in numbers {
            assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "{tree}, {about}");
        }
        assert!(self.gaps.is_empty(), "{about}: {:?}", self.gaps);
    }
}

/// Publishes to all trees in turn.
pub(super) struct Rounds<'s> {
    setup: &'s Setup,
    publisher: Publisher,
    /// Events of each tree so far.
    pub(super) count: usize,
}

impl<'s> Rounds<'s> {
    pub(super) fn new(server: &Server, setup: &'s Setup) -> Rounds<'s> {
        Rounds { setup, publisher: Publisher::new(server), count: 0 }
    }

    /// Publishes what no page sees that comes later.
    pub(super) fn before(&mut self) {
        for n in 0..TREES {
            let answer =
                self.publisher.publish(&(self.setup.topic)(n, 0), "data: before").expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }

    /// Two events of each tree, of some in one publish.
    pub(super) fn publish(&mut self) {
        let topic = self.setup.topic;
        let event = |n: usize, number: usize| format!("data: {} {number}\n\n", tree(n));
        for n in 0..TREES {
            let (one, two) = (self.count, self.count + 1);
            let publishes = match n % 3 {
                0 => vec![(topic(n, one), event(n, one) + &event(n, two))],
                _ => vec![(topic(n, one), event(n, one)), (topic(n, two), event(n, two))],
            };
            for (topic, body) in publishes {
                let answer = self.publisher.publish(&topic, &body).expect("an answer");
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        }
        self.count += 2;
    }

    pub(super) fn total(&self) -> usize {
        TREES * self.count
    }
}

pub(super) fn start(cpus: &[&str], flags: &[&str]) -> Server {
    Server::start(&[cpus, flags].concat())
}

/// The run and the place in each partition that an id says, which must be a position.
#[track_caller]
pub(super) fn position(id: &str) -> (u64, BTreeMap<u64, u64>) {
    let number = |text: &str| -> u64 {
        let number = text.parse().unwrap_or_else(|_| panic!("no position: {id:?}"));
        assert_eq!(format!("{number}"), text, "as numbers are written: {id:?}");
        number
    };
    let (run, rest) = id.split_once('-').unwrap_or_else(|| panic!("no position: {id:?}"));
    let base36 = |text: &str| -> u64 {
        let is_written_so = !text.starts_with(['0', '+']) || text == "0";
        let number =
            u64::from_str_radix(text, 36).ok().filter(|_| is_written_so && text == text.to_lowercase());
        number.unwrap_or_else(|| panic!("no position: {id:?}"))
    };
    let mut places = BTreeMap::new();
    for place in rest.split('-') {
        let (partition, place) = place.split_once('.').unwrap_or_else(|| panic!("no position: {id:?}"));
        assert_eq!(places.insert(base36(partition), base36(place)), None, "a partition twice: {id:?}");
    }
    (number(run), places)
}
