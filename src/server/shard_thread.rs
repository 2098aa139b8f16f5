//! A shard's thread: its CPU, its ring, its tasks, and how they end.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_channel::Sender;
use futures_util::future::{Either, select};

use super::StartError;
use crate::connection::Connections;
use crate::connection::accept::{self, Listener};
use crate::connection::service::Service;
use crate::core::home::Homes;
use crate::core::message::ShardId;
use crate::journal::ShardJournal;
use crate::shard::Shard;
use crate::shard::common::Common;
use crate::shard::mailbox::{MailboxReceiver, Mailboxes};
use crate::shard::readiness::Readiness;

/// Operations queued before the kernel is called: enough for the accepts, reads and answers of a round of tasks.
const SUBMISSIONS: u32 = 256;
/// The most completions a ring may hold.
const COMPLETIONS_MAX: u64 = 65_536;
/// Rounds of an ending ring. In the first, accepting ends and shuts the listeners down, which completes the pending
/// accepts in the second. The third is for what these begin.
const LAST_ROUNDS: usize = 3;
/// The most rounds, about 10 ms: a connection that waits for an answer has nothing under way, and keeps waiting.
const LAST_ROUNDS_MAX: usize = 1000;

/// The parts that a shard's thread is started with.
pub(super) struct ShardPlan {
    pub(super) id: ShardId,
    pub(super) cpu: Option<usize>,
    pub(super) completions: u32,
    pub(super) common: Arc<Common>,
    pub(super) service: Arc<Service>,
    pub(super) mailboxes: Mailboxes,
    pub(super) receiver: MailboxReceiver,
    pub(super) listeners: Vec<Listener>,
    pub(super) homes: Homes,
    pub(super) journal: ShardJournal,
}

impl ShardPlan {
    /// Runs the shard on this thread until it is stopped or fails.
    pub(super) fn run(self, ready: &Sender<Result<(), StartError>>) -> Result<(), StartError> {
        if let Some(id) = self.cpu
            && !core_affinity::set_for_current(core_affinity::CoreId { id })
        {
            tracing::warn!(shard = self.id, cpu = id, "cannot pin the shard to its CPU; it may move");
        }
        let runtime = runtime(self.completions).map_err(StartError::Ring);
        let made =
            runtime.and_then(|runtime| Ok((runtime, Readiness::new().map_err(StartError::Readiness)?)));
        let (runtime, (readiness, registry)) = match made {
            Ok(made) => made,
            Err(error) => {
                let _ = ready.send(Err(error));
                return Ok(());
            }
        };
        runtime.block_on(async {
            let Self { id, common, receiver, mailboxes, homes, journal, .. } = self;
            let shard = Shard::new(id, common, receiver, mailboxes, homes, journal, registry);
            let connections = Connections::new(Rc::clone(&shard), self.service);
            let accepting: Vec<_> = self
                .listeners
                .into_iter()
                .map(|listener| tokio_uring::spawn(accept::run(Rc::clone(&connections), listener)))
                .collect();
            let sweeping = tokio_uring::spawn({
                let (shard, connections) = (Rc::clone(&shard), Rc::clone(&connections));
                async move { shard.sweep(&connections).await }
            });
            let watching = tokio_uring::spawn({
                let shard = Rc::clone(&shard);
                async move { readiness.watch(&shard).await }
            });
            let turning = tokio_uring::spawn({
                let (shard, connections) = (Rc::clone(&shard), Rc::clone(&connections));
                async move { shard.run(&connections).await }
            });
            let _ = ready.send(Ok(()));
            // A task that panics ends nothing else by itself, so its end is checked here.
            let failed = match select(turning, select(sweeping, watching)).await {
                Either::Left((turns, _)) => turns.err().map(|error| error.to_string()),
                Either::Right((Either::Left((sweeps, _)), turns)) => {
                    sweeps.err().or(turns.await.err()).map(|error| error.to_string())
                }
                Either::Right((Either::Right((watch, _)), _)) => match watch {
                    Ok(Ok(never)) => match never {},
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(error) => Some(error.to_string()),
                },
            };
            shard.end_streams().await;
            // Dropping the runtime frees the buffers of pending operations while the kernel may still use them, so none
            // may be pending; and an accept that it interrupts leaks its connection.
            for round in 0.. {
                let _ = tokio_uring::no_op().await;
                if round >= LAST_ROUNDS && (!shard.sockets.shut_all() || round > LAST_ROUNDS_MAX) {
                    break;
                }
            }
            accepting.iter().for_each(|accepting| accepting.abort());
            failed.map_or(Ok(()), |error| Err(StartError::Shard(error)))
        })
    }
}

/// Returns a runtime with its ring, on the thread that is to use them.
fn runtime(completions: u32) -> io::Result<tokio_uring::Runtime> {
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(completions);
    let without = ring.clone();
    // The kernel's finished work waits for our next call instead of interrupting us: half of the kernel's time for a
    // connection that subscribes. Linux has this from 5.19 on.
    ring.setup_coop_taskrun();
    let start =
        |ring| tokio_uring::Runtime::new(tokio_uring::builder().entries(SUBMISSIONS).uring_builder(ring));
    match start(&ring) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => start(&without),
        started => started,
    }
}

/// Returns how many completions a ring has room for: a read and a send of every connection that a shard may get, as long
/// as none of them is a stream. More would wait in the kernel, at a cost.
pub(super) fn completions(files: u64, shards: usize) -> u32 {
    let wanted = (2 * files.min(COMPLETIONS_MAX) / shards as u64).max(u64::from(2 * SUBMISSIONS));
    wanted.next_power_of_two().min(COMPLETIONS_MAX) as u32
}
