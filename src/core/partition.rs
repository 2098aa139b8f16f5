//! Partitions: the unit of order.
//!
//! A partition has one sequence, one history and one home at a time. Which partition a topic belongs to depends on its first
//! segment, on the number of partitions and on a secret, and on nothing else: not on the machine, its CPUs or the process. So
//! events that are kept, and ids that clients hold, mean the same after a restart with other settings.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use crate::core::message::ShardId;
use crate::core::random::random_key;

/// A partition's number, from 0.
pub(crate) type PartitionId = u8;

/// The most partitions of a server. A position names each of them in 17 bytes at most, and so stays below 2 KiB.
pub(crate) const PARTITIONS_MAX: u8 = 64;

/// Chooses the partition of a topic, by a secret that is kept with the data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partitioner {
    partitions: u8,
    /// Prevents publishers from choosing names that all fall into one partition.
    secret: [u8; 16],
}

impl Partitioner {
    /// Returns a partitioner for `partitions`, which is 1 to [`PARTITIONS_MAX`]. The secret must be kept with the
    /// events.
    pub(crate) fn new(partitions: u8, secret: [u8; 16]) -> Self {
        debug_assert!((1..=PARTITIONS_MAX).contains(&partitions));
        Partitioner { partitions, secret }
    }

    /// Returns a partitioner with a new random secret.
    pub(crate) fn random(partitions: u8) -> Self {
        Self::new(partitions, random_key())
    }

    /// Returns the partition of all topics with this first segment: its SipHash-2-4 under the secret, modulo the number
    /// of partitions.
    pub(crate) fn partition(&self, first_segment: &str) -> PartitionId {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(first_segment.as_bytes());
        (hasher.finish() % u64::from(self.partitions)) as PartitionId
    }

    /// Returns the hash of a topic's name under which its end is kept: the same in every process that has the secret.
    pub(crate) fn end_hash(&self, topic: &str) -> u64 {
        end_hash(&self.secret, topic)
    }
}

/// Returns the hash of a topic's name under `secret`, by which its end is kept in memory and on disk.
pub(crate) fn end_hash(secret: &[u8; 16], topic: &str) -> u64 {
    let mut hasher = SipHasher24::new_with_key(secret);
    // A prefix: the partition is a hash with the same secret, so its topics would otherwise share a few slots.
    hasher.write(b"end:");
    hasher.write(topic.as_bytes());
    hasher.finish()
}

/// The assignment of partitions to the shards that are their homes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placement {
    partitions: u8,
    shards: ShardId,
}

impl Placement {
    /// Deals `partitions` out to `shards`, of which there is at least one.
    pub(crate) fn new(partitions: u8, shards: usize) -> Self {
        // There are as many shards as CPUs, far below 2^16.
        Placement { partitions, shards: shards.max(1) as ShardId }
    }

    /// Returns the shard that is home to a partition.
    pub(crate) fn home(self, partition: PartitionId) -> ShardId {
        ShardId::from(partition) % self.shards
    }

    /// Returns all partitions, in order.
    pub(crate) fn partitions(self) -> impl Iterator<Item = PartitionId> {
        0..self.partitions
    }

    /// Returns the number of shards.
    pub(crate) fn shards(self) -> ShardId {
        self.shards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of the reference implementation's vectors: the bytes 0 to 15.
    fn secret() -> [u8; 16] {
        std::array::from_fn(|n| n as u8)
    }

    #[test]
    fn a_topic_has_the_partition_that_it_had_in_every_version() {
        // A change here moves topics that are kept to partitions where nobody finds them.
        let partitions = |names: &[&str], of: u8| {
            names.iter().map(|name| Partitioner::new(of, secret()).partition(name)).collect::<Vec<_>>()
        };
        let names = ["", "pets", "abcdef123", "session 4:chat", "prices", "ä"];
        assert_eq!(partitions(&names, 16), [1, 7, 6, 4, 0, 11]);
        assert_eq!(partitions(&names, 61), [27, 34, 11, 1, 48, 54]);
        assert_eq!(partitions(&names, 1), [0; 6]);
    }

    #[test]
    fn the_hash_is_the_published_siphash_2_4() {
        // vectors_sip64 of the reference implementation, for the inputs "", 00, 00 01, and 00 to 0e.
        let hash = |bytes: &[u8]| {
            let mut hasher = SipHasher24::new_with_key(&secret());
            hasher.write(bytes);
            hasher.finish()
        };
        let input = secret();
        assert_eq!(hash(&input[..0]), 0x726f_db47_dd0e_0e31);
        assert_eq!(hash(&input[..1]), 0x74f8_39c5_93dc_67fd);
        assert_eq!(hash(&input[..2]), 0x0d6c_8009_d9a9_4f5a);
        assert_eq!(hash(&input[..15]), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn topics_spread_evenly_over_partitions_and_these_over_shards() {
        for partitions in [2, 3, 16, 61, 64] {
            let partitioner = Partitioner::new(partitions, secret());
            let mut topics = vec![0_u32; partitions.into()];
            for n in 0..u32::from(partitions) * 1000 {
                topics[usize::from(partitioner.partition(&format!("topic{n:08}")))] += 1;
            }
            // 1000 expected each; 200 is more than six standard deviations.
            assert!(topics.iter().all(|count| count.abs_diff(1000) < 200), "{partitions}: {topics:?}");
        }
        let placement = Placement::new(16, 3);
        let mut homes = [0; 3];
        placement.partitions().for_each(|partition| homes[usize::from(placement.home(partition))] += 1);
        assert_eq!(homes, [6, 5, 5]);
        assert_eq!([placement.shards(), Placement::new(16, 0).shards()], [3, 1]);
    }
}
