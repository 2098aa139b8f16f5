//! The topics that a stream takes of one partition, whose events have one order.

use std::sync::Arc;

use crate::core::partition::{PartitionId, Placement};
use crate::core::topic::Topic;

/// The topics a stream takes of one partition, none of which covers another, in the order of their names; sent to its
/// home.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Selection {
    partition: PartitionId,
    ids: StreamIds,
    topics: Arc<[Topic]>,
}

/// The ids of a stream's events.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum StreamIds {
    /// Places in the order of its one partition, or publishers' own ids.
    #[default]
    Plain,
    /// Its position, which names its place in each partition.
    Positions,
    /// Its position and the event's topic; and each event begins with a line that names its topic.
    PositionsAndTopics,
}

impl StreamIds {
    /// Returns the ids of a stream on these topics. A single topic, or a user's and its channel's, has one partition by
    /// its nature, and plain ids; "everything" and any other list have positions, and so has a stream whose ids say more
    /// than its place.
    pub(crate) fn of(topics: &[Topic], names_topics: bool, has_code: bool) -> Self {
        let is_of_one_partition = match topics {
            [topic] => !topic.is_everything(),
            topics => topics.iter().all(Topic::is_of_session),
        };
        match names_topics {
            true => StreamIds::PositionsAndTopics,
            false if has_code || !is_of_one_partition => StreamIds::Positions,
            false => StreamIds::Plain,
        }
    }

    pub(crate) fn are_positions(self) -> bool {
        self != StreamIds::Plain
    }

    pub(crate) fn name_topics(self) -> bool {
        self == StreamIds::PositionsAndTopics
    }
}

impl Selection {
    /// Returns a selection of these topics of `partition`, for a stream with these ids.
    pub(crate) fn new(partition: PartitionId, topics: Arc<[Topic]>, ids: StreamIds) -> Self {
        Selection { partition, ids, topics }
    }

    /// Returns the selections of a stream on `topics`, one for each partition. No topic may cover another; those
    /// without a partition are left out.
    pub(crate) fn of(topics: &[Topic], ids: StreamIds, placement: Placement) -> Vec<Self> {
        if topics.iter().any(Topic::is_everything) {
            let topics: Arc<[Topic]> = topics.into();
            let part = |partition| Selection::new(partition, Arc::clone(&topics), ids);
            return placement.partitions().map(part).collect();
        }
        let mut ordered: Vec<_> =
            topics.iter().filter_map(|topic| Some((topic.partition()?, topic.clone()))).collect();
        if ids.are_positions() {
            ordered.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.name().cmp(other.name())));
        }
        ordered
            .chunk_by(|(a, _), (b, _)| a == b)
            .map(|part| {
                let topics = part.iter().map(|(_, topic)| topic.clone()).collect();
                Selection::new(part[0].0, topics, ids)
            })
            .collect()
    }

    /// Returns the partition of the topics.
    pub(crate) fn partition(&self) -> PartitionId {
        self.partition
    }

    pub(crate) fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// Returns the ids of its stream.
    pub(crate) fn ids(&self) -> StreamIds {
        self.ids
    }

    /// Returns whether its stream has positions for ids, because it may take something of other partitions.
    pub(crate) fn is_part(&self) -> bool {
        self.ids.are_positions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::topic::TopicHasher;

    #[test]
    fn topics_are_taken_by_partition_and_their_order_does_not_matter() {
        let hasher = TopicHasher::of(3);
        let placement = Placement::new(3, 2);
        let topics: Vec<_> =
            (0..20).map(|n| Topic::parse(format!("topicnumber{n}").as_bytes(), &hasher).unwrap()).collect();
        let backwards: Vec<_> = topics.iter().rev().cloned().collect();
        let parts = Selection::of(&topics, StreamIds::of(&topics, false, false), placement);
        assert_eq!(parts, Selection::of(&backwards, StreamIds::Positions, placement));
        assert_eq!(parts.iter().map(Selection::partition).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(parts.iter().map(|part| part.topics().len()).sum::<usize>(), 20);
        for part in &parts {
            let is_its = |topic: &Topic| topic.partition() == Some(part.partition());
            assert!(part.is_part() && part.topics().iter().all(is_its));
        }
        assert!(
            !Selection::of(&topics[..1], StreamIds::of(&topics[..1], false, false), placement)[0].is_part()
        );
    }

    #[test]
    fn a_user_and_the_channel_are_the_whole_of_a_stream() {
        let hasher = TopicHasher::of(16);
        let topics = [None, Some("ann")].map(|user| Topic::of_session("chat", user, &hasher));
        let ids = StreamIds::of(&topics, false, false);
        let [whole] = &Selection::of(&topics, ids, Placement::new(16, 1))[..] else {
            panic!("one partition")
        };
        assert_eq!((whole.is_part(), whole.topics()), (false, &topics[..]));
    }

    #[test]
    fn everything_has_a_part_in_each_partition_and_a_topic_of_the_servers_own_in_none() {
        let hasher = TopicHasher::of(3);
        let placement = Placement::new(3, 2);
        let everything = [Topic::everything(&hasher)];
        let parts = Selection::of(&everything, StreamIds::of(&everything, false, false), placement);
        assert_eq!(parts.iter().map(Selection::partition).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(parts.iter().all(Selection::is_part));
        let internal = Topic::internal("admin events", &hasher);
        assert_eq!(Selection::of(&[internal], StreamIds::Plain, placement), []);
    }
}
