//! The client of an identity provider: fetches its keys again and again, on a thread of its own that no shard waits for.
//!
//! | module | idea |
//! |---|---|
//! | [`fetch`] | one request for the document; nothing else names the HTTP client library |
//! | [`schedule`] | when the next one is due |

#[cfg(feature = "jwks-url")]
mod fetch;
mod schedule;

/// Without the client there is no URL either, because its parser refuses it.
#[cfg(not(feature = "jwks-url"))]
mod fetch {
    use super::FetchedDocument;
    use crate::auth::JwksUrl;

    pub(super) fn document(_url: &JwksUrl) -> Result<FetchedDocument, String> {
        Err("this esper was built without the feature jwks-url".to_owned())
    }
}

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::schedule::Schedule;
use super::throttle::Throttle;
use crate::auth::{JwkSet, KeyProvider, ProviderEvent, PublicKey};

/// The least time between two lines of the log that give the same reason why a provider gives no keys.
const TOLD_EVERY: Duration = Duration::from_secs(600);
/// The longest that a thread may take to end if it is not waiting for its provider's answer.
const STOP_TIME: Duration = Duration::from_millis(100);

/// A fetched document.
#[derive(Debug)]
struct FetchedDocument {
    text: String,
    /// The time for which it may be kept, as its server says.
    max_age: Option<Duration>,
}

/// The thread that fetches the keys of one provider; the server owns it.
#[derive(Debug)]
pub(crate) struct JwksThread {
    provider: Arc<KeyProvider>,
    thread: JoinHandle<()>,
}

impl JwksThread {
    /// Starts the thread. It calls `publish` with the keys that were fetched.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(
        provider: Arc<KeyProvider>,
        publish: impl Fn(&KeyProvider, Vec<PublicKey>) + Send + 'static,
    ) -> io::Result<Self> {
        let of_thread = Arc::clone(&provider);
        let thread = std::thread::Builder::new().name("esper-keys".to_owned());
        let thread = thread.spawn(move || run(&of_thread, publish))?;
        Ok(Self { provider, thread })
    }

    /// Ends the thread. One that waits for its provider's answer ends by itself once that came or is overdue.
    pub(crate) fn stop(self) {
        self.provider.stop();
        let end = Instant::now() + STOP_TIME;
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.thread.is_finished() {
            // The panic hook has reported a panic already.
            let _ = self.thread.join();
        }
    }
}

fn run(provider: &KeyProvider, publish: impl Fn(&KeyProvider, Vec<PublicKey>)) {
    let mut schedule = Schedule::new(Instant::now());
    let mut told = Told::default();
    loop {
        let event = provider.wait(schedule.due());
        if provider.is_stopped() {
            return;
        }
        match event {
            ProviderEvent::Asked => schedule.ask(Instant::now()),
            ProviderEvent::Hurry => schedule.hurry(Instant::now()),
            ProviderEvent::Due => {
                schedule.begin(Instant::now());
                provider.begin();
                let fetched = fetch::document(&provider.url);
                let read =
                    fetched.and_then(|document| Ok((JwkSet::parse(&document.text)?, document.max_age)));
                if provider.is_stopped() {
                    return;
                }
                match read {
                    Ok((set, max_age)) => {
                        publish(provider, set.keys.clone());
                        provider.succeed();
                        schedule.succeed(Instant::now(), max_age);
                        told.of_keys(provider, set);
                    }
                    Err(reason) => {
                        told.of_failure(provider, reason);
                        provider.fail();
                        schedule.fail(Instant::now());
                    }
                }
            }
        }
    }
}

/// The keys and the failure that the log was told of last.
#[derive(Default)]
struct Told {
    keys: Option<JwkSet>,
    /// The reason of the failures since the last keys, and how often it is told.
    failure: Option<(String, Throttle)>,
}

impl Told {
    fn of_keys(&mut self, provider: &KeyProvider, set: JwkSet) {
        let (was_away, url) = (self.failure.take().is_some(), &provider.url);
        if was_away || self.keys.as_ref() != Some(&set) {
            let JwkSet { keys, skipped } = &set;
            tracing::info!(keys = keys.len(), skipped, "fetched the keys of the identity provider at {url}");
        }
        self.keys = Some(set);
    }

    fn of_failure(&mut self, provider: &KeyProvider, reason: String) {
        let told = self.failure.take().filter(|(told, _)| *told == reason);
        let (_, throttle) =
            self.failure.insert(told.unwrap_or_else(|| (reason.clone(), Throttle::new(TOLD_EVERY))));
        let Some(failures) = throttle.count() else { return };
        let (url, then) = match self.keys {
            Some(_) => (&provider.url, "the old ones stay"),
            None => (&provider.url, "there are none of it yet"),
        };
        tracing::warn!(
            failures,
            "cannot fetch the keys of the identity provider at {url}, {then}; it is asked again and again: {reason}"
        );
    }
}
