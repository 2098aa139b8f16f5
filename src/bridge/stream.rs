//! One client's stream: from the queue to the shard, and back to the broker what was sent.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use tokio::sync::mpsc;

use super::consuming::Consuming;
use super::desk::Claim;
use super::ledger::Ledger;
use super::message::{Id, Name, write_event};
use super::ticker::Watched;
use super::{Outlet, StreamId, link};

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
pub(super) enum Order {
    /// Deliver.
    Ready,
    /// The client is gone.
    Close,
    /// The client is here again on another connection.
    TakeOver,
}

/// See the module's page.
pub(super) struct Stream<T, O> {
    pub(super) id: StreamId,
    consuming: Consuming,
    ledger: Rc<RefCell<Ledger>>,
    watched: Rc<Watched>,
    orders: mpsc::UnboundedReceiver<Order>,
    is_ready: bool,
    /// Received and not handed over.
    waiting: VecDeque<(Id, Bytes)>,
    /// Handed over and not sent: the number of the last message of each text, and the text's bytes.
    unsent: VecDeque<(u64, usize)>,
    unsent_bytes: usize,
    // Last, so that the queue is free when the channel no longer holds it.
    claim: Claim<T, O>,
}

/// Why a stream ended.
enum Ended {
    /// By the shard, which knows.
    Closed,
    TakenOver,
    /// By the broker, and why.
    Broken(String),
}

impl<T: Send + 'static, O: Outlet<T>> Stream<T, O> {
    pub(super) fn new(
        id: StreamId,
        claim: Claim<T, O>,
        mut consuming: Consuming,
        ledger: Rc<RefCell<Ledger>>,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Self {
        claim.desk.stats.consumers.add(1);
        let held = std::mem::take(&mut consuming.held);
        let mut stream = Self {
            id,
            consuming,
            ledger,
            watched: Watched::new(),
            orders,
            is_ready: false,
            waiting: VecDeque::new(),
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            claim,
        };
        held.into_iter().for_each(|delivery| stream.receive(delivery));
        let had = stream.ledger.borrow_mut().resume(stream.claim.desk.ticker.now_ms());
        stream.waiting.drain(..had);
        stream
    }

    /// Where the shard writes how many messages were sent.
    pub(super) fn sent(&self) -> Arc<AtomicU64> {
        self.watched.counter()
    }

    /// Runs the stream to its end, and the queue is free again.
    pub(super) async fn run(mut self) {
        let desk = Rc::clone(&self.claim.desk);
        let ended = self.flow().await;
        self.claim.closing();
        desk.stats.consumers.subtract(1);
        desk.ticker.watch(&self.watched, None);
        if let Ended::Broken(reason) = &ended {
            tracing::debug!(stream = self.id.0, "a stream ended: {}", link::without_queue(reason));
        }
        if !matches!(ended, Ended::Closed) {
            desk.outlet.end(self.id);
        }
        link::close(&self.consuming.channel).await;
        self.claim.carry(self.ledger.borrow().carry());
    }

    async fn flow(&mut self) -> Ended {
        loop {
            self.step();
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    Some(Order::Ready) => self.is_ready = true,
                    Some(Order::TakeOver) => return Ended::TakenOver,
                    Some(Order::Close) | None => return Ended::Closed,
                },
                received = self.consuming.consumer.next() => {
                    if let Err(reason) = self.receive_ready(received) {
                        return Ended::Broken(reason);
                    }
                    tokio::task::yield_now().await;
                }
                () = self.watched.woken() => {}
            }
        }
    }

    /// Takes in what has arrived.
    ///
    /// # Errors
    /// Why no more will arrive.
    fn receive_ready(&mut self, first: Option<lapin::Result<Delivery>>) -> Result<(), String> {
        let (mut next, mut room) = (Some(first), RECEIVED_MAX);
        while let Some(received) = next {
            match received {
                Some(Ok(delivery)) => self.receive(delivery),
                Some(Err(error)) => return Err(self.consuming.lease.reason(&error)),
                None => return Err("the queue was deleted".to_owned()),
            }
            room -= 1;
            next = (room > 0).then(|| self.consuming.consumer.next().now_or_never()).flatten();
        }
        Ok(())
    }

    fn receive(&mut self, delivery: Delivery) {
        let (properties, body) = (&delivery.properties, delivery.data);
        let message_id = properties.message_id().as_ref().map(|id| id.as_str());
        // It tells a message from another of the same words.
        let timestamp = properties.timestamp().unwrap_or_default().to_be_bytes();
        let name = Name::new(message_id, &[&body, &timestamp]);
        if delivery.redelivered {
            self.claim.desk.stats.redelivered.add(1);
        }
        let id = self.ledger.borrow_mut().receive(delivery.delivery_tag, name, delivery.redelivered);
        self.waiting.push_back((id, self.claim.desk.outlet.share(body)));
    }

    /// Acknowledges what is due, hands over what there is room for, and says when to look again.
    fn step(&mut self) {
        let desk = Rc::clone(&self.claim.desk);
        let (now_ms, sent) = (desk.ticker.now_ms(), self.watched.sent());
        let mut ledger = self.ledger.borrow_mut();
        ledger.sent(sent, now_ms);
        if let Some(acknowledged) = ledger.acknowledge(now_ms) {
            let all = BasicAckOptions { multiple: true };
            // One poll puts it in the connection's queue. What becomes of it there is the channel's end or nothing.
            let _ = self.consuming.channel.basic_ack(acknowledged.tag, all).now_or_never();
            desk.stats.acknowledged.add(acknowledged.count);
            desk.stats.acknowledged_unsent.add(acknowledged.unsent);
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
            desk.stats.delivered.add(events.into());
            desk.outlet.deliver(self.id, text, events, last);
        }
        let due_ms = ledger.due_at_ms().map_or(u64::MAX, |due_ms| due_ms.max(now_ms + AGAIN_MS));
        self.watched.full(ledger.is_full());
        desk.ticker.watch(&self.watched, Some(due_ms).filter(|_| !ledger.is_empty()));
    }
}
