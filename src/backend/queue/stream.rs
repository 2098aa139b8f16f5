//! One client's stream: from its queue to the shard, and acknowledgements back to the broker.

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
use crate::backend::interface::{BrokerMessage, ConsumerEnd, MessageBroker, QueueConsumer};
use crate::backend::{StreamId, without_queue};
use crate::core::sent_count::SentCount;

/// The most text of one stream that is handed over and not sent; more waits here, so that a client that does not read
/// costs its shard no more than that.
const UNSENT_BYTES_MAX: usize = 1024 * 1024;
/// The size of text handed over at once: more than a socket takes in one send.
const TEXT_BYTES: usize = 64 * 1024;
/// Messages received before they are handed over and other streams have a turn.
const RECEIVED_MAX: usize = 256;
/// How long after a message was sent it counts for the window of those before it, in milliseconds: of a connection that
/// breaks while much is sent, the end is seen first in nearly all cases.
const SETTLE_MS: u64 = 4;
/// How soon to look again at a message that is due and cannot be acknowledged without others.
const AGAIN_MS: u64 = 200;

/// A command of the shard, or of a returning client, to a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::backend) enum StreamCommand {
    /// The client's stream is set up: deliver.
    Ready,
    /// The client is gone.
    Close,
    /// The client is back on another connection.
    TakeOver,
}

/// A client's stream of one queue, from the queue's opening to its closing; its task owns it.
pub(super) struct StreamTask<B: MessageBroker> {
    pub(super) id: StreamId,
    consumer: B::Consumer,
    ledger: Rc<RefCell<Ledger>>,
    sent: Arc<SentCount>,
    /// How many were sent at `looked_at_ms`, in milliseconds of the registry; the ledger hears of it [`SETTLE_MS`] later.
    looked_sent: u64,
    looked_at_ms: u64,
    commands: mpsc::UnboundedReceiver<StreamCommand>,
    is_ready: bool,
    /// Messages received and not handed over.
    waiting: VecDeque<(MessageId, Bytes)>,
    /// Texts handed over and not sent: the number of the last message, and the bytes of each.
    unsent: VecDeque<(u64, usize)>,
    unsent_bytes: usize,
    // The last field, so that the queue is free only when its consumer is gone.
    claim: QueueClaim<B>,
}

/// The events that a stream waits for, beside commands and messages.
struct NextLook {
    /// This many of its messages sent.
    sent: u64,
    /// This time, in milliseconds of the registry.
    at_ms: Option<u64>,
}

/// The reason why a stream ended.
enum StreamEnding {
    /// Its shard closed it, and needs no notice.
    Closed,
    TakenOver,
    /// The broker ended it, with the reason.
    Broken(String),
}

impl<B: MessageBroker> StreamTask<B> {
    /// Begins a stream with the messages that its queue had ready.
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
            looked_sent: 0,
            looked_at_ms: 0,
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

    /// Returns the counter in which the shard writes how many messages were sent.
    pub(super) fn sent(&self) -> Arc<SentCount> {
        Arc::clone(&self.sent)
    }

    /// Runs the stream to its end, and frees the queue.
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

    /// Receives messages that have arrived, beginning with `first`, up to [`RECEIVED_MAX`].
    ///
    /// # Errors
    /// The reason why no more will arrive.
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
        // The timestamp distinguishes messages of the same text.
        let name = MessageName::new(message_id.as_deref(), &[&body, &timestamp.to_be_bytes()]);
        if is_redelivered {
            self.claim.registry.stats.redelivered.add(1);
        }
        let id = self.ledger.borrow_mut().receive(tag, name, is_redelivered);
        self.waiting.push_back((id, self.claim.registry.outlet.share(body)));
    }

    /// Acknowledges messages that are due and hands over those there is room for. Returns what to wait for next.
    fn step(&mut self) -> NextLook {
        let registry = Rc::clone(&self.claim.registry);
        let (now_ms, sent) = (registry.now_ms(), self.sent.value());
        let mut ledger = self.ledger.borrow_mut();
        if now_ms >= self.looked_at_ms + SETTLE_MS {
            ledger.sent(self.looked_sent, now_ms);
            (self.looked_sent, self.looked_at_ms) = (sent, now_ms);
        }
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
        // Messages that are sent and have not settled are looked at again by time, the others once they are sent.
        let (due_at, settled_ms) = match ledger.due_at_sent() {
            due_at if due_at > sent => (due_at, None),
            _ => (u64::MAX, Some((self.looked_at_ms + SETTLE_MS).max(now_ms + 1))),
        };
        let at_ms = due_ms.into_iter().chain(note_ms).chain(settled_ms).min();
        NextLook { sent: due_at.min(room_at), at_ms }
    }
}
