//! Builds a server step by step, for the settings most programs want.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{Server, StartError};
use crate::config::{BindAddress, Config, Control, Cpus, SHARDS_MAX, Secret, SecretPair};

/// Builds a [`Server`]. Settings not set are those of [`Config::default`], so it listens on `127.0.0.1:3000`, one
/// thread serves it, and everybody who reaches it may subscribe and publish.
///
/// ```
/// use std::time::Duration;
/// use esper::Server;
///
/// let server = Server::builder()
///     .port(0)
///     .namespaces(true)
///     .history_events(0)
///     .configure(|config| config.drain.time_max = Duration::from_secs(1))
///     .start()?;
/// println!("listening on http://{}", server.address());
/// server.stop();
/// # Ok::<(), esper::StartError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "nothing listens before it is started"]
pub struct ServerBuilder {
    config: Config,
    /// An error that a configuration cannot hold; [`ServerBuilder::start`] returns it.
    wrong: Option<&'static str>,
}

impl ServerBuilder {
    /// Sets the address to listen on: `[0, 0, 0, 0]` for all of IPv4; by default `127.0.0.1`. For several see
    /// [`Config::bind`].
    pub fn bind(self, address: impl Into<IpAddr>) -> Self {
        self.configure(|config| config.bind = vec![BindAddress::Ip(address.into())])
    }

    /// Listens on a socket at this absolute path of the file system in place of an IP address; see also
    /// [`Config::bind_mode`].
    pub fn bind_unix(self, path: impl Into<PathBuf>) -> Self {
        self.configure(|config| config.bind = vec![BindAddress::Unix(path.into())])
    }

    /// Sets the TCP port to listen on, 0 for any free one; by default 3000.
    pub fn port(self, port: u16) -> Self {
        self.configure(|config| config.port = port)
    }

    /// Listens on a second address as well, which is not for the outside world: it serves every route, and the first
    /// one no longer serves `/publish`, `/stats`, `/metrics` and `/admin`. It must be a loopback address; any other
    /// needs a [token](Control::token), which [`configure`](ServerBuilder::configure) sets.
    pub fn control(self, address: impl Into<SocketAddr>) -> Self {
        self.configure(|config| config.control = Some(Control::new(BindAddress::Tcp(address.into()))))
    }

    /// Sets how many threads serve it, 1 to 1024, none of them pinned to a CPU; by default 1, which is enough for tens
    /// of thousands of subscribers and leaves the other CPUs to the program around it.
    pub fn shards(self, shards: usize) -> Self {
        // One above the limit is enough to be refused.
        let ids = (0..shards.min(SHARDS_MAX + 1)).collect();
        self.configure(|config| config.cpus = Cpus { ids, pin: false })
    }

    /// Makes topics paths, such as `pets/dogs`: subscribers of a path receive what is published below it.
    pub fn namespaces(self, namespaces: bool) -> Self {
        self.configure(|config| config.namespaces = namespaces)
    }

    /// Turns the admin page, `/admin/`, on or off; by default on. With a
    /// [publisher's secret](ServerBuilder::publisher_secret) it shows nothing without a token.
    pub fn admin(self, admin: bool) -> Self {
        self.configure(|config| config.admin = admin)
    }

    /// Sets the web origins whose pages may subscribe and publish, such as `https://example.org`, in place of `*`,
    /// which is any. An empty list leaves only pages of the server's own origin.
    pub fn cors_origins(self, origins: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.configure(|config| config.cors_origins = origins.into_iter().map(Into::into).collect())
    }

    /// Requires of subscribers a token (RFC 7519, HS256) signed with this secret. It must not be empty, and below 32
    /// bytes it may be guessed.
    pub fn subscriber_secret(self, secret: impl Into<String>) -> Self {
        self.secret(secret, |config, secret| config.auth.subscriber.secret = Some(secret))
    }

    /// Requires such a token for publishing over HTTP, `/stats`, `/metrics` and the admin page's data. A
    /// [`Publisher`](crate::Publisher) needs none.
    pub fn publisher_secret(self, secret: impl Into<String>) -> Self {
        self.secret(secret, |config, secret| config.auth.publisher.secret = Some(secret))
    }

    /// Turns on sessions, `/events/`: signs and verifies the tokens that say who a user is and on which channel.
    pub fn session_secret(self, secret: impl Into<String>) -> Self {
        self.secret(secret, |config, secret| config.auth.session.secret = Some(secret))
    }

    /// Sets how many events are kept for replay per topic; by default 1000. 0 turns replay off, and with it the ids
    /// that the server adds.
    pub fn history_events(self, events: usize) -> Self {
        self.configure(|config| config.history.events_max = events)
    }

    /// Sets after what time a stream that got nothing else gets a comment, at least 100 ms; by default 15 s, and `None`
    /// is never.
    pub fn heartbeat(self, interval: Option<Duration>) -> Self {
        self.configure(|config| config.stream.heartbeat = interval)
    }

    /// Changes any other setting of the [`Config`].
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts the server, as [`Server::start`] does.
    ///
    /// # Errors
    /// The errors of [`Server::start`].
    pub fn start(self) -> Result<Server, StartError> {
        match self.wrong {
            None => Server::start(self.config),
            Some(wrong) => Err(StartError::Config(wrong.to_owned())),
        }
    }

    fn secret(mut self, secret: impl Into<String>, set: impl FnOnce(&mut Config, SecretPair)) -> Self {
        match Secret::new(secret) {
            Some(current) => set(&mut self.config, SecretPair { current, previous: None }),
            // Never stored as no secret: that would let everybody in.
            None => self.wrong = Some("empty secret; give one, or leave it out to have none"),
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_the_default_configuration() {
        assert_eq!(Server::builder().config, Config::default());
    }

    #[test]
    fn each_step_sets_what_it_names_and_nothing_else() {
        type Step = (fn(ServerBuilder) -> ServerBuilder, fn(&mut Config));
        let pair = || SecretPair { current: Secret::new("s").unwrap(), previous: None };
        let steps: [Step; 10] = [
            (
                |b| b.bind([0, 0, 0, 0]),
                |c| {
                    c.bind = vec![BindAddress::Ip([0, 0, 0, 0].into())];
                },
            ),
            (|b| b.bind_unix("/a"), |c| c.bind = vec![BindAddress::Unix("/a".into())]),
            (|b| b.port(0), |c| c.port = 0),
            (
                |b| b.control(([127, 0, 0, 1], 8001)),
                |c| c.control = Some(Control::new("127.0.0.1:8001".parse().unwrap())),
            ),
            (|b| b.shards(3), |c| c.cpus = Cpus { ids: vec![0, 1, 2], pin: false }),
            (|b| b.namespaces(true), |c| c.namespaces = true),
            (|b| b.admin(false), |c| c.admin = false),
            (
                |b| b.cors_origins(["https://a.example"]),
                |c| c.cors_origins = vec!["https://a.example".into()],
            ),
            (|b| b.history_events(0), |c| c.history.events_max = 0),
            (|b| b.heartbeat(None), |c| c.stream.heartbeat = None),
        ];
        for (index, (step, change)) in steps.into_iter().enumerate() {
            let mut expected = Config::default();
            change(&mut expected);
            assert_eq!(step(Server::builder()).config, expected, "step {index}");
        }
        let built = Server::builder().subscriber_secret("s").publisher_secret("s").session_secret("s").config;
        let sides = [built.auth.subscriber, built.auth.publisher, built.auth.session];
        assert_eq!(sides.map(|side| side.secret), [Some(pair()), Some(pair()), Some(pair())]);
    }

    #[test]
    fn an_empty_secret_lets_nobody_in_because_nothing_starts() {
        let builder = Server::builder;
        for builder in
            [builder().subscriber_secret(""), builder().publisher_secret(""), builder().session_secret("")]
        {
            let error = builder.port(0).start().unwrap_err();
            assert!(error.to_string().starts_with("empty secret"), "{error}");
        }
    }
}
