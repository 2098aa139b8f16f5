//! One client's stream: from the queue to the shard, and back to the broker what was sent.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::ledger::Ledger;
use super::message::{MessageId, MessageName, write_event};
use super::registry::QueueClaim;
use crate::backend::broker::{BrokerMessage, ConsumerEnd, MessageBroker, QueueConsumer};
use crate::backend::{StreamId, without_queue};
use crate::core::sent_count::SentCount;

/// Text of one stream that is with the shard and not sent: what is beyond waits here, so that a client that does
/// not read costs its shard no more than that.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;
/// Text that is handed over at once. What a socket takes in one go is less.
const TEXT_BYTES: usize = 64 * 1024;
/// Messages that are taken in before what they became is handed over, and before other streams have their turn.
const RECEIVED_MAX: usize = 256;
/// How soon a message is looked at again that is due, but cannot be acknowledged without others.
const AGAIN_MS: u64 = 200;

/// What the shard, or a client that comes back, wants of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::backend) enum StreamCommand {
    /// Deliver.
    Ready,
    /// The client is gone.
    Close,
    /// The client is here again on another connection.
    TakeOver,
}

/// A client's stream of one queue, from the queue's opening to its closing.
pub(super) struct StreamTask<B: MessageBroker> {
    pub(super) id: StreamId,
    consumer: B::Consumer,
    ledger: Rc<RefCell<Ledger>>,
    sent: Arc<SentCount>,
    commands: mpsc::UnboundedReceiver<StreamCommand>,
    is_ready: bool,
    /// Received and not handed over.
    waiting: VecDeque<(MessageId, Bytes)>,
    /// Handed over and not sent: the number of the last message of each text, and the text's bytes.
    unsent: VecDeque<(u64, usize)>,
    unsent_bytes: usize,
    // Last, so that the queue is free when its consumer is gone.
    claim: QueueClaim<B>,
}

/// When a stream is to be looked at again, unless something comes before.
struct NextLook {
    /// When so many of its messages were sent.
    sent: u64,
    /// Or at this time, in milliseconds of the registry.
    at_ms: Option<u64>,
}

/// Why a stream ended.
enum StreamEnding {
    /// By the shard, which knows.
    Closed,
    TakenOver,
    /// By the broker, and why.
    Broken(String),
}

impl<B: MessageBroker> StreamTask<B> {
    /// Begins a stream with what its queue had ready.
    pub(super) fn new(
        id: StreamId,
        claim: QueueClaim<B>,
        (consumer, held): (B::Consumer, Vec<BrokerMessage>),
        ledger: Rc<RefCell<Ledger>>,
        commands: mpsc::UnboundedReceiver<StreamCommand>,
    ) -> Self {
        claim.registry.stats.consumers.add(1);
        let mut stream = Self {
            id,
            consumer,
            ledger,
            sent: Arc::default(),
            commands,
            is_ready: false,
            waiting: VecDeque::new(),
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            claim,
        };
        held.into_iter().for_each(|message| stream.receive(message));
        let had = stream.ledger.borrow_mut().resume(stream.claim.registry.now_ms());
        stream.waiting.drain(..had);
        stream
    }

    /// Returns where the shard writes how many messages were sent.
    pub(super) fn sent(&self) -> Arc<SentCount> {
        Arc::clone(&self.sent)
    }

    /// Runs the stream to its end, and the queue is free again.
    pub(super) async fn run(mut self) {
        let registry = Rc::clone(&self.claim.registry);
        let ended = self.flow().await;
        self.claim.closing();
        registry.stats.consumers.subtract(1);
        if let StreamEnding::Broken(reason) = &ended {
            tracing::debug!(stream = self.id.0, "a stream ended: {}", without_queue(reason));
        }
        if !matches!(ended, StreamEnding::Closed) {
            registry.outlet.end(self.id);
        }
        self.consumer.close().await;
        self.claim.leave(self.ledger.borrow().occurrences());
    }

    async fn flow(&mut self) -> StreamEnding {
        let registry = Rc::clone(&self.claim.registry);
        loop {
            let next = self.step();
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(StreamCommand::Ready) => self.is_ready = true,
                    Some(StreamCommand::TakeOver) => return StreamEnding::TakenOver,
                    Some(StreamCommand::Close) | None => return StreamEnding::Closed,
                },
                received = self.consumer.next() => {
                    if let Err(end) = self.receive_arrived(received) {
                        return StreamEnding::Broken(match end {
                            ConsumerEnd::Deleted => "the queue was deleted".to_owned(),
                            ConsumerEnd::Lost(reason) => reason,
                        });
                    }
                    tokio::task::yield_now().await;
                }
                () = poll_fn(|cx| self.sent.poll_reached(next.sent, cx)) => {}
                () = registry.wait_until(next.at_ms) => {}
            }
        }
    }

    /// Takes in what has arrived.
    ///
    /// # Errors
    /// Why no more will arrive.
    fn receive_arrived(&mut self, first: Result<BrokerMessage, ConsumerEnd>) -> Result<(), ConsumerEnd> {
        let (mut next, mut room) = (Some(first), RECEIVED_MAX);
        while let Some(received) = next {
            self.receive(received?);
            room -= 1;
            next = (room > 0).then(|| self.consumer.next_arrived()).flatten();
        }
        Ok(())
    }

    fn receive(&mut self, message: BrokerMessage) {
        let BrokerMessage { tag, is_redelivered, message_id, timestamp, body, .. } = message;
        // The timestamp tells a message from another of the same words.
        let name = MessageName::new(message_id.as_deref(), &[&body, &timestamp.to_be_bytes()]);
        if is_redelivered {
            self.claim.registry.stats.redelivered.add(1);
        }
        let id = self.ledger.borrow_mut().receive(tag, name, is_redelivered);
        self.waiting.push_back((id, self.claim.registry.outlet.share(body)));
    }

    /// Acknowledges what is due and hands over what there is room for. Returns when to look again.
    fn step(&mut self) -> NextLook {
        let registry = Rc::clone(&self.claim.registry);
        let (now_ms, sent) = (registry.now_ms(), self.sent.value());
        let mut ledger = self.ledger.borrow_mut();
        ledger.sent(sent, now_ms);
        if let Some(acknowledged) = ledger.acknowledge(now_ms) {
            self.consumer.acknowledge(acknowledged.tag);
            registry.stats.acknowledged.add(acknowledged.count);
            registry.stats.acknowledged_unsent.add(acknowledged.unsent);
        }
        while let Some(&(last, bytes)) = self.unsent.front()
            && last <= sent
        {
            self.unsent.pop_front();
            self.unsent_bytes -= bytes;
        }
        while self.is_ready && !self.waiting.is_empty() && self.unsent_bytes < UNSENT_BYTES_MAX {
            let (mut text, mut events, mut last) = (Vec::new(), 0, 0);
            while text.len() < TEXT_BYTES
                && let Some((id, body)) = self.waiting.pop_front()
            {
                write_event(&id, &body, &mut text);
                (events, last) = (events + 1, ledger.hand_over());
            }
            self.unsent.push_back((last, text.len()));
            self.unsent_bytes += text.len();
            registry.stats.delivered.add(events.into());
            registry.outlet.deliver(self.id, text, events, last);
        }
        // The first text that is sent makes room for another.
        let room_at =
            self.unsent.front().filter(|_| !self.waiting.is_empty()).map_or(u64::MAX, |(last, _)| *last);
        let due_ms = ledger.due_at_ms().map(|due_ms| due_ms.max(now_ms + AGAIN_MS));
        let note_ms = ledger.has_unsent().then(|| now_ms + ledger.note_every_ms());
        NextLook { sent: ledger.due_at_sent().min(room_at), at_ms: due_ms.into_iter().chain(note_ms).min() }
    }
}
