//! One connection to a broker, and what a broker's refusal says.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use socket2::{SockRef, Socket};
use tokio::time::timeout;

use crate::config::BrokerUrl;

/// For the address, TCP and TLS; and then for AMQP's greetings.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// For a closing handshake: of one channel, or of a connection.
pub(super) const CLOSE_TIME: Duration = Duration::from_secs(2);
/// How often a connection is looked at, beside what it says itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Seconds after which either side ends a connection on which it hears nothing, unless the URL says.
const HEARTBEAT_S: u16 = 10;

/// A connection to a broker.
pub(super) struct Link {
    connection: Connection,
    /// The same socket, to end it when the broker no longer answers.
    socket: Option<Socket>,
    masks: Masks,
    channels: Cell<u16>,
    channels_max: u16,
}

/// A channel's place on a connection, for as long as it is held.
pub(super) struct Lease(Rc<Link>);

impl Link {
    /// # Errors
    /// One line why not, without credentials.
    pub(super) async fn connect(url: &BrokerUrl) -> Result<Self, String> {
        let Some(mut uri) = url.uri() else { return Err("its URL cannot be read".to_owned()) };
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let masks = Masks::of(&uri);
        let socket = Arc::new(Mutex::new(None));
        let connected = timeout(2 * CONNECT_TIME, open(uri, Arc::clone(&socket))).await;
        let socket = socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        let connection = match connected {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(masks.reason(&error)),
            Err(_) => {
                // Else lapin's thread would wait for the greeting for ever.
                end(socket.as_ref());
                return Err("it accepts connections, but doesn't speak AMQP".to_owned());
            }
        };
        let channels_max = connection.configuration().channel_max();
        Ok(Self { connection, socket, masks, channels: Cell::new(0), channels_max })
    }

    /// Returns when the connection is no longer there.
    pub(super) async fn lost(&self) {
        let mut events = std::pin::pin!(self.connection.events_listener());
        while self.is_connected() {
            // It tells of channels that fail as well; and of a broker that closes the connection in order it
            // does not tell.
            let _ = timeout(LOOK_EVERY, events.next()).await;
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Closes the connection, and with it all its channels; whether the broker answers or not.
    pub(super) async fn close(&self) {
        let _ = timeout(CLOSE_TIME, self.connection.close(200, "esper is stopping".into())).await;
        end(self.socket.as_ref());
    }

    /// How many channels there are, or `None` when there is no room for another.
    pub(super) fn load(&self) -> Option<u16> {
        Some(self.channels.get()).filter(|&channels| self.is_connected() && channels < self.channels_max)
    }

    pub(super) fn lease(self: Rc<Self>) -> Lease {
        self.channels.set(self.channels.get().saturating_add(1));
        Lease(self)
    }
}

impl Lease {
    /// # Errors
    /// One line why not, without credentials.
    pub(super) async fn channel(&self) -> Result<Channel, String> {
        self.0.connection.create_channel().await.map_err(|error| self.reason(&error))
    }

    /// What a broker's or lapin's error says: one line of visible ASCII, without credentials.
    pub(super) fn reason(&self, error: &lapin::Error) -> String {
        self.0.masks.reason(error)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.channels.set(self.0.channels.get().saturating_sub(1));
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

async fn open(uri: AMQPUri, socket: Arc<Mutex<Option<Socket>>>) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default().with_connection_name("esper".into());
    let runtime = lapin::runtime::default_runtime()?;
    // As lapin's own, with a bound on the time, and with the socket kept.
    let own = runtime.clone();
    let connect = async move |uri: AMQPUri, _| {
        let tcp = async {
            let address = (uri.authority.host.clone(), uri.authority.port);
            let stream = AsyncTcpStream::connect(&own, own.to_socket_addrs(address)).await?;
            if let AsyncTcpStream::Plain(plain) = &stream {
                let tcp = SockRef::from(plain.get_ref());
                tcp.set_tcp_user_timeout(Some(3 * Duration::from_secs(HEARTBEAT_S.into())))?;
                *socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(tcp.try_clone()?);
            }
            match uri.scheme {
                AMQPScheme::AMQP => Ok(stream),
                AMQPScheme::AMQPS => {
                    stream.into_tls(&uri.authority.host, OwnedTLSConfig::default().as_ref()).await
                }
            }
        };
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s");
        timeout(CONNECT_TIME, tcp).await.unwrap_or_else(|_| Err(timed_out())).map_err(lapin::Error::from)
    };
    Connection::connector(uri, runtime, connect, properties).await
}

fn end(socket: Option<&Socket>) {
    if let Some(socket) = socket {
        let _ = socket.shutdown(Shutdown::Both);
    }
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
}
