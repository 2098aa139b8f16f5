//! Opens a directory of arbitrary bytes: for `cargo fuzz`, and over directories that the simulation made.
//!
//! The input is files, one after the other: a byte for the name, three for the length, then the bytes. Their CRCs are
//! corrected first, for a fuzzer does not find one by chance, and a forged journal has good ones anyway.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "for tests and fuzzing alone")]

use super::alive::Segments;
use super::error::OpenError;
use super::format::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, SEGMENT_HEADER_BYTES, crc_seed, segment_name, segment_number,
};
use super::gone::{gone_name, gone_number};
use super::inspect::{repair, verify};
use super::layout::read_headers;
use super::log::{Log, Settings};
use super::record::PublishRecord;
use super::recovery::{Recovery, Sink};
use super::storage::Disk as _;
use super::storage::simulated::SimulatedDisk;
use crate::core::event_id::Sequence;

const SEGMENT_BYTES: u64 = 4096;
const EPOCH: u64 = 1 << 40;
/// The bit in a file's name byte, next to the number, that marks a file of dropped events.
const GONE_BIT: u8 = 0x80;

/// The events that a log hands out, in a form that can be compared.
#[derive(Debug, Default, Eq, PartialEq)]
struct HandedOut(Vec<(u8, Sequence, String, Vec<u8>)>);

impl Sink for HandedOut {
    fn publish(&mut self, publish: &PublishRecord<'_>, _: &mut Segments) -> bool {
        for (event, span) in publish.events.iter().enumerate() {
            let lines = span.lines.start as usize..span.lines.end as usize;
            let lines = publish.text[lines].to_vec();
            let sequence = publish.first + event as u64;
            self.0.push((publish.partition, sequence, publish.topic.to_owned(), lines));
        }
        true
    }
}

/// Opens, verifies and repairs the directory in these bytes.
///
/// Panics if the reader does, if two starts in a row hand out different events, if `verify` finds no damage where a
/// start refuses or finds some where it does not, and if a repaired directory is refused.
pub(crate) fn open(input: &[u8]) {
    let disk = directory_of(input);
    let report = verify(&disk);
    if let Ok(report) = &report {
        let repaired = SimulatedDisk::new(2);
        repair(&disk, &repaired, EPOCH - 1, || 3).expect("what verify reads can be repaired");
        let found = start(&repaired, EPOCH);
        let (recovery, handed_out) = found.expect("what is repaired can be opened");
        assert_eq!(recovery.events, handed_out.0.len() as u64);
        assert!(recovery.events <= report.events);
    }
    match (start(&disk, EPOCH), report) {
        (Ok((recovery, first)), report) => {
            let report = report.expect("what can be opened can be verified");
            assert_eq!(report.damage, [], "a start took what verify calls damaged");
            assert_eq!(recovery.events, first.0.len() as u64);
            let (recovery, second) = start(&disk, EPOCH + 1).expect("what was opened can be opened again");
            assert_eq!(recovery.torn, None);
            assert!(first == second, "two starts in a row hand out different events");
        }
        (Err(error @ OpenError::Damage { .. }), Ok(report)) => {
            assert_ne!(report.damage, [], "verify calls whole what a start refuses: {error}");
        }
        (Err(_), _) => {}
    }
}

fn start(disk: &SimulatedDisk, epoch: u64) -> Result<(Recovery, HandedOut), OpenError> {
    let names = disk.list().unwrap_or_default();
    let headers = read_headers(disk, &names).unwrap_or_default();
    let partitions = headers.last_key_value().map_or(16, |(_, header)| header.partitions);
    let random = Box::new(|| 5);
    let settings =
        Settings { partitions, segment_bytes: SEGMENT_BYTES, data_bytes_max: u64::MAX, epoch, random };
    let mut handed_out = HandedOut::default();
    let (_, recovery) = Log::open(disk.clone(), settings, &mut handed_out)?;
    Ok((recovery, handed_out))
}

fn directory_of(mut input: &[u8]) -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    while let Some((&[name, low, middle, high], rest)) = input.split_first_chunk() {
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        let (bytes, rest) = rest.split_at(length.min(rest.len()));
        let number = u64::from(name & !GONE_BIT);
        let mut bytes = bytes.to_vec();
        if name & GONE_BIT == 0 {
            sign_segment(&mut bytes);
            disk.put(&segment_name(number), bytes);
        } else {
            sign_gone(&mut bytes);
            disk.put(&gone_name(number), bytes);
        }
        input = rest;
    }
    disk
}

/// Corrects the CRCs of a segment's header and of the batches after it, as far as those are contiguous.
fn sign_segment(bytes: &mut [u8]) {
    let Some((header, batches)) = bytes.split_at_mut_checked(SEGMENT_HEADER_BYTES) else { return };
    // Clears high bits: no journal reaches such numbers of segments and batches, and they must not overflow.
    for high in [16..20, 24..28, 64..68, 72..76] {
        header[high].fill(0);
    }
    sign(header, 0);
    sign_batches(batches, crc_seed(u64_at(header, 28)));
}

/// Makes good the CRCs of batches, as far as they follow one another.
pub(super) fn sign_batches(mut rest: &mut [u8], seed: u32) {
    while let Some((header, behind)) = rest.split_at_mut_checked(BATCH_HEADER_BYTES) {
        let length = u32::from_le_bytes([header[20], header[21], header[22], header[23]]) as usize;
        if !header.starts_with(BATCH_MAGIC) || length > behind.len() {
            return;
        }
        for high in [8..12, 16..20] {
            header[high].fill(0);
        }
        let (payload, behind) = behind.split_at_mut(length);
        header[24..28].copy_from_slice(&crc32c::crc32c_append(seed, payload).to_le_bytes());
        sign(header, seed);
        rest = behind;
    }
}

fn sign_gone(bytes: &mut [u8]) {
    if bytes.len() >= 20 {
        let seed = crc_seed(u64_at(bytes, 8));
        sign(bytes, seed);
    }
}

/// Writes the CRC of all bytes but the last four into those.
fn sign(bytes: &mut [u8], seed: u32) {
    if let Some((signed, crc)) = bytes.split_last_chunk_mut() {
        *crc = crc32c::crc32c_append(seed, signed).to_le_bytes();
    }
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    bytes[offset..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Returns the input of which [`directory_of`] makes this directory. Files with numbers too high for it are left out.
#[cfg(test)]
pub(super) fn input_of(disk: &SimulatedDisk) -> Vec<u8> {
    let mut input = Vec::new();
    for name in disk.list().unwrap() {
        let number = segment_number(&name)
            .or_else(|| gone_number(&name).map(|number| number | u64::from(GONE_BIT)))
            .and_then(|number| u8::try_from(number).ok());
        let bytes = disk.bytes(&name);
        if let Some(number) = number {
            input.push(number);
            input.extend_from_slice(&(bytes.len() as u32).to_le_bytes()[..3]);
            input.extend_from_slice(&bytes);
        }
    }
    input
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::simulation::directory;
    use super::*;

    #[test]
    fn directories_of_the_simulation_are_read_as_they_are() {
        for seed in 0..50 {
            let disk = directory(seed);
            let input = input_of(&disk);
            open(&input);
            let (recovery, handed_out) = start(&disk, EPOCH).unwrap();
            // A torn end gets good CRCs.
            if recovery.torn.is_none() {
                let (_, copied) = start(&directory_of(&input), EPOCH).unwrap();
                assert!(handed_out == copied, "seed {seed}: other events come back");
            }
        }
    }

    /// Writes the initial corpus of `cargo fuzz`.
    #[test]
    #[ignore = "writes files into the directory that ESPER_FUZZ_CORPUS names"]
    fn a_corpus_is_written() {
        let dir = std::env::var("ESPER_FUZZ_CORPUS").unwrap();
        std::fs::create_dir_all(&dir).unwrap();
        for seed in 0..200 {
            std::fs::write(format!("{dir}/simulated-{seed}"), input_of(&directory(seed))).unwrap();
        }
    }

    proptest! {
        #[test]
        fn a_forged_directory_is_opened_or_refused(
            seed in 0..20u64,
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut input = input_of(&directory(seed));
            for (at, byte) in changes {
                let at = at.index(input.len());
                input[at] = byte;
            }
            open(&input);
        }

        #[test]
        fn any_bytes_are_opened_or_refused(input: Vec<u8>) {
            open(&input);
        }
    }
}
