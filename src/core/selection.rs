//! The topics that a stream takes of one partition, whose events have one order.

use std::sync::Arc;

use crate::core::partition::{PartitionId, Placement};
use crate::core::topic::Topic;

/// The topics a stream takes of one partition, none of which covers another, in the order of their names; sent to its
/// home.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Selection {
    partition: PartitionId,
    is_part: bool,
    topics: Arc<[Topic]>,
}

impl Selection {
    /// Returns a selection of these topics of `partition`; `is_part` says that its stream may take other partitions
    /// too.
    pub(crate) fn new(partition: PartitionId, topics: Arc<[Topic]>, is_part: bool) -> Self {
        Selection { partition, is_part, topics }
    }

    /// Returns the selections of a stream on `topics`, one for each partition. No topic may cover another; those
    /// without a partition are left out.
    pub(crate) fn of(topics: &[Topic], placement: Placement) -> Vec<Self> {
        if topics.iter().any(Topic::is_everything) {
            let topics: Arc<[Topic]> = topics.into();
            let part = |partition| Selection::new(partition, Arc::clone(&topics), true);
            return placement.partitions().map(part).collect();
        }
        let is_part = has_positions(topics);
        let mut ordered: Vec<_> =
            topics.iter().filter_map(|topic| Some((topic.partition()?, topic.clone()))).collect();
        if is_part {
            ordered.sort_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.name().cmp(other.name())));
        }
        ordered
            .chunk_by(|(a, _), (b, _)| a == b)
            .map(|part| {
                let topics = part.iter().map(|(_, topic)| topic.clone()).collect();
                Selection::new(part[0].0, topics, is_part)
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

    /// Returns whether its stream has positions for ids, because it may take something of other partitions.
    pub(crate) fn is_part(&self) -> bool {
        self.is_part
    }
}

/// Returns whether a stream on these topics has positions for ids, which name its place in each partition. A single
/// topic, or a user's and its channel's, has one partition by its nature, and plain ids; "everything" and any other
/// list have positions.
pub(crate) fn has_positions(topics: &[Topic]) -> bool {
    match topics {
        [topic] => topic.is_everything(),
        topics => !topics.iter().all(Topic::is_of_session),
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
        let parts = Selection::of(&topics, placement);
        assert_eq!(parts, Selection::of(&backwards, placement));
        assert_eq!(parts.iter().map(Selection::partition).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(parts.iter().map(|part| part.topics().len()).sum::<usize>(), 20);
        for part in &parts {
            let is_its = |topic: &Topic| topic.partition() == Some(part.partition());
            assert!(part.is_part() && part.topics().iter().all(is_its));
        }
        assert!(!Selection::of(&topics[..1], placement)[0].is_part());
    }

    #[test]
    fn a_user_and_the_channel_are_the_whole_of_a_stream() {
        let hasher = TopicHasher::of(16);
        let topics = [None, Some("ann")].map(|user| Topic::of_session("chat", user, &hasher));
        let [whole] = &Selection::of(&topics, Placement::new(16, 1))[..] else { panic!("one partition") };
        assert_eq!((whole.is_part(), whole.topics()), (false, &topics[..]));
    }

    #[test]
    fn everything_has_a_part_in_each_partition_and_a_topic_of_the_servers_own_in_none() {
        let hasher = TopicHasher::of(3);
        let placement = Placement::new(3, 2);
        let parts = Selection::of(&[Topic::everything(&hasher)], placement);
        assert_eq!(parts.iter().map(Selection::partition).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(parts.iter().all(Selection::is_part));
        assert_eq!(Selection::of(&[Topic::internal("admin events", &hasher)], placement), []);
    }
}
