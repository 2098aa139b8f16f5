//! The stages of a publish, each callable alone, for the benches. Not part of the library's interface: it changes
//! without notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering as Atomic};
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};
use tokio::runtime::{Builder, Runtime};

use crate::auth::{Keys, Signers};
use crate::core::arena::{Arena, Key};
use crate::core::budget::Budget;
use crate::core::epochs::Epochs;
use crate::core::event::{EventLimits, Events};
use crate::core::event_id::Epoch;
use crate::core::fanout::log::{BlockLog, Gain, Place};
use crate::core::home::{HistoryLimits, HomeSettings, Homes, PAGE_FRAMES_MAX, TopicCount};
use crate::core::journal::MemoryJournal;
use crate::core::memory::Memory;
use crate::core::message::{Post, Publish, ReplyTo, Ticket, ToHome};
use crate::core::partition::{Partitioner, Placement};
use crate::http::{HttpLimits, RequestReader};
use crate::shard::mailbox::{ShardMailbox, mailboxes};
use crate::shard::message::{ShardControl, ShardMessage};

use crate::core::chunk::{Chunk, Framing};
use crate::core::selection::{Selection, StreamIds};
use crate::core::topic::{Topic, TopicHasher};

/// Opens, verifies and repairs the data directory that these bytes are, as `fuzz/fuzz_targets/journal.rs` asks.
#[cfg(fuzzing)]
pub fn open_journal(input: &[u8]) {
    crate::journal::disk::fuzz::open(input);
}

const EVENT_LIMITS: EventLimits =
    EventLimits { text_bytes_max: 1 << 20, id_bytes_max: 128, name_bytes_max: 128, events_max: 100 };

/// Parses requests out of a buffer.
pub struct Requests {
    reader: RequestReader,
    request: Vec<u8>,
    buffer: BytesMut,
}

impl Requests {
    /// Returns a parser for this request, head and body.
    pub fn new(request: impl Into<Vec<u8>>) -> Self {
        let limits = HttpLimits {
            head_bytes_max: 16 << 10,
            body_bytes_max: 1 << 20,
            headers_max: 100,
            target_bytes_max: 8 << 10,
        };
        Requests { reader: RequestReader::new(limits), request: request.into(), buffer: BytesMut::new() }
    }

    /// Parses the request `times` in a row, as a pipelining publisher sends it; returns the bytes of all bodies.
    pub fn parse(&mut self, times: usize) -> usize {
        (0..times).for_each(|_| self.buffer.extend_from_slice(&self.request));
        let mut bytes = 0;
        while let Ok(Some(_)) = self.reader.head(&mut self.buffer) {
            bytes += self.reader.body(&mut self.buffer).ok().flatten().map_or(0, |body| body.len());
        }
        bytes
    }
}

/// Parses event-stream text; returns how many events it holds.
pub fn parse_events(body: &Bytes) -> usize {
    Events::parse(body.clone(), &EVENT_LIMITS).map_or(0, |events| events.len())
}

/// A home shard with a topic that one shard subscribes to.
pub struct Ordering {
    homes: Homes,
    journal: MemoryJournal,
    topic: Topic,
    body: Bytes,
    budget: Arc<Budget>,
    key: Key,
    /// The events of `body`, parsed.
    events: Option<Events>,
    out: Vec<Post>,
}

impl Ordering {
    /// Returns a home for publishes of this body, of which `history_events_max` are kept.
    pub fn new(body: Bytes, history_events_max: usize) -> Option<Self> {
        let limits = HistoryLimits {
            events_max: history_events_max,
            bytes_max: 4 << 20,
            age_max_ms: 1 << 40,
            page_frames_max: PAGE_FRAMES_MAX,
        };
        let partitioner = Partitioner::random(1);
        let hasher = TopicHasher::new(partitioner);
        let topic = Topic::parse(b"abcdef123", &hasher).ok()?;
        let key = Arena::default().insert(());
        let settings = HomeSettings {
            placement: Placement::new(1, 1),
            partitioner,
            epochs: Arc::new(Epochs::new(Epoch::new(), Vec::new())),
            limits,
            memory: Memory::new(usize::MAX),
            topic_count: Arc::new(TopicCount::new(100)),
        };
        let mut homes = Homes::new(0, &settings);
        let mut journal = MemoryJournal::default();
        let mut out = Vec::new();
        let selection =
            Selection::of(std::slice::from_ref(&topic), StreamIds::Plain, settings.placement).pop()?;
        let join = ToHome::Join { selection, from: 0, key, last_event_id: None };
        homes.handle(0, join, 0, &mut journal, &mut out);
        out.clear();
        let events = Events::parse(body.clone(), &EVENT_LIMITS).ok();
        Some(Ordering {
            homes,
            journal,
            topic,
            body,
            budget: Budget::new(1 << 30, 1 << 20),
            key,
            events,
            out,
        })
    }

    /// Parses, orders, serialises, keeps and addresses one publish; returns how many messages it posts.
    pub fn publish(&mut self) -> usize {
        self.order(Events::parse(self.body.clone(), &EVENT_LIMITS).ok())
    }

    /// Does the same without parsing. Without history this is little more than serialising: the frame is allocated, and
    /// the event's lines, its `id:` line and the blank line are written into it.
    pub fn serialise(&mut self) -> usize {
        self.order(self.events.clone())
    }

    fn order(&mut self, events: Option<Events>) -> usize {
        self.out.clear();
        let (Some(events), Some(charge)) = (events, self.budget.take(self.body.len())) else { return 0 };
        let ticket = Ticket { shard: 0, connection: self.key, request: 0 };
        let reply = ReplyTo::Connection(ticket);
        let publish = Publish { topic: self.topic.clone(), events, reply, at_us: 0, charge, key: None };
        self.homes.handle(0, ToHome::Publish(publish), 0, &mut self.journal, &mut self.out);
        self.out.len()
    }
}

/// A topic's log with subscribers at its tail.
pub struct Blocks {
    log: BlockLog,
    frame: Chunk,
    subscribers: usize,
}

impl Blocks {
    /// Returns a log with this many subscribers, and the frame to add.
    pub fn new(frame: &Bytes, subscribers: usize) -> Self {
        let memory = Memory::new(usize::MAX);
        let frame = Chunk::of([&frame[..]], frame.len(), &memory);
        Blocks { log: BlockLog::new(memory), frame, subscribers }
    }

    /// Joins `frames` frames into a block, sends it to each subscriber, and forgets it; returns the bytes sent.
    pub fn turn(&mut self, frames: usize) -> usize {
        let places: Vec<_> = (0..self.subscribers).map(|_| self.log.attach()).collect();
        gain(&mut self.log, &self.frame, frames);
        let mut bytes = 0;
        for place in places {
            if let Some(span) = self.log.read(place, Framing::Chunked) {
                bytes += span.buffers.iter().map(Bytes::len).sum::<usize>();
                self.log.advance(place, span.to);
                self.log.detach(span.to);
            }
        }
        bytes
    }
}

/// A block, and the place of a subscriber that has not read it.
pub struct Reading {
    log: BlockLog,
    place: Place,
}

impl Reading {
    /// Returns a block of `frames` frames.
    pub fn new(frame: &Bytes, frames: usize) -> Self {
        let memory = Memory::new(usize::MAX);
        let frame = Chunk::of([&frame[..]], frame.len(), &memory);
        let mut log = BlockLog::new(memory);
        let place = log.attach();
        gain(&mut log, &frame, frames);
        Reading { log, place }
    }

    /// Reads the block, any number of times; returns its bytes.
    pub fn read(&self) -> usize {
        let span = self.log.read(self.place, Framing::Chunked);
        span.map_or(0, |span| span.buffers.iter().map(Bytes::len).sum())
    }
}

/// Adds one block with this many publishes of the frame.
fn gain(log: &mut BlockLog, frame: &Chunk, frames: usize) {
    let gain = Gain { chunk: frame, events: 1, last: 1, at_us: 0, marks: &[] };
    (0..frames).for_each(|_| log.gain(&gain));
    log.seal();
}

/// Verifies tokens of one kind.
pub struct Tokens(Keys);

impl Tokens {
    /// Returns a verifier of these signers' tokens; `None` when there are none.
    pub fn new(signers: &Signers) -> Option<Self> {
        Keys::new(signers, 0).map(Tokens)
    }

    /// Returns whether the token is valid at `now_s`, in Unix seconds.
    pub fn verify(&self, token: &str, now_s: u64) -> bool {
        self.0.verify(token, now_s).is_ok()
    }
}

/// A message that takes no memory.
const BALL: ShardMessage = ShardMessage::Control(ShardControl::StopAccepting);

/// A shard's mailbox, for messages to itself.
pub struct OwnMailbox(ShardMailbox);

impl Default for OwnMailbox {
    fn default() -> Self {
        let (mailboxes, mut receivers) = mailboxes(1);
        OwnMailbox(ShardMailbox::new(0, receivers.remove(0), mailboxes))
    }
}

impl OwnMailbox {
    /// Posts a message and takes it out.
    pub fn hop(&self) -> bool {
        self.0.send(0, BALL);
        self.0.take().is_some()
    }
}

/// The mailboxes of two shards, each on a thread of its own that sleeps until there is a message.
pub struct PingPong {
    here: ShardMailbox,
    runtime: Runtime,
    over: Arc<AtomicBool>,
    there: Option<JoinHandle<()>>,
}

impl PingPong {
    /// Starts the second thread; the calling one is the first.
    ///
    /// # Errors
    /// The runtime cannot be built.
    pub fn new() -> std::io::Result<Self> {
        let (mailboxes, mut receivers) = mailboxes(2);
        let there = receivers.remove(1);
        let here = ShardMailbox::new(0, receivers.remove(0), mailboxes.clone());
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let runtime = || Builder::new_current_thread().build();
        let its_runtime = runtime()?;
        let there = std::thread::spawn(move || {
            let there = ShardMailbox::new(1, there, mailboxes);
            while !ends.load(Atomic::Relaxed) {
                its_runtime.block_on(there.wait());
                while there.take().is_some() {
                    there.send(0, BALL);
                }
            }
        });
        Ok(PingPong { here, runtime: runtime()?, over, there: Some(there) })
    }

    /// Sends a message to the other thread and waits for its answer: two hops, each of which wakes a thread.
    pub fn round(&self) {
        self.here.send(1, BALL);
        while self.here.take().is_none() {
            self.runtime.block_on(self.here.wait());
        }
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        self.over.store(true, Atomic::Relaxed);
        self.here.send(1, BALL);
        let _ = self.there.take().map(JoinHandle::join);
    }
}
