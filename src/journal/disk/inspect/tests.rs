use super::super::alive::Segments;
use super::super::format::SEGMENT_HEADER_BYTES;
use super::super::log::{Log, Settings};
use super::super::record::{EventSpan, EventSpans, Previous};
use super::super::recovery::{Recovery, Sink};
use super::super::storage::simulated::SimulatedDisk;
use super::*;

/// Collects partition, sequence and lines.
#[derive(Default)]
struct RecoveredEvents(Vec<(u8, u64, Vec<u8>)>);

impl Sink for RecoveredEvents {
    fn publish(&mut self, publish: &PublishRecord<'_>, _: &mut Segments) -> bool {
        for event in 0..publish.events.len() {
            let sequence = publish.first + event as u64;
            self.0.push((publish.partition, sequence, publish.lines(event).to_vec()));
        }
        true
    }
}

fn open(
    disk: &SimulatedDisk,
    epoch: u64,
) -> Result<(Log<SimulatedDisk>, Recovery, RecoveredEvents), OpenError> {
    let mut random = fastrand::Rng::with_seed(epoch);
    let settings = Settings {
        partitions: 2,
        segment_bytes: 600,
        data_bytes_max: u64::MAX,
        epoch,
        random: Box::new(move || random.u64(..)),
    };
    let mut collector = RecoveredEvents::default();
    let (log, recovery) = Log::open(disk.clone(), settings, &mut collector)?;
    Ok((log, recovery, collector))
}

fn append(log: &mut Log<SimulatedDisk>, sequence: u64) {
    let text = format!("data:{sequence}\n");
    let publish = PublishRecord {
        partition: (sequence % 2) as u8,
        first: sequence,
        at_ms: 0,
        topic: "dogs",
        key: None,
        previous: Previous { sequence: sequence.saturating_sub(2), id: None },
        text: text.as_bytes(),
        events: EventSpans::from_vec(vec![EventSpan { lines: 0..text.len() as u32, id: None }]),
    };
    log.append(&[publish]).unwrap();
    log.sync().unwrap();
}

/// Returns a journal of several segments, one of them rewritten, one with a file of dropped events.
fn journal() -> SimulatedDisk {
    let disk = SimulatedDisk::new(0);
    let (mut log, _, _) = open(&disk, 1).unwrap();
    for sequence in 1..40 {
        append(&mut log, sequence);
    }
    log.dropped(1, 1, 7);
    for sequence in 7..15 {
        log.dropped((sequence % 2) as u8, sequence, 8);
    }
    while log.trim(1).unwrap() == super::super::trim::Trimmed::Some {}
    append(&mut log, 40);
    disk
}

#[test]
fn every_flipped_byte_is_found_or_is_behind_the_last_batch() {
    let disk = journal();
    let names = disk.list().unwrap();
    assert!(names.iter().any(|name| gone_number(name).is_some()), "{names:?}");
    let newest = names.iter().rfind(|name| segment_number(name).is_some()).unwrap();
    let header = SegmentHeader::decode(&disk.bytes(newest)[..SEGMENT_HEADER_BYTES]).unwrap();
    let last_bytes = read_newest(&disk, &header).unwrap().bytes as usize;
    let whole = open(&disk.snapshot(), 2).unwrap().2.0;
    let (mut damaged, mut torn, mut harmless) = (0, 0, 0);
    for name in &names {
        let bytes = disk.bytes(name);
        for at in 0..bytes.len() {
            let copy = disk.snapshot();
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            copy.put(name, flipped);
            let report = verify(&copy).unwrap();
            match open(&copy, 2) {
                Err(OpenError::Damage { damage, .. }) => {
                    damaged += 1;
                    assert!(&damage.file == name && damage.offset <= at as u64, "{name} {at}: {damage}");
                    assert!(
                        report.damage.iter().any(|found| found.file == damage.file),
                        "{name} {at}: {report:?}"
                    );
                }
                Err(error) => panic!("{name} {at}: {error}"),
                Ok((_, recovery, events)) => match recovery.torn {
                    // Nothing tells whether the last batch was synced.
                    Some(found) => {
                        torn += 1;
                        assert!(&found.file == name && name == newest && found.offset <= at as u64);
                        assert_eq!(report.torn, Some(found));
                        let lost = usize::from(at < last_bytes);
                        assert_eq!(events.0, whole[..whole.len() - lost], "{name} {at}");
                    }
                    // Zeros after the last batch are never read as a record.
                    None => {
                        harmless += 1;
                        assert!(name == newest && at >= last_bytes, "{name} {at}");
                        assert_eq!(events.0, whole);
                    }
                },
            }
        }
    }
    println!("{damaged} found as damage, {torn} as a torn tail, {harmless} harmless");
    assert!(damaged > 1000 && torn > 30 && harmless > 0);
}

#[test]
fn a_repaired_copy_holds_what_is_whole_and_knows_no_earlier_epoch() {
    let disk = journal();
    let whole = open(&disk.snapshot(), 2).unwrap().2.0;
    let names: Vec<_> =
        disk.list().unwrap().into_iter().filter(|name| segment_number(name).is_some()).collect();
    for name in &names {
        let bytes = disk.bytes(name);
        for at in (0..bytes.len()).step_by(7) {
            let damaged = disk.snapshot();
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x40;
            damaged.put(name, flipped);
            let to = SimulatedDisk::new(0);
            let report = repair(&damaged, &to, 9, || 7).unwrap();
            let (log, recovery, events) =
                open(&to, 10).unwrap_or_else(|error| panic!("{name} {at} {report:?}: {error}"));
            assert!(recovery.torn.is_none());
            assert_eq!(log.epochs().past.iter().map(|past| past.epoch).collect::<Vec<_>>(), [9]);
            // No event comes back that was not there; one batch is lost at most, or a segment with its header.
            let lost = whole.iter().filter(|event| !events.0.contains(event)).count();
            assert!(lost <= if at < SEGMENT_HEADER_BYTES { 20 } else { 1 }, "{name} {at}: {lost} lost");
        }
    }
}

#[test]
fn a_copy_is_a_journal_of_its_own_that_ends_with_what_was_written() {
    let disk = journal();
    let (mut log, _, whole) = open(&disk, 2).unwrap();
    append(&mut log, 41);
    append(&mut log, 42);
    let to = SimulatedDisk::new(0);
    copy(&disk, &to).unwrap();
    // The original goes on.
    append(&mut log, 43);
    let (_, recovery, copied) = open(&to, 3).unwrap();
    assert_eq!(copied.0.len(), whole.0.len() + 2);
    assert_eq!(*recovery.last, [42, 41]);
    assert_eq!(verify(&to).unwrap().damage, []);
}

#[test]
fn a_missing_segment_is_damage() {
    let disk = journal();
    let names: Vec<_> =
        disk.list().unwrap().into_iter().filter(|name| segment_number(name).is_some()).collect();
    // Nothing tells that the newest one is missing.
    for name in &names[..names.len() - 1] {
        let copy = disk.snapshot();
        copy.unlink(name).unwrap();
        assert!(matches!(open(&copy, 2), Err(OpenError::Damage { .. })), "{name}");
        assert_ne!(verify(&copy).unwrap().damage, []);
    }
}

#[test]
fn another_number_of_partitions_is_refused() {
    let disk = journal();
    let settings = Settings {
        partitions: 3,
        segment_bytes: 600,
        data_bytes_max: u64::MAX,
        epoch: 2,
        random: Box::new(|| 1),
    };
    let error = Log::open(disk, settings, &mut RecoveredEvents::default()).err().unwrap();
    assert!(matches!(error, OpenError::Partitions { found: 2, asked: 3, .. }));
}
