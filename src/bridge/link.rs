//! One connection to a broker, and what a broker's refusal says.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::protocol::AMQPErrorKind;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ErrorKind, Event};
use tokio::time::{Instant, timeout};

use super::transport::{Cut, connect};
use crate::config::BrokerUrl;

/// For the name, TCP, TLS and AMQP's greetings together.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// For a closing handshake: of one channel, or of a connection.
pub(super) const CLOSE_TIME: Duration = Duration::from_secs(2);
/// How often a connection is looked at, beside what it says itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a broker that did not answer is asked after all others: until its heartbeats tell what is the matter.
const SILENT_TIME: Duration = Duration::from_secs(2 * HEARTBEAT_S as u64);
/// Seconds after which either side ends a connection on which it hears nothing, unless the URL says.
const HEARTBEAT_S: u16 = 10;

/// A connection to a broker.
pub(super) struct Link {
    connection: Connection,
    cut: Cut,
    masks: Masks,
    /// Places that are held, and how many of them may be.
    leases: Cell<u16>,
    leases_max: u16,
    /// Channels that the broker has opened; after the connection's end as many as there were at it.
    channels: Cell<u16>,
    /// When it last left a question unanswered.
    silent_since: Cell<Option<Instant>>,
}

/// A channel's place on a connection, for as long as it is held.
pub(super) struct Lease {
    link: Rc<Link>,
    /// The broker has opened the channel.
    is_open: Cell<bool>,
}

impl Link {
    /// Connects. At most `channels_max` channels are opened, or as many as the broker says.
    ///
    /// # Errors
    /// One line why not, without credentials.
    pub(super) async fn connect(url: &BrokerUrl, channels_max: Option<u16>) -> Result<Self, String> {
        let Some(mut uri) = url.uri() else { return Err("its URL cannot be read".to_owned()) };
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let (masks, cut) = (Masks::of(&uri), Cut::default());
        let connection = match timeout(CONNECT_TIME, connect(uri, &cut)).await {
            Ok(connected) => connected.map_err(|error| with_mend(masks.reason(&error)))?,
            Err(_) => return Err("it does not answer in 10 s".to_owned()),
        };
        let leases_max = connection.configuration().channel_max().min(channels_max.unwrap_or(u16::MAX));
        Ok(Self {
            connection,
            cut,
            masks,
            leases: Cell::new(0),
            leases_max,
            channels: Cell::new(0),
            silent_since: Cell::new(None),
        })
    }

    /// Returns when the connection is no longer there, and says why.
    pub(super) async fn lost(&self) -> String {
        let mut events = std::pin::pin!(self.connection.events_listener());
        let mut event = Ok(None);
        while self.is_connected() {
            // It tells of channels that fail as well; and of a broker that closes the connection in order it
            // does not tell.
            event = timeout(LOOK_EVERY, events.next()).await;
        }
        match event {
            // What is said of a channel names its queue, which may be a session's.
            Ok(Some(Event::Error(error))) if !is_of_channel(&error) => self.masks.reason(&error),
            _ => "the connection was closed".to_owned(),
        }
    }

    /// Returns how many channels the broker's user may open, if it ended the connection because of one more; none if
    /// it ended for another reason. A further channel beyond that would end all streams of the connection again.
    pub(super) fn channels_allowed(&self, why_lost: &str) -> Option<u16> {
        why_lost.contains("number of channels opened").then(|| self.channels.get().max(1))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Closes the connection, and with it all its channels; whether the broker answers or not.
    pub(super) async fn close(&self) {
        let _ = timeout(CLOSE_TIME, self.connection.close(200, "esper is stopping".into())).await;
        self.cut.now();
    }

    /// Returns the number of leases of this connection; none when it has room for no other, or is lost.
    pub(super) fn load(&self) -> Option<u16> {
        Some(self.leases.get()).filter(|&leases| self.is_connected() && leases < self.leases_max)
    }

    /// Whether it left a question unanswered not long ago: others are asked first.
    pub(super) fn is_silent(&self) -> bool {
        self.silent_since.get().is_some_and(|since| since.elapsed() < SILENT_TIME)
    }

    pub(super) fn lease(self: Rc<Self>) -> Lease {
        self.leases.set(self.leases.get().saturating_add(1));
        Lease { link: self, is_open: Cell::new(false) }
    }
}

impl Lease {
    /// # Errors
    /// One line why not, without credentials.
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

    /// What a broker's or lapin's error says: one line of visible ASCII, without credentials.
    pub(super) fn reason(&self, error: &lapin::Error) -> String {
        self.link.masks.reason(error)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let link = &self.link;
        link.leases.set(link.leases.get().saturating_sub(1));
        if self.is_open.get() && link.is_connected() {
            link.channels.set(link.channels.get().saturating_sub(1));
        }
    }
}

/// Puts back what the channel has not acknowledged, in order.
///
/// Always by this: a channel that is only dropped is closed by lapin in the background, and when the broker has
/// closed it by then, lapin takes that for an error of the whole connection.
pub(super) async fn close(channel: &Channel) {
    if channel.status().connected() {
        let _ = timeout(CLOSE_TIME, channel.close(200, "done".into())).await;
    }
}

fn is_of_channel(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(said) if matches!(said.kind(), AMQPErrorKind::Soft(_)))
}

/// What ends an attempt to connect, and the mend where it is the URL's.
fn with_mend(said: String) -> String {
    let mends = [
        ("ACCESS_REFUSED", "the user or the password in its URL is wrong"),
        ("failed to parse", "this is not AMQP; write amqps:// if it speaks TLS"),
        ("InvalidContentType", "this is not TLS; write amqp:// if it speaks none"),
        ("invalid peer certificate", "name the file of who signs it in SSL_CERT_FILE"),
    ];
    match mends.iter().find(|(part, _)| said.contains(part)) {
        Some((_, mend)) => format!("{mend} ({said})"),
        None => said,
    }
}

/// What a broker said of a queue, for the log: a queue's name may be a session's. As RabbitMQ quotes it, and
/// without its end where the text was too long.
pub(crate) fn without_queue(said: &str) -> String {
    let Some((before, name)) = said.split_once("queue '") else { return said.to_owned() };
    let end = ["' in vhost", "': "].into_iter().find_map(|end| name.rfind(end));
    format!("{before}queue '***{}", end.map_or("", |end| &name[end..]))
}

/// What must not be shown of a broker's answers.
struct Masks {
    user: String,
    password: String,
}

impl Masks {
    fn of(uri: &AMQPUri) -> Self {
        let user = &uri.authority.userinfo;
        Self { user: format!("'{}'", user.username), password: user.password.clone() }
    }

    fn reason(&self, error: &lapin::Error) -> String {
        let said = match error.kind() {
            ErrorKind::ProtocolError(error) => error.get_message().to_string(),
            ErrorKind::IOError(error) => error.to_string(),
            _ => error.to_string(),
        };
        self.masked(&said)
    }

    fn masked(&self, said: &str) -> String {
        const CHARACTERS_MAX: usize = 200;
        let mut said = said.replace(&self.user, "'***'");
        // A shorter one would be found in words as well, and tell more than it hides.
        if self.password.len() >= 4 {
            said = said.replace(&self.password, "***");
        }
        said.chars()
            .take(CHARACTERS_MAX)
            .map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brokers_words_are_one_line_without_credentials() {
        let url: BrokerUrl = "amqp://rabbit:hunter2@localhost/".parse().unwrap();
        let masks = Masks::of(&url.uri().unwrap());
        assert_eq!(
            masks.masked(
                "ACCESS_REFUSED - access to queue 'rabbit ears' refused for user 'rabbit'\r\nhunter2 \u{e9}"
            ),
            "ACCESS_REFUSED - access to queue 'rabbit ears' refused for user '***'??*** ?"
        );
        assert_eq!(masks.masked(&"x".repeat(5000)).len(), 200);
    }

    #[test]
    fn a_queue_is_told_of_without_its_name() {
        for (said, told) in [
            ("no broker is reachable", "no broker is reachable"),
            (
                "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'secret' in vhost '/': received 1",
                "PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue '***' in vhost '/': received 1",
            ),
            (
                "access to queue 'it's' in vhost 'mine' in vhost '/' refused",
                "access to queue '***' in vhost '/' refused",
            ),
            ("access to queue 'secret that was cut o", "access to queue '***"),
            (
                "cannot declare queue 'secret': queue limit in vhost '/' (1) is reached",
                "cannot declare queue '***': queue limit in vhost '/' (1) is reached",
            ),
        ] {
            assert_eq!(without_queue(said), told);
        }
    }

    #[test]
    fn an_attempt_that_cannot_succeed_says_what_of_the_url_to_mend() {
        for (said, part) in [
            (
                "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN",
                "user or the password",
            ),
            ("failed to parse: Parsing Error", "write amqps://"),
            ("received corrupt message of type InvalidContentType", "write amqp://"),
            ("invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
        ] {
            let told = with_mend(said.to_owned());
            assert!(told.contains(part) && told.contains(said), "{told}");
        }
        assert_eq!(with_mend("Connection refused".to_owned()), "Connection refused");
    }
}
