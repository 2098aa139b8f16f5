//! One connection to a broker, and its limit of channels.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::protocol::AMQPErrorKind;
use lapin::{Channel, Connection, ErrorKind, Event};
use tokio::time::{Instant, timeout};

use super::reason::{CredentialMask, with_hint};
use super::transport::{CutSwitch, connect};
use crate::backend::BrokerUrl;

/// The longest that name lookup, TCP, TLS and AMQP's handshake may take together.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// The longest that closing a channel or a connection may take.
pub(super) const CLOSE_TIME: Duration = Duration::from_secs(2);
/// How often a connection's state is checked beside its own events.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a broker that did not answer is used only when no other can be: by then its heartbeats have failed or not.
const SILENT_TIME: Duration = Duration::from_secs(2 * HEARTBEAT_S as u64);
/// Seconds after which either side ends a connection on which it hears nothing, unless the URL says.
const HEARTBEAT_S: u16 = 10;

/// A connection to a broker; its [`AmqpNode`](super::pool) and the leases of its channels share it.
pub(super) struct AmqpLink {
    connection: Connection,
    cut: CutSwitch,
    mask: CredentialMask,
    /// How many leases are held, and how many may be.
    leases: Cell<u16>,
    leases_max: u16,
    /// Channels that the broker has opened; after the connection's end, the number at that moment.
    channels: Cell<u16>,
    /// When the broker last left a request unanswered.
    silent_since: Cell<Option<Instant>>,
}

/// The right to one channel on a connection, given back when this is dropped.
pub(in crate::backend) struct ChannelLease {
    link: Rc<AmqpLink>,
    /// Whether the broker has opened the channel.
    is_open: Cell<bool>,
}

impl AmqpLink {
    /// Connects. At most `channels_max` channels are opened, and no more than the broker allows.
    ///
    /// # Errors
    /// One line with the reason, without credentials.
    pub(super) async fn connect(url: &BrokerUrl, channels_max: Option<u16>) -> Result<Self, String> {
        let mut uri = url.uri().clone();
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let (mask, cut) = (CredentialMask::of(url), CutSwitch::default());
        let connection = match timeout(CONNECT_TIME, connect(uri, &cut)).await {
            Ok(connected) => connected.map_err(|error| with_hint(mask.reason(&error)))?,
            Err(_) => return Err("it does not answer in 10 s".to_owned()),
        };
        let leases_max = connection.configuration().channel_max().min(channels_max.unwrap_or(u16::MAX));
        Ok(Self {
            connection,
            cut,
            mask,
            leases: Cell::new(0),
            leases_max,
            channels: Cell::new(0),
            silent_since: Cell::new(None),
        })
    }

    /// Returns, once the connection is lost, the reason.
    pub(super) async fn lost(&self) -> String {
        let mut events = std::pin::pin!(self.connection.events_listener());
        let mut event = Ok(None);
        while self.is_connected() {
            // Events also report channels that fail, and do not report a broker that closes the connection in order.
            event = timeout(LOOK_EVERY, events.next()).await;
        }
        match event {
            // An error of a channel names its queue, whose name may be a session's.
            Ok(Some(Event::Error(error))) if !is_of_channel(&error) => self.mask.reason(&error),
            _ => "the connection was closed".to_owned(),
        }
    }

    /// Returns how many channels the broker's user may open, if one more made the broker end the connection; else
    /// `None`. One beyond that on the next connection would end all of its streams again.
    pub(super) fn channels_allowed(&self, why_lost: &str) -> Option<u16> {
        why_lost.contains("number of channels opened").then(|| self.channels.get().max(1))
    }

    /// Returns whether the connection is open.
    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Closes the connection with all its channels, whether the broker answers or not.
    pub(super) async fn close(&self) {
        let _ = timeout(CLOSE_TIME, self.connection.close(200, "esper is stopping".into())).await;
        self.cut.now();
    }

    /// Returns the number of leases; `None` when no more are allowed or the connection is lost.
    pub(super) fn load(&self) -> Option<u16> {
        Some(self.leases.get()).filter(|&leases| self.is_connected() && leases < self.leases_max)
    }

    /// Returns whether it left a request unanswered within [`SILENT_TIME`]; others are used first.
    pub(super) fn is_silent(&self) -> bool {
        self.silent_since.get().is_some_and(|since| since.elapsed() < SILENT_TIME)
    }

    /// Takes the right to one channel; [`AmqpLink::load`] must have returned `Some`.
    pub(super) fn lease(self: Rc<Self>) -> ChannelLease {
        self.leases.set(self.leases.get().saturating_add(1));
        ChannelLease { link: self, is_open: Cell::new(false) }
    }
}

impl ChannelLease {
    /// Opens the channel.
    ///
    /// # Errors
    /// One line with the reason, without credentials.
    pub(super) async fn channel(&self) -> Result<Channel, String> {
        let channel = self.link.connection.create_channel().await.map_err(|error| self.reason(&error))?;
        self.is_open.set(true);
        self.link.channels.set(self.link.channels.get().saturating_add(1));
        Ok(channel)
    }

    /// Notes that the broker did not answer in time.
    pub(super) fn note_silence(&self) {
        self.link.silent_since.set(Some(Instant::now()));
    }

    /// Returns the text of a broker's or lapin's error: one line of visible ASCII, without credentials.
    pub(super) fn reason(&self, error: &lapin::Error) -> String {
        self.link.mask.reason(error)
    }
}

impl Drop for ChannelLease {
    fn drop(&mut self) {
        let link = &self.link;
        link.leases.set(link.leases.get().saturating_sub(1));
        if self.is_open.get() && link.is_connected() {
            link.channels.set(link.channels.get().saturating_sub(1));
        }
    }
}

/// Closes a channel. Its unacknowledged messages are then back in their queue, in order.
///
/// Channels are always closed by this: lapin closes one that is only dropped in the background, and when the broker has
/// closed it by then, lapin takes that for an error of the whole connection.
pub(super) async fn close(channel: &Channel) {
    if channel.status().connected() {
        let _ = timeout(CLOSE_TIME, channel.close(200, "done".into())).await;
    }
}

fn is_of_channel(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(said) if matches!(said.kind(), AMQPErrorKind::Soft(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every other client of lapin uses its parser, of which our checks change nothing.
    #[test]
    fn a_url_means_to_lapin_what_its_own_parser_reads() {
        for text in [
            "amqp://localhost/%2f",
            "amqp://a%40b:p%2F%3F@h:1/v%2Fw",
            "amqps://user@10.0.0.11/shop?heartbeat=5&channel_max=7&frame_max=131072",
            "amqp://h/x?connection_timeout=9&auth_mechanism=EXTERNAL&heartbeat=",
            "amqp://H.example/x?auth_mechanism=Rabbit-CR-Demo",
            "amqp://h/x?auth_mechanism=none",
            "amqp://h/%ff",
            "amqp://%ff@h/x",
            "amqp://h%20h/x",
        ] {
            let own = text.parse::<BrokerUrl>().ok();
            assert_eq!(own.map(|url| url.uri().clone()), text.parse().ok(), "{text}");
        }
    }
}
