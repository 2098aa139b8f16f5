//! Random numbers that nobody can guess.

use std::hash::{BuildHasher as _, RandomState};
use std::time::SystemTime;

/// Returns 64 random bits.
pub(crate) fn random_u64() -> u64 {
    // Each `RandomState` has a key from the kernel's randomness. The time is hashed for machines that have none yet, as
    // they boot.
    RandomState::new().hash_one(SystemTime::now())
}

/// Returns a random key for hashes.
pub(crate) fn random_key() -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&random_u64().to_ne_bytes());
    key[8..].copy_from_slice(&random_u64().to_ne_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_of_a_random_key_is_random() {
        let keys = (0..1000).map(|_| u128::from_ne_bytes(random_key()));
        let (any, all) = keys.fold((0, u128::MAX), |(any, all), key| (any | key, all & key));
        assert_eq!((any, all), (u128::MAX, 0));
    }
}
