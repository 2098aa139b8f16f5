//! The backend's thread, from its start to its end.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::interface::MessageBroker;
use super::queue::registry::QueueRegistry;
use super::queue::stream::StreamCommand;
use super::queue::subscribe::follow;
use super::{BackendConfig, BackendStats, StreamOutlet, ToBackend, TopicPublisher};

/// The longest that all streams may take to put their messages back, and again that closing the connections may take.
const STOP_TIME: Duration = Duration::from_secs(3);

/// The backend's thread; the server owns it. All its tasks run on it, one for each stream, so they share by `Rc` and
/// `Cell`.
#[derive(Debug)]
pub(crate) struct BackendThread {
    /// The channel to the thread; once that has ended, messages are lost.
    sender: UnboundedSender<ToBackend>,
    thread: JoinHandle<()>,
}

/// The parts that the thread's tasks are started with.
struct ThreadParts<P> {
    config: BackendConfig,
    outlet: Box<dyn StreamOutlet>,
    topics: P,
    stats: Arc<BackendStats>,
}

impl BackendThread {
    /// Starts the thread with the broker that `broker` makes on it.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started.
    pub(super) fn start<B: MessageBroker>(
        broker: impl FnOnce(&BackendConfig, &Arc<BackendStats>) -> B + Send + 'static,
        config: BackendConfig,
        (sender, received): (UnboundedSender<ToBackend>, UnboundedReceiver<ToBackend>),
        outlet: Box<dyn StreamOutlet>,
        topics: impl TopicPublisher,
        stats: Arc<BackendStats>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        stats.brokers_configured.set(config.nodes.len() as u64);
        let parts = ThreadParts { config, outlet, topics, stats };
        let thread = std::thread::Builder::new().name("esper-backend".to_owned()).spawn(move || {
            let broker = Rc::new(broker(&parts.config, &parts.stats));
            run(runtime, broker, parts, received);
        })?;
        Ok(Self { sender, thread })
    }

    /// Puts unacknowledged messages back, closes the connections, and returns when the thread has ended: within eight
    /// seconds, even when no broker answers.
    pub(crate) fn stop(self) {
        let _ = self.sender.send(ToBackend::Stop);
        // The panic hook has reported a panic already.
        let _ = self.thread.join();
    }
}

fn run<B: MessageBroker, P: TopicPublisher>(
    runtime: Runtime,
    broker: Rc<B>,
    ThreadParts { config, outlet, topics, stats }: ThreadParts<P>,
    received: UnboundedReceiver<ToBackend>,
) {
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let connected = Rc::clone(&broker);
        let connecting = spawn_local(async move { connected.keep_connected().await });
        let topics = Rc::new(topics);
        let subscriptions = config.subscribe.iter().cloned().map(|rule| {
            let (broker, stats, topics) = (Rc::clone(&broker), Arc::clone(&stats), Rc::clone(&topics));
            spawn_local(async move { follow(&rule, &*broker, &stats, &*topics).await })
        });
        let subscriptions: Vec<_> = subscriptions.collect();
        let registry = QueueRegistry::new(config, outlet, Rc::clone(&broker), stats);
        serve(&registry, received).await;

        let _ = timeout(STOP_TIME, registry.close()).await;
        // Only now: they would take the end of a connection for a loss.
        subscriptions.iter().for_each(|task| task.abort());
        connecting.abort();
        let _ = timeout(STOP_TIME, broker.close()).await;
    });
    drop(tasks);
    // Does not wait for a name lookup under way.
    runtime.shutdown_background();
}

/// Handles the shards' messages until they stop it.
async fn serve<B: MessageBroker>(
    registry: &Rc<QueueRegistry<B>>,
    mut received: UnboundedReceiver<ToBackend>,
) {
    while let Some(message) = received.recv().await {
        match message {
            ToBackend::Open { queue, last_event_id, ticket } => {
                spawn_local(Rc::clone(registry).serve(queue, last_event_id, ticket));
            }
            ToBackend::Ready { stream } => registry.command(stream, StreamCommand::Ready),
            ToBackend::Closed { stream } => registry.command(stream, StreamCommand::Close),
            ToBackend::Stop => break,
        }
    }
}
