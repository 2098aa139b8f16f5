//! The epochs of a journal: one for each start, with the last sequence that each partition had when the next began.
//!
//! An id names the epoch it was given in. An id with a sequence past the last one recorded for its epoch names an event
//! that this journal never kept: it was lost with the seconds that `--sync TIME` may lose, or was given by a copy of
//! the directory.

use super::encoding::{Malformed, Reader, put_varint};
use super::format::NUMBER_MAX;
use crate::core::event_id::Sequence;
use crate::core::partition::PARTITIONS_MAX;

/// Earlier epochs that are kept; an id of an older one is unknown. At 64 partitions they take 40 KB at most at the
/// start of each segment, and 64 restarts are more than a client sleeps through.
pub(crate) const EPOCHS_MAX: usize = 64;

/// An earlier epoch, and its last sequences.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PastEpoch {
    pub(crate) epoch: u64,
    /// The last sequence of each partition, 0 where there was none.
    pub(crate) last: Box<[Sequence]>,
}

/// The running epoch and those before it, owned by the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct EpochTable {
    pub(crate) current: u64,
    /// The last sequence of each partition when this was written.
    pub(super) last: Box<[Sequence]>,
    /// Newest first.
    pub(crate) past: Vec<PastEpoch>,
}

impl EpochTable {
    pub(super) fn new(current: u64, partitions: u8) -> Self {
        EpochTable { current, last: vec![0; usize::from(partitions)].into(), past: Vec::new() }
    }

    /// Returns the table after a new epoch began, in which sequences go on after `last`.
    pub(super) fn followed_by(self, current: u64, last: &[Sequence]) -> EpochTable {
        let mut past = self.past;
        past.insert(0, PastEpoch { epoch: self.current, last: last.into() });
        past.truncate(EPOCHS_MAX);
        EpochTable { current, last: last.into(), past }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.current.to_le_bytes());
        put_varint(out, self.last.len() as u64);
        self.last.iter().for_each(|sequence| put_varint(out, *sequence));
        put_varint(out, self.past.len() as u64);
        for past in &self.past {
            out.extend_from_slice(&past.epoch.to_le_bytes());
            past.last.iter().for_each(|sequence| put_varint(out, *sequence));
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<EpochTable, Malformed> {
        let current = reader.u64()?;
        let partitions = reader.count(1)?;
        if partitions > usize::from(PARTITIONS_MAX) {
            return Err(Malformed("there are too many partitions"));
        }
        let last = |reader: &mut Reader<'_>| {
            let sequence = |_| match reader.varint()? {
                // Sequences go on after it.
                sequence if sequence > NUMBER_MAX => Err(Malformed("a sequence is too high")),
                sequence => Ok(sequence),
            };
            (0..partitions).map(sequence).collect::<Result<Box<[_]>, _>>()
        };
        let last_now = last(reader)?;
        let count = reader.count(8 + partitions)?;
        let past = (0..count).map(|_| Ok(PastEpoch { epoch: reader.u64()?, last: last(reader)? }));
        Ok(EpochTable { current, last: last_now, past: past.collect::<Result<_, Malformed>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_epochs_are_kept_with_their_ends_and_read_back() {
        let mut epochs = EpochTable::new(1000, 2);
        for start in 1..200 {
            epochs = epochs.followed_by(1000 + start, &[start * 1000, 0]);
        }
        assert_eq!(epochs.current, 1199);
        assert_eq!(epochs.past.len(), EPOCHS_MAX);
        assert_eq!(epochs.past[0], PastEpoch { epoch: 1198, last: [199_000, 0].into() });
        assert_eq!(epochs.past[63].epoch, 1135);
        let mut bytes = Vec::new();
        epochs.encode(&mut bytes);
        assert_eq!(EpochTable::decode(&mut Reader::new(&bytes)).unwrap(), epochs);
    }
}
