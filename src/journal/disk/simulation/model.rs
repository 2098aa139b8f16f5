//! A naive model of a log: a list of events for each partition, and the rules for which must come back.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::alive::Segments;
use super::super::ends::TopicEnds;
use super::super::epochs::{EPOCHS_MAX, EpochTable};
use super::super::log::Lost;
use super::super::record::PublishRecord;
use super::super::recovery::{Recovery, Sink};
use crate::core::event_id::Sequence;

/// An appended event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ModelEvent {
    pub(super) topic: String,
    pub(super) lines: Vec<u8>,
    pub(super) id: Option<String>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) at_ms: u64,
}

/// The partition and the sequence of an event.
pub(super) type Place = (u8, Sequence);

#[derive(Default)]
pub(super) struct LogModel {
    /// The events that may come back.
    pub(super) events: BTreeMap<Place, ModelEvent>,
    /// The events of unsynced batches, one list for each batch.
    pub(super) unsynced: Vec<Vec<Place>>,
    /// Set when the last of these may be written in part: its append failed.
    pub(super) is_last_in_doubt: bool,
    /// Events that need not come back.
    pub(super) dropped: HashSet<Place>,
    /// Events that did not come back once, and must not later.
    gone: HashSet<Place>,
    /// Publishes with keys of this time or later must come back.
    pub(super) keys_since_ms: u64,
    /// Set when the journal has a limit: events that were not dropped may go.
    pub(super) has_limit: bool,
    /// The ends of epochs: a lower bound of their last sequences, then those recorded.
    epochs: HashMap<u64, Vec<Sequence>>,
    recorded: HashMap<u64, Vec<Sequence>>,
    pub(super) last: Vec<Sequence>,
    pub(super) epoch: u64,
}

/// A recovered publish.
pub(super) struct Recovered {
    pub(super) partition: u8,
    pub(super) first: Sequence,
    pub(super) previous: (Sequence, Option<String>),
    pub(super) events: Vec<ModelEvent>,
}

/// Collects the publishes that a log hands out, and keeps a limited number of events of each topic.
pub(super) struct RecoveredLog {
    pub(super) publishes: Vec<Recovered>,
    pub(super) history_events_max: usize,
    pub(super) histories: HashMap<(u8, String), Vec<(Sequence, usize)>>,
    pub(super) dropped: Vec<Place>,
    keyed: HashSet<Place>,
}

impl RecoveredLog {
    pub(super) fn new(history_events_max: usize) -> Self {
        RecoveredLog {
            publishes: Vec::new(),
            history_events_max,
            histories: HashMap::new(),
            dropped: Vec::new(),
            keyed: HashSet::new(),
        }
    }
}

impl Sink for RecoveredLog {
    fn publish(&mut self, publish: &PublishRecord<'_>, segments: &mut Segments) -> bool {
        let key = publish.key.map(|key| key.key.to_vec());
        let events = (0..publish.events.len()).map(|event| ModelEvent {
            topic: publish.topic.to_owned(),
            lines: publish.lines(event).to_vec(),
            id: publish.own_id(event).map(str::to_owned),
            key: key.clone(),
            at_ms: publish.at_ms,
        });
        let recovered = Recovered {
            partition: publish.partition,
            first: publish.first,
            previous: (publish.previous.sequence, publish.previous.id.map(str::to_owned)),
            events: events.collect(),
        };
        let history = self.histories.entry((publish.partition, publish.topic.to_owned())).or_default();
        for (at, event) in recovered.events.iter().enumerate() {
            history.push((publish.first + at as u64, event.lines.len()));
            if history.len() > self.history_events_max {
                let (sequence, bytes) = history.remove(0);
                segments.dropped(publish.partition, sequence, bytes);
                self.dropped.push((publish.partition, sequence));
            }
        }
        self.publishes.push(recovered);
        true
    }

    fn key(&mut self, publish: &PublishRecord<'_>) {
        self.keyed.extend((publish.first..=publish.last()).map(|sequence| (publish.partition, sequence)));
    }
}

impl LogModel {
    pub(super) fn new(partitions: u8, has_limit: bool) -> Self {
        LogModel { last: vec![0; usize::from(partitions)], has_limit, ..LogModel::default() }
    }

    /// Returns the newest event of a topic before a sequence.
    pub(super) fn previous(
        &self,
        partition: u8,
        topic: &str,
        before: Sequence,
    ) -> (Sequence, Option<String>) {
        let range = self.events.range((partition, 0)..(partition, before));
        let found = range.rev().find(|(_, event)| event.topic == topic);
        found.map_or((0, None), |((_, sequence), event)| (*sequence, event.id.clone()))
    }

    pub(super) fn synced(&mut self) {
        self.unsynced.clear();
        self.note_epoch();
    }

    /// Notes the synced events as a lower bound of the running epoch's end.
    fn note_epoch(&mut self) {
        let mut synced = self.last.clone();
        for (partition, first) in self.unsynced.iter().flatten().rev() {
            synced[usize::from(*partition)] = first - 1;
        }
        self.epochs.insert(self.epoch, synced);
    }

    pub(super) fn lost(&mut self, lost: &[Lost]) {
        assert!(self.has_limit || lost.is_empty());
        for lost in lost {
            let places: Vec<_> = self
                .events
                .range((lost.partition, 0)..=(lost.partition, lost.upto))
                .map(|(place, _)| *place)
                .collect();
            self.dropped.extend(places);
        }
    }

    /// Checks the events that came back after a restart, and goes on from them. `is_kill`: no written bytes are lost.
    pub(super) fn check(
        &mut self,
        recovery: &Recovery,
        collector: &RecoveredLog,
        ends: &TopicEnds,
        epochs: &EpochTable,
        is_kill: bool,
    ) {
        let recovered = self.check_order(recovery, collector);
        self.settle_unsynced(&recovered, &recovery.last, is_kill);
        for publish in &collector.publishes {
            let event = &publish.events[0];
            let previous = self.previous(publish.partition, &event.topic, publish.first);
            assert_eq!(
                publish.previous,
                previous,
                "the event before {:?}",
                (publish.partition, publish.first)
            );
        }
        self.check_missing(&recovered, ends);
        for (place, event) in &self.events {
            let must_come = event.key.is_some() && event.at_ms >= self.keys_since_ms && !self.has_limit;
            assert!(!must_come || collector.keyed.contains(place), "the key of {place:?} is lost");
        }
        self.check_sequences(recovery, epochs);
        self.dropped.extend(&collector.dropped);
    }

    /// Checks that each partition's events ascend, and are as appended. Returns their places.
    fn check_order(&self, recovery: &Recovery, collector: &RecoveredLog) -> HashSet<Place> {
        let mut places = HashSet::new();
        let mut last = vec![0; self.last.len()];
        for publish in &collector.publishes {
            for (at, event) in publish.events.iter().enumerate() {
                let place = (publish.partition, publish.first + at as u64);
                let last = &mut last[usize::from(place.0)];
                assert!(*last < place.1, "{place:?} comes after {last}");
                *last = place.1;
                assert_eq!(Some(event), self.events.get(&place), "{place:?} is not what was appended");
                assert!(!self.gone.contains(&place), "{place:?} was gone");
                places.insert(place);
            }
        }
        assert_eq!(recovery.events, places.len() as u64);
        places
    }

    /// Checks that a prefix of the unsynced batches came back, whole, and forgets the others.
    fn settle_unsynced(&mut self, recovered: &HashSet<Place>, last: &[Sequence], is_kill: bool) {
        let in_doubt = usize::from(self.is_last_in_doubt);
        let must = self.unsynced.len() - in_doubt.min(self.unsynced.len());
        let mut is_lost = false;
        for (at, batch) in std::mem::take(&mut self.unsynced).into_iter().enumerate() {
            // Dropped events may be gone already.
            let is_there =
                batch.iter().all(|(partition, sequence)| *sequence <= last[usize::from(*partition)]);
            assert!(is_there || !batch.iter().any(|place| recovered.contains(place)), "a part of a batch");
            assert!(!is_there || !is_lost, "a batch came back, and one before it did not");
            is_lost |= !is_there;
            assert!(
                !is_kill || is_there || at >= must,
                "a batch that was written was lost without power failure"
            );
            if !is_there {
                batch.iter().for_each(|place| {
                    self.events.remove(place);
                });
            }
        }
        self.is_last_in_doubt = false;
    }

    fn check_missing(&mut self, recovered: &HashSet<Place>, ends: &TopicEnds) {
        let mut topics: HashMap<(u8, &str), Vec<(Place, &ModelEvent)>> = HashMap::new();
        for (place, event) in &self.events {
            topics.entry((place.0, &event.topic)).or_default().push((*place, event));
        }
        let mut oldest = vec![Sequence::MAX; self.last.len()];
        for (partition, sequence) in recovered {
            let oldest = &mut oldest[usize::from(*partition)];
            *oldest = (*oldest).min(*sequence);
        }
        for ((partition, topic), events) in topics {
            let there =
                events.iter().position(|(place, _)| recovered.contains(place)).unwrap_or(events.len());
            let (missing, rest) = events.split_at(there);
            for (place, _) in rest {
                assert!(recovered.contains(place), "{place:?} is missing behind an older one of {topic}");
            }
            for (place, _) in missing {
                let may_go = self.dropped.contains(place)
                    || self.gone.contains(place)
                    || self.has_limit && place.1 < oldest[usize::from(partition)];
                assert!(may_go, "{place:?} is lost");
                self.gone.insert(*place);
            }
            let Some(((_, sequence), event)) = missing.last().filter(|_| rest.is_empty()) else { continue };
            let end =
                ends.lookup(partition, topic).unwrap_or_else(|| panic!("the end of {topic} is not known"));
            assert!(end.sequence >= *sequence, "the loss of {sequence} of {topic} is hidden: {end:?}");
            if end.is_exact {
                assert_eq!((end.sequence, end.id), (*sequence, event.id.as_deref()), "the end of {topic}");
            }
        }
    }

    fn check_sequences(&mut self, recovery: &Recovery, epochs: &EpochTable) {
        for (partition, last) in recovery.last.iter().enumerate() {
            let range = (partition as u8, 0)..=(partition as u8, Sequence::MAX);
            let newest = self.events.range(range).next_back().map_or(0, |((_, sequence), _)| *sequence);
            assert!(*last >= newest, "partition {partition} went back from {newest} to {last}");
            assert!(*last <= self.last[partition], "partition {partition} is at {last}, which never was");
        }
        let listed: HashMap<u64, _> =
            epochs.past.iter().map(|past| (past.epoch, past.last.to_vec())).collect();
        for (epoch, synced) in &self.epochs {
            match listed.get(epoch) {
                Some(last) => {
                    assert!(last.iter().zip(synced).all(|(last, synced)| last >= synced), "epoch {epoch}");
                    let recorded = self.recorded.entry(*epoch).or_insert_with(|| last.clone());
                    assert_eq!(last, recorded, "the end of epoch {epoch} changed");
                }
                None => assert_eq!(listed.len(), EPOCHS_MAX, "epoch {epoch} is forgotten"),
            }
        }
        self.last = recovery.last.to_vec();
        self.epoch = epochs.current;
        self.note_epoch();
    }
}
