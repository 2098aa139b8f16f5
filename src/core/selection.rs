//! What a stream takes of one home: topics that a home orders together, so that their events have one order.

use std::sync::Arc;

use crate::core::message::ShardId;
use crate::core::topic::Topic;

/// Topics of one home, none of which covers another, in the order of their names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Selection {
    home: ShardId,
    is_part: bool,
    topics: Arc<[Topic]>,
}

impl Selection {
    /// Returns these topics of `home`: a part of what a stream takes, or the whole.
    pub(crate) fn new(home: ShardId, topics: Arc<[Topic]>, is_part: bool) -> Self {
        Selection { home, is_part, topics }
    }

    /// The only part of a stream on one topic, or on a user's and those of the channel; none for other topics,
    /// which may have several homes.
    pub(crate) fn whole(topics: &[Topic], shards: usize) -> Option<Self> {
        let is_whole = match topics {
            [topic] => !topic.is_everything(),
            topics => !topics.is_empty() && topics.iter().all(Topic::is_of_session),
        };
        let home = topics.first()?.home(shards) as ShardId;
        is_whole.then(|| Selection::new(home, topics.into(), false))
    }

    /// The parts of a stream on `topics`, by home. None of the topics covers another.
    pub(crate) fn parts(topics: &[Topic], shards: usize) -> Vec<Self> {
        if topics.iter().any(Topic::is_everything) {
            let topics: Arc<[Topic]> = topics.into();
            let part = |home| Selection::new(home as ShardId, Arc::clone(&topics), true);
            return (0..shards).map(part).collect();
        }
        let mut topics = topics.to_vec();
        topics.sort_by(|a, b| a.home(shards).cmp(&b.home(shards)).then_with(|| a.name().cmp(b.name())));
        topics
            .chunk_by(|a, b| a.home(shards) == b.home(shards))
            .map(|topics| Selection::new(topics[0].home(shards) as ShardId, topics.into(), true))
            .collect()
    }

    /// The shard that orders its events.
    pub(crate) fn home(&self) -> ShardId {
        self.home
    }

    pub(crate) fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// Whether it is a part of a stream of several, whose events need ids that name the place at each home.
    pub(crate) fn is_part(&self) -> bool {
        self.is_part
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::topic::TopicHasher;

    #[test]
    fn topics_are_parted_by_home_and_their_order_does_not_matter() {
        let hasher = TopicHasher::new();
        let topics: Vec<_> =
            (0..20).map(|n| Topic::parse(format!("topicnumber{n}").as_bytes(), &hasher).unwrap()).collect();
        let backwards: Vec<_> = topics.iter().rev().cloned().collect();
        let parts = Selection::parts(&topics, 3);
        assert_eq!(parts, Selection::parts(&backwards, 3));
        assert_eq!(parts.iter().map(|part| part.topics().len()).sum::<usize>(), 20);
        for part in &parts {
            assert!(
                part.is_part() && part.topics().iter().all(|topic| topic.home(3) == usize::from(part.home()))
            );
        }
        assert_ne!(Selection::whole(&topics[..1], 1).unwrap(), Selection::parts(&topics[..1], 1)[0]);
        assert_eq!(Selection::whole(&topics[..2], 1), None);
    }

    #[test]
    fn everything_has_a_part_at_each_home() {
        let everything = [Topic::everything(&TopicHasher::new())];
        let parts = Selection::parts(&everything, 3);
        assert_eq!(Selection::whole(&everything, 3), None);
        assert_eq!(parts.iter().map(Selection::home).collect::<Vec<_>>(), [0, 1, 2]);
        assert_ne!(parts[0], parts[1]);
    }
}
