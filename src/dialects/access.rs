//! The rules that requests are checked against: keys, and which interfaces are on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::queues::QueueAccess;
use crate::auth::{JwksUrl, KeyProvider, KeySources, Keyring, PublicKey, Secret, UsedTickets};
use crate::config::{Auth, Config, TrustedProxy};
use crate::core::renewal::RenewableStreams;
use crate::core::topic::{Topic, TopicNames};

const DAY_S: u64 = 24 * 60 * 60;

/// The access rules, made of the configuration once; all shards share them.
#[derive(Debug)]
pub(crate) struct Access {
    /// Replaced as a whole when keys are reloaded or fetched.
    pub(super) keyring: ArcSwap<Keyring>,
    /// The sources of the keyring. Held while it is made and replaced, so that what is reloaded and what is fetched at the
    /// same time are both in the next one.
    key_sources: Mutex<KeySources>,
    /// The identity providers whose keys are fetched.
    pub(crate) providers: Vec<Arc<KeyProvider>>,
    pub(super) used_tickets: UsedTickets,
    /// The leeway for the clocks of those who sign, in seconds.
    pub(super) leeway_s: u64,
    pub(super) renewable: Arc<RenewableStreams>,
    pub(crate) cookie_name: String,
    /// The longest lifetime of a token that is minted here, in seconds.
    pub(crate) session_s_max: u64,
    /// The host names of the control port, beside addresses and `localhost`; `None` without one.
    pub(crate) control_hosts: Option<Vec<String>>,
    /// Whether publishing and inside views (statistics, admin page) are on the public port.
    pub(crate) public_publish: bool,
    /// How clients ask for queues of a message broker; `None` when they cannot.
    pub(crate) queues: Option<QueueAccess>,
    pub(crate) names: TopicNames,
    /// Whether there is an admin page.
    pub(crate) admin: bool,
    /// The topic that feeds it; no request can name it.
    pub(crate) admin_topic: Topic,
    /// Peers whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<TrustedProxy>,
}

impl Access {
    /// Returns the access rules of this configuration.
    pub(crate) fn new(config: &Config, names: TopicNames) -> Self {
        let control = config.control.as_ref();
        let mut key_sources = key_sources(config, Secret::random(), Vec::new());
        let providers = providers(&key_sources);
        key_sources.fetched = providers.iter().map(|provider| (Arc::clone(provider), Vec::new())).collect();
        Access {
            keyring: ArcSwap::from_pointee(Keyring::new(&key_sources)),
            key_sources: Mutex::new(key_sources),
            providers,
            used_tickets: UsedTickets::new(Instant::now()),
            leeway_s: config.auth.leeway.as_secs(),
            renewable: Arc::default(),
            cookie_name: config.auth.cookie_name.clone(),
            session_s_max: config.auth.session_time_max.as_secs(),
            control_hosts: control.map(|control| control.hosts.clone()),
            public_publish: control.is_none_or(|control| control.public_publish),
            admin_topic: Topic::internal("admin events", names.hasher()),
            names,
            queues: config.queues.as_ref().map(QueueAccess::new),
            admin: config.admin,
            trusted_proxies: config.trusted_proxies.clone(),
        }
    }

    /// Replaces the keys and secrets by those of this configuration; fetched ones stay.
    pub(crate) fn replace_keys(&self, config: &Config) {
        self.change_keys(|sources| {
            *sources = key_sources(config, sources.own_secret.clone(), std::mem::take(&mut sources.fetched));
        });
    }

    /// Replaces the keys that were fetched from a provider before.
    pub(crate) fn replace_fetched(&self, provider: &KeyProvider, public_keys: Vec<PublicKey>) {
        self.change_keys(|sources| {
            let fetched = sources.fetched.iter_mut().find(|(other, _)| other.url == provider.url);
            if let Some((_, before)) = fetched {
                *before = public_keys;
            }
        });
    }

    fn change_keys(&self, change: impl FnOnce(&mut KeySources)) {
        // Whatever a panic left is taken again.
        let mut sources = self.key_sources.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut sources);
        self.keyring.store(Arc::new(Keyring::new(&sources)));
    }

    /// Returns the side, by the prefix of its flags, that has no keys at all until its provider's are fetched.
    pub(crate) fn without_keys(&self) -> Option<&'static str> {
        if self.providers.iter().all(|provider| provider.is_fetched()) {
            return None;
        }
        let sources = self.key_sources.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fetched =
            |url: &JwksUrl| sources.fetched.iter().any(|(one, _)| one.url == *url && one.is_fetched());
        let mut sides = sources.sides();
        let empty = sides.find(|(_, signers)| {
            let is_waiting = signers.jwks_url.as_ref().is_some_and(|url| !is_fetched(url));
            is_waiting && signers.secret.is_none() && signers.public_keys.is_empty()
        });
        empty.map(|(side, _)| side)
    }

    /// Returns the lifetime of what is made here, in seconds: the one that was asked for, or a day, or less where less is the
    /// most.
    pub(super) fn lifetime_s(&self, asked: Option<u64>) -> u64 {
        asked.unwrap_or_else(|| DAY_S.min(self.session_s_max))
    }

    /// Returns whether anybody may ask who is connected.
    pub(crate) fn can_survey(&self) -> bool {
        self.admin || self.control_hosts.is_some()
    }
}

/// Returns what the keys and secrets of this configuration are made of.
fn key_sources(
    config: &Config,
    own_secret: Secret,
    fetched: Vec<(Arc<KeyProvider>, Vec<PublicKey>)>,
) -> KeySources {
    let Auth { enabled, subscriber, publisher, session, leeway, token_bytes_max, .. } = config.auth.clone();
    KeySources {
        enabled,
        subscriber,
        publisher,
        session,
        leeway_s: leeway.as_secs(),
        token_bytes_max,
        own_secret,
        control_token: config.control.as_ref().and_then(|control| control.token.clone()),
        fetched,
    }
}

/// Returns the identity providers whose keys are asked for, each once.
fn providers(sources: &KeySources) -> Vec<Arc<KeyProvider>> {
    let mut providers: Vec<Arc<KeyProvider>> = Vec::new();
    for url in sources.sides().filter_map(|(_, signers)| signers.jwks_url.as_ref()) {
        if providers.iter().all(|provider| provider.url != *url) {
            providers.push(Arc::new(KeyProvider::new(url.clone())));
        }
    }
    providers
}
