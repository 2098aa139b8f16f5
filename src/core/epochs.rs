//! The epochs whose ids are good: the one in force, and those before it that the journal knows of.
//!
//! A partition's sequence goes on from one epoch to the next, so an id of an earlier epoch names a place as well as one
//! of the current. An id beyond the last event known of its epoch does not: events there were lost, and their numbers
//! were given again.

use crate::core::event_id::{Epoch, Id, Position, Sequence};
use crate::core::partition::PartitionId;

/// The current epoch and the earlier ones whose ids are good, shared by all homes and fan-outs.
#[derive(Debug)]
pub(crate) struct Epochs {
    current: Epoch,
    earlier: Vec<EarlierEpoch>,
}

/// An epoch that ended, as the journal recovered it.
#[derive(Clone, Debug)]
pub(crate) struct EarlierEpoch {
    pub(crate) epoch: Epoch,
    /// For each partition, the newest event of this epoch that was not lost; empty if the order began anew after it.
    pub(crate) last: Box<[Sequence]>,
}

impl Epochs {
    /// Returns the epochs of a server in epoch `current` that knows of these earlier ones.
    pub(crate) fn new(current: Epoch, earlier: Vec<EarlierEpoch>) -> Self {
        Epochs { current, earlier }
    }

    /// Returns the epoch that new ids name.
    pub(crate) fn current(&self) -> Epoch {
        self.current
    }

    /// Returns the epochs that ended.
    #[cfg(test)]
    pub(crate) fn earlier(&self) -> &[EarlierEpoch] {
        &self.earlier
    }

    /// Returns the sequence that an id names in `partition`; `None` for text that is not an id, for an id of an unknown
    /// epoch, and for one beyond what its epoch ordered.
    pub(crate) fn place(&self, id: &str, partition: PartitionId) -> Option<Sequence> {
        let Id { epoch, sequence } = Id::parse(id)?;
        self.check(epoch, sequence, partition)
    }

    /// Returns the sequence that a position names in `partition`, 0 where it names none; `None` as [`Epochs::place`].
    pub(crate) fn place_in(&self, position: &str, partition: PartitionId) -> Option<Sequence> {
        let Position { epoch, sequence } = Position::parse(position, partition)?;
        self.check(epoch, sequence, partition)
    }

    /// Returns whether an id or a position is of an epoch after which the order began anew.
    pub(crate) fn was_reset(&self, id: &str) -> bool {
        let run = id.split_once('-').and_then(|(run, _)| run.parse().ok());
        run.is_some_and(|run| {
            self.earlier.iter().any(|earlier| earlier.epoch == Epoch::at(run) && earlier.last.is_empty())
        })
    }

    fn check(&self, epoch: Epoch, sequence: Sequence, partition: PartitionId) -> Option<Sequence> {
        if epoch == self.current {
            return Some(sequence);
        }
        let earlier = self.earlier.iter().find(|earlier| earlier.epoch == epoch)?;
        let last = earlier.last.get(usize::from(partition)).copied()?;
        (sequence <= last).then_some(sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_an_earlier_epoch_is_good_up_to_what_that_epoch_ordered() {
        let earlier = EarlierEpoch { epoch: Epoch::at(7), last: [5, 0].into() };
        let epochs = Epochs::new(Epoch::at(9), vec![earlier]);
        for (id, partition, place) in [
            ("9-100", 0, Some(100)),
            ("7-5", 0, Some(5)),
            ("7-6", 0, None),
            ("7-1", 1, None),
            ("7-1", 2, None),
            ("8-1", 0, None),
            ("mine", 0, None),
        ] {
            assert_eq!(epochs.place(id, partition), place, "{id} in {partition}");
        }
        for (position, partition, place) in [
            ("9-0.a-1.2", 0, Some(10)),
            ("9-0.a", 1, Some(0)),
            ("7-0.5", 0, Some(5)),
            ("7-0.6", 0, None),
            ("7-0.6", 1, Some(0)),
            ("8-0.1", 0, None),
            ("9-1", 0, None),
        ] {
            assert_eq!(epochs.place_in(position, partition), place, "{position} in {partition}");
        }
    }
}
