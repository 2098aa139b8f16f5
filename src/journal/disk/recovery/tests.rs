use super::super::log::SEGMENT_BYTES;
use super::super::record::{EventSpan, EventSpans, Previous};
use super::super::storage::Directory;
use super::super::storage::tests::TempDir;
use super::*;

#[derive(Default)]
struct Count {
    events: u64,
    bytes: u64,
    told: Vec<(u64, u64)>,
}

impl Sink for Count {
    fn publish(&mut self, publish: &PublishRecord<'_>, _: &mut Segments) -> bool {
        self.events += publish.events.len() as u64;
        self.bytes += (0..publish.events.len()).map(|event| publish.lines(event).len() as u64).sum::<u64>();
        true
    }

    fn progress(&mut self, bytes: u64, of_bytes: u64) {
        self.told.push((bytes, of_bytes));
    }
}

fn settings(segment_bytes: u64, epoch: u64) -> Settings {
    let mut random = fastrand::Rng::with_seed(epoch);
    Settings {
        partitions: 16,
        segment_bytes,
        data_bytes_max: u64::MAX,
        epoch,
        random: Box::new(move || random.u64(..)),
    }
}

/// Appends batches of 64 publishes, each with one event of `lines_bytes`.
fn fill(log: &mut Log<Directory>, batches: u64, lines_bytes: usize) {
    let mut text = vec![b'x'; lines_bytes];
    text[..5].copy_from_slice(b"data:");
    text[lines_bytes - 1] = b'\n';
    let span = EventSpan { lines: 0..lines_bytes as u32, id: None };
    let mut last = log.last.clone();
    for _ in 0..batches {
        let publishes: Vec<_> = (0..64u8)
            .map(|at| {
                let last = &mut last[usize::from(at % 16)];
                *last += 1;
                PublishRecord {
                    partition: at % 16,
                    first: *last,
                    at_ms: 1 << 40,
                    topic: "pets/dogs",
                    key: None,
                    previous: Previous { sequence: *last - 1, id: None },
                    text: &text,
                    events: EventSpans::from_buf([span.clone()]),
                }
            })
            .collect();
        log.append(&publishes).unwrap();
    }
    log.sync().unwrap();
}

#[test]
fn a_real_directory_gives_back_what_was_appended_over_several_starts() {
    let dir = TempDir::new("starts");
    let mut expected = 0;
    for epoch in 1..5 {
        let disk = Directory::open(dir.path()).unwrap().0;
        let mut count = Count::default();
        let (mut log, recovery) = Log::open(disk, settings(1 << 20, epoch), &mut count).unwrap();
        assert_eq!((recovery.events, count.events), (expected, expected));
        assert_eq!(count.bytes, expected * 5_000);
        assert_eq!(log.epochs().past.len() as u64, epoch - 1);
        fill(&mut log, 5, 5_000);
        expected += 5 * 64;
        if epoch == 2 {
            log.close().unwrap();
        }
    }
}

/// Prints how fast a log of 512 MiB is read. Run it in release:
/// `cargo test --release --lib journal -- --ignored --nocapture`.
#[test]
#[ignore = "writes 1 GiB"]
fn a_log_is_read_at_500_mb_a_second_from_a_warm_cache() {
    for lines_bytes in [128, 1024] {
        let dir = TempDir::new("speed");
        let disk = Directory::open(dir.path()).unwrap().0;
        let (mut log, _) = Log::open(disk, settings(SEGMENT_BYTES, 1), &mut Count::default()).unwrap();
        fill(&mut log, (512 << 20) / 64 / (lines_bytes as u64 + 30), lines_bytes);
        log.close().unwrap();
        let mut rates: Vec<u64> = (2..7)
            .map(|epoch| {
                let disk = Directory::open(dir.path()).unwrap().0;
                let mut count = Count::default();
                let (_, recovery) = Log::open(disk, settings(SEGMENT_BYTES, epoch), &mut count).unwrap();
                assert!(count.told.len() > 5);
                recovery.bytes / 1000 / recovery.ms.max(1)
            })
            .collect();
        rates.sort_unstable();
        println!("{lines_bytes} bytes an event: {rates:?} MB/s");
        assert!(cfg!(debug_assertions) || rates[2] >= 500);
    }
}
