//! Starts the shards, and stops them in order.

mod assembly;
mod backend;
mod builder;
mod error;
mod help;
mod listeners;
mod probe;
mod shard_thread;
mod stopping;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

pub use self::builder::ServerBuilder;
pub use self::error::StartError;
pub use self::listeners::Inherited;
pub use self::probe::Probe;

use crate::backend::BackendThread;
use crate::backend::cluster::{ClusterThread, OpenedCluster};
use crate::backend::jwks::JwksThread;
use crate::config::{Auth, BindAddress, Config, Control as ControlPort, Signers};
use crate::connection::acceptor::Acceptor;
use crate::connection::service::Service;
use crate::core::home::Homes;
use crate::core::journal::MemoryJournal;
use crate::core::message::ShardId;
use crate::host;
use crate::host::socket_file::SocketFile;
use crate::journal::ShardJournal;
use crate::journal::cluster::queue::ClusterQueue;
use crate::journal::disk::error::Fatal;
use crate::journal::start::Opened;
use crate::monitor::Monitor;
use crate::publisher::Publisher;
use crate::shard::common::Common;
use crate::shard::mailbox::{Mailboxes, mailboxes};
use crate::shard::message::{ShardControl, ShardMessage};

use assembly::{Assembly, disk_config};
use listeners::OpenListeners;
use shard_thread::{ShardPlan, completions};

/// A running broker: threads of its own, which listen on an address of its own.
///
/// Several run in one process, with nothing in common but the process's limits. A server pins no thread to a
/// CPU and raises no limit unless its [`Config`] asks for it; it never installs a signal handler, a panic
/// hook or a log, and what it has to say goes to [`tracing`](https://docs.rs/tracing). It starts a thread for
/// each shard and one that says who is connected, for the admin page and the control port; where the configuration asks for
/// them others for shared sockets, the access log, the journal, the brokers, the cluster, and each identity provider. None is
/// left when it was stopped or dropped, but for one that waits for an identity provider's answer: 10 s at most.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::TcpStream;
/// use esper::{Event, Server};
///
/// let server = Server::builder().port(0).namespaces(true).history_events(0).start()?;
///
/// let mut subscriber = TcpStream::connect(server.address())?;
/// subscriber.write_all(b"GET /subscribe/pets HTTP/1.0\r\n\r\n")?;
/// // Whatever is published after the 200 has come reaches this subscriber.
/// let mut text = [0; 12];
/// subscriber.read_exact(&mut text)?;
/// assert_eq!(&text, b"HTTP/1.1 200");
///
/// server.publisher().publish("pets/dogs", Event::data("Corgi").name("new-dog"))?.wait()?;
/// assert_eq!(server.stats()["clients"], 1);
/// // Sends the subscriber what it has coming, and closes.
/// server.stop();
///
/// let mut rest = String::new();
/// subscriber.read_to_string(&mut rest)?;
/// assert!(rest.contains("event:new-dog\ndata:Corgi\n\n"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    addresses: Vec<BindAddress>,
    control_addresses: Vec<BindAddress>,
    common: Arc<Common>,
    service: Arc<Service>,
    monitor: Arc<Monitor>,
    mailboxes: Mailboxes,
    publisher: Publisher,
    /// Empty once the server has ended.
    threads: Vec<JoinHandle<()>>,
    /// The thread that accepts where all shards share a listener.
    acceptor: Option<Acceptor>,
    /// The files of sockets that it listens on.
    files: Vec<SocketFile>,
    backend: Option<BackendThread>,
    cluster: Option<ClusterThread>,
    /// One for each identity provider whose keys are fetched.
    providers: Vec<JwksThread>,
    ended: Receiver<Result<(), StartError>>,
}

impl Server {
    /// Builds a server step by step, for the settings most programs want.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// Starts a server. It serves when this returns.
    ///
    /// An address that is taken is waited for, a second at most: the kernel may still be ending a process that was
    /// killed. Every subscriber takes an open file, and without [`Config::raise_file_limit`] a process often may have
    /// 1024.
    ///
    /// # Errors
    /// [`StartError`] names the cause and the remedy.
    pub fn start(config: Config) -> Result<Server, StartError> {
        Server::start_on(config, Inherited::default(), || ())
    }

    /// Starts a server as [`Server::start`] does, on `listeners`, if there are any, in place of what the configuration says.
    /// Calls `before_serving` between what may wait for others (a port, a journal, a cluster) and the first answer to a
    /// client: until then the process may end without anybody's notice.
    ///
    /// # Errors
    /// The errors of [`Server::start`].
    pub fn start_on(
        config: Config,
        listeners: Inherited,
        before_serving: impl FnOnce(),
    ) -> Result<Server, StartError> {
        config.check().map_err(StartError::Config)?;
        config.check_features().map_err(StartError::Config)?;
        let shards = config.cpus.ids.len();
        let files = host::file_limit(config.raise_file_limit);
        let of_shard = listeners::count(&config);
        let subscribers_allowed = host::subscribers_allowed(files, shards, of_shard);
        if subscribers_allowed == 0 {
            let needed = host::files_beside(shards, of_shard);
            return Err(StartError::FileLimit { limit: files, needed, listeners: of_shard });
        }
        host::try_ring().map_err(StartError::Ring)?;
        // Without it the server works all the same, and some connections are accepted later.
        let _ = host::grow_file_table(files);
        if config.data.is_some() {
            // Opening a journal begins an epoch, of which only 64 are kept: a start that finds its port taken must cost
            // none.
            listeners::try_out(&config, &listeners)?;
        }
        let Assembly { common, service, monitor, names, kept, cluster, backend } =
            Assembly::new(config, subscribers_allowed)?;
        let config = &common.config;
        let OpenListeners { public, control, of_shards, shared, files: socket_files } =
            listeners::open(config, listeners, shards)?;

        let (mailboxes, receivers) = mailboxes(shards);
        let publisher = Publisher::new(Arc::clone(&common), names.clone(), mailboxes.clone());
        let (ready, started) = unbounded();
        let (end, ended) = unbounded();
        let mut server = Server {
            addresses: public,
            control_addresses: control,
            common: Arc::clone(&common),
            service: Arc::clone(&service),
            monitor: Arc::clone(&monitor),
            mailboxes,
            publisher,
            threads: Vec::new(),
            acceptor: None,
            files: socket_files,
            backend: None,
            cluster: None,
            providers: Vec::new(),
            ended,
        };
        let homes_and_journals = server.homes_and_journals(kept, cluster, &end)?;
        before_serving();
        let plans = of_shards.into_iter().zip(receivers).zip(homes_and_journals).enumerate();
        for (id, ((listeners, receiver), (homes, journal))) in plans {
            let plan = ShardPlan {
                id: id as ShardId,
                cpu: config.cpus.pin.then(|| config.cpus.ids[id]),
                completions: completions(files, shards),
                common: Arc::clone(&common),
                service: Arc::clone(&service),
                mailboxes: server.mailboxes.clone(),
                receiver,
                listeners,
                homes,
                journal,
            };
            let (ready, end) = (ready.clone(), end.clone());
            let thread = std::thread::Builder::new().name(format!("esper-{id}"));
            let run = move || drop(end.send(plan.run(&ready)));
            server.threads.push(thread.spawn(run).map_err(StartError::Thread)?);
        }
        for _ in 0..shards {
            started
                .recv()
                .unwrap_or_else(|_| Err(StartError::Shard("it ended before it began".to_owned())))?;
        }
        if !shared.is_empty() {
            let (common, service) = (Arc::clone(&common), Arc::clone(&service));
            let acceptor = Acceptor::start(shared, common, service, server.mailboxes.clone());
            server.acceptor = Some(acceptor.map_err(StartError::Thread)?);
        }
        for provider in &service.access.providers {
            let access = Arc::clone(&service.access);
            let publish = move |provider: &_, keys| access.replace_fetched(provider, keys);
            let started = JwksThread::start(Arc::clone(provider), publish).map_err(StartError::Thread)?;
            server.providers.push(started);
        }
        if let (Some(line), Some(queues)) = (backend, &config.queues) {
            let hasher = names.hasher().clone();
            let started =
                backend::start(line, queues, &common, hasher, &server.mailboxes, server.publisher());
            server.backend = Some(started.map_err(StartError::Thread)?);
        }
        if service.access.can_survey() {
            let mailboxes = server.mailboxes.clone();
            let thread = std::thread::Builder::new().name("esper-admin".to_owned());
            let run = move || monitor.run(&mailboxes);
            server.threads.push(thread.spawn(run).map_err(StartError::Thread)?);
        }
        tracing::info!(
            files,
            subscribers_max = server.common.streams.max(),
            shards,
            "the file limit allows {subscribers_allowed} subscribers"
        );
        let wanted = server.common.streams.max();
        if wanted > subscribers_allowed {
            tracing::warn!(
                "--subscribers-max {wanted} is more than the file limit allows, {subscribers_allowed}; \
                 raise the file limit (ulimit -n, LimitNOFILE=), or lower --subscribers-max"
            );
        }
        Ok(server)
    }

    /// Returns the first IP address it listens on, with the port that was chosen for port 0; `0.0.0.0:0` if it listens on
    /// sockets of the file system alone.
    pub fn address(&self) -> SocketAddr {
        let first = self.addresses.iter().find_map(BindAddress::tcp);
        first.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    /// Returns all addresses that it listens on.
    pub fn addresses(&self) -> &[BindAddress] {
        &self.addresses
    }

    /// Returns the IP address of its control port, if it has one.
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control_addresses.iter().find_map(BindAddress::tcp)
    }

    /// Returns all addresses of its control port.
    pub fn control_addresses(&self) -> &[BindAddress] {
        &self.control_addresses
    }

    /// Replaces its secrets, public keys and control token by those of this configuration, and nothing else, and has the keys
    /// of identity providers fetched anew. Open streams stay until their tokens expire, whatever these were signed with.
    ///
    /// # Errors
    /// [`StartError::Config`] when they cannot be right, or there is another URL of keys; the present ones stay.
    pub fn replace_keys(&self, config: &Config) -> Result<(), StartError> {
        let own = &self.common.config;
        let replaced = |side, own: &Signers, new: &Signers| {
            if own.jwks_url != new.jwks_url {
                let reason = format!("--{side}-jwks: another URL needs a restart");
                return Err(StartError::Config(reason));
            }
            let Signers { secret, public_keys, .. } = new.clone();
            Ok(Signers { secret, public_keys, ..own.clone() })
        };
        let subscriber = replaced("subscriber", &own.auth.subscriber, &config.auth.subscriber)?;
        let publisher = replaced("publisher", &own.auth.publisher, &config.auth.publisher)?;
        let session = replaced("session", &own.auth.session, &config.auth.session)?;
        let control = own.control.as_ref().zip(config.control.as_ref());
        let control = control.map(|(own, new)| ControlPort { token: new.token.clone(), ..own.clone() });
        let merged = Config {
            auth: Auth { subscriber, publisher, session, ..own.auth.clone() },
            control: control.or_else(|| own.control.clone()),
            ..own.clone()
        };
        merged.check().map_err(StartError::Config)?;
        self.service.access.replace_keys(&merged);
        self.service.access.providers.iter().for_each(|provider| provider.hurry());
        Ok(())
    }

    /// Opens the file of [`Config::access_log`] anew, after it was renamed or removed: lines from now on go to the file
    /// that has the name now. Does nothing without one.
    ///
    /// # Errors
    /// It cannot be opened; lines still go to the old one.
    pub fn reopen_access_log(&self) -> io::Result<()> {
        self.common.access_log.as_ref().map_or(Ok(()), |log| log.reopen())
    }

    /// Returns a publisher to this server, for any thread, as long as it runs.
    pub fn publisher(&self) -> Publisher {
        self.publisher.clone()
    }

    /// Returns its counters since it started, as an object of JSON; `/stats` shows the same.
    ///
    /// | field | |
    /// |---|---|
    /// | `clients`, `connections` | open streams, and connections that are none |
    /// | `topics` | topics with subscribers or history |
    /// | `published`, `delivered` | events ordered, and events sent, once for each subscriber |
    /// | `bytes` | bytes of streams sent |
    /// | `evicted`, `refused` | streams cut for being too slow; requests and streams refused |
    /// | `history_bytes`, `held_bytes` | bytes kept for replay; bytes of events held in all |
    /// | `request_bytes` | bytes held by connections that are no streams |
    /// | `uptime_s` | seconds since it started |
    /// | `publish_to_send_us` | `p50`, `p99`, `p999`, `max` in microseconds, and `count`, from a publish to the kernel's taking its events for a subscriber |
    /// | `shards` | the same of each shard |
    /// | `access_log` | with [`Config::access_log`] alone: `lines_dropped`, which could not be written in time |
    /// | `cluster` | with [`Config::cluster`] alone: whether it is `connected` and `ready`, why its stream is `unfit` or null, how many `nodes` were heard of lately, the newest message `applied` and the `lag` behind the stream, `messages` sent and `resent`, `publishes` applied, those left `unconfirmed`, `reconnects`, times that events were `missed` and of `resets`, `malformed` messages, subscribers `waiting` for events of other nodes, and `ack_us`, as `publish_to_send_us`, of JetStream's answers |
    /// | `jwks` | with a URL of keys alone: `fetches` of documents that were taken, and `failures` |
    /// | `queues` | with [`Config::queues`] alone: `brokers` and `brokers_connected`, queues that are `open`, requests `refused`, and messages `delivered`, `redelivered`, `acknowledged`, `acknowledged_unsent` and `published` |
    /// | `journal` | with [`Config::data`] alone: `publishes` and `batches` written, publishes `refused` for want of room, `bytes` and `segments` of the files, `recovered_events`, `recovered_bytes` and `recovered_ms` of the start, and `sync_us`, as `publish_to_send_us`, of each sync |
    pub fn stats(&self) -> serde_json::Value {
        self.monitor.stats()
    }

    /// Asks every shard for a sign of life. A shard that hangs never gives one; one that is busy does when it comes to it.
    pub fn probe(&self) -> Probe {
        Probe::of(&self.mailboxes)
    }

    /// Returns whether it takes requests: it does not drain, and in a cluster has what the others have. `/readyz` also
    /// waits for the keys of identity providers.
    pub fn is_ready(&self) -> bool {
        let is_draining = self.common.draining.load(Ordering::Relaxed);
        !is_draining && self.monitor.cluster.as_ref().is_none_or(|(cluster, _)| cluster.is_ready())
    }

    /// Waits up to `patience` for a shard to fail, `Duration::MAX` for ever; `Ok` when none did.
    ///
    /// # Errors
    /// A shard's own error. The server is of no use any more: drop it, and start another.
    pub fn watch(&self, patience: Duration) -> Result<(), StartError> {
        match self.ended.recv_timeout(patience) {
            Ok(end) => end,
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(StartError::Shard("all shards ended".to_owned())),
        }
    }

    /// Ends in order: tells balancers, takes nothing new, answers what is under way, sends subscribers what
    /// they have coming and when to return, and closes; all within [`Config::drain`]. Blocks until then,
    /// which is at once where nobody is connected.
    ///
    /// A server that is dropped does the same, but gives its clients no more than a tenth of a second.
    pub fn stop(mut self) {
        self.end(self.common.config.drain);
    }

    /// Ends it as [`Server::stop`] does, and reports whether all that was answered is kept.
    ///
    /// # Errors
    /// [`StartError::Journal`] when the journal's disk failed meanwhile.
    pub fn finish(mut self) -> Result<(), StartError> {
        self.end(self.common.config.drain);
        self.ended.try_iter().find(Result::is_err).unwrap_or(Ok(()))
    }

    /// Returns the homes and the journal of each shard, and starts the journal's writer if it has one.
    fn homes_and_journals(
        &mut self,
        kept: Option<Opened>,
        cluster: Option<OpenedCluster>,
        end: &Sender<Result<(), StartError>>,
    ) -> Result<Vec<(Homes, ShardJournal)>, StartError> {
        let common = &self.common;
        if let Some(mut cluster) = cluster {
            let homes = std::mem::take(&mut cluster.homes);
            let queue = || ClusterQueue::new(cluster.sender.clone(), Arc::clone(&cluster.state));
            let journals = homes.into_iter().map(|homes| (homes, ShardJournal::Cluster(queue()))).collect();
            let monitor = Arc::clone(&self.monitor);
            let answers = Box::new(move |question, answer| monitor.answer_node(question, answer));
            let failed = end.clone();
            let ended = move |result: Result<(), String>| {
                if let Err(reason) = result {
                    let _ = failed.send(Err(StartError::Cluster(reason)));
                }
            };
            let name = node_name(self.address());
            let thread = ClusterThread::start(cluster, self.mailboxes.clone(), answers, name, ended);
            self.cluster = Some(thread.map_err(StartError::Thread)?);
            return Ok(journals);
        }
        let (Some(mut kept), Some(data)) = (kept, &common.config.data) else {
            let homes = (0..common.shards).map(|shard| Homes::new(shard as ShardId, &common.homes));
            return Ok(homes.map(|homes| (homes, ShardJournal::Memory(MemoryJournal::default()))).collect());
        };
        let homes = std::mem::take(&mut kept.homes);
        let failed = end.clone();
        let ended = move |result: Result<(), Fatal>| {
            if let Err(error) = result {
                let _ = failed.send(Err(StartError::Journal(error.to_string())));
            }
        };
        let (thread, queues) = kept
            .start(&disk_config(data, &common.config), common.clock, self.mailboxes.clone(), ended)
            .map_err(StartError::Thread)?;
        self.threads.push(thread);
        Ok(homes.into_iter().zip(queues.into_iter().map(ShardJournal::Disk)).collect())
    }

    fn tell(&self, control: ShardControl) {
        self.mailboxes.post_to_all(|| ShardMessage::Control(control));
    }
}

/// Returns the name under which the other nodes of a cluster show this one.
fn node_name(address: SocketAddr) -> String {
    format!("{}:{}", host::name(), address.port())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::connection::Connections;
    use crate::shard::Shard;
    use crate::shard::readiness::Readiness;

    /// The parts of a server of one or more shards that keeps nothing and does not run.
    pub(crate) struct Parts(Assembly);

    pub(crate) fn parts(config: Config) -> Parts {
        Parts(Assembly::new(config, 10).unwrap_or_else(|error| panic!("{error}")))
    }

    impl Parts {
        pub(crate) fn shard(&self) -> Rc<Shard> {
            let common = Arc::clone(&self.0.common);
            let (mailboxes, mut receivers) = mailboxes(1);
            let homes = Homes::new(0, &common.homes);
            let journal = ShardJournal::Memory(MemoryJournal::default());
            let registry = Readiness::new().unwrap().1;
            Shard::new(0, common, receivers.remove(0), mailboxes, homes, journal, registry)
        }

        pub(crate) fn connections(&self) -> Rc<Connections> {
            Connections::new(self.shard(), Arc::clone(&self.0.service))
        }

        pub(crate) fn monitor(self) -> Monitor {
            let Assembly { service, monitor, .. } = self.0;
            drop(service);
            Arc::try_unwrap(monitor).unwrap_or_else(|_| panic!("the service was all that had it"))
        }
    }
}
