//! What stays of topics that were forgotten: where each ended, so that one gone quiet is resumed without a false gap.

use crate::core::event_id::Sequence;
use crate::core::topic::Topic;

/// Topics are told apart by so many places. Two that share one make each other gaps, and never hide any. 512 KiB, and
/// 2 MiB more when each has a publisher's own id of the greatest length.
const PLACES: usize = 16 << 10;

/// The end of a topic: everything up to it is lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct End {
    /// Its newest event; 0 when it had none.
    pub(crate) sequence: Sequence,
    /// The publisher's own id of that event, which may still be resumed after without a gap.
    pub(crate) own_id: Option<Box<str>>,
}

impl End {
    /// Returns this, or the other one if that is later.
    pub(super) fn or_later(self, other: &End) -> End {
        if other.sequence > self.sequence { other.clone() } else { self }
    }
}

/// The ends of all topics that were forgotten.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    /// By the topic's hash, which stands beside it; none until a topic is forgotten.
    places: Vec<(u64, End)>,
}

impl Forgotten {
    /// Notes the end of a topic that is forgotten.
    pub(super) fn note(&mut self, topic: &Topic, end: End) {
        if self.places.is_empty() {
            self.places.resize(PLACES, (0, End::default()));
        }
        let place = &mut self.places[place(topic)];
        if end.sequence > place.1.sequence {
            *place = (topic.hash(), end);
        }
    }

    /// Returns where a topic ended, or where one ended later that shares its place; 0 when there is neither.
    pub(super) fn end(&self, topic: &Topic) -> End {
        match self.places.get(place(topic)) {
            Some((hash, end)) if *hash == topic.hash() => end.clone(),
            // The id is another topic's: this one may have had it earlier.
            Some((_, end)) => End { sequence: end.sequence, own_id: None },
            None => End::default(),
        }
    }
}

fn place(topic: &Topic) -> usize {
    topic.hash() as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(sequence: Sequence, own_id: &str) -> End {
        End { sequence, own_id: Some(own_id.into()) }
    }

    #[test]
    fn topics_that_share_a_place_get_the_later_end_and_never_the_others_id() {
        let hash = PLACES as u64;
        let [first, second, other] = [7, 7 + hash, 8].map(|hash| Topic::hashed("t", hash));
        let mut forgotten = Forgotten::default();
        assert_eq!(forgotten.end(&first).sequence, 0);
        forgotten.note(&first, end(5, "x"));
        forgotten.note(&second, end(9, "y"));
        forgotten.note(&first, end(6, "z"));
        let found = |topic| (forgotten.end(topic).sequence, forgotten.end(topic).own_id);
        assert_eq!(found(&first), (9, None));
        assert_eq!(found(&second), (9, Some("y".into())));
        assert_eq!(found(&other), (0, None));
    }
}
