//! A server of a round: where it is, what it is asked, and what its processes use.

use super::CrowdArgs;
use crate::bench::peer::{Peer, Running};
use crate::http::{PublishRequest, subscribe_request};
use crate::plan::Plan;
use crate::process::{Usage, tree};
use crate::stamp::Payload;
use rustix::process::{Pid, Signal, kill_process};
use std::net::SocketAddr;

/// A server that listens, alone on its CPU. It ends with this value.
pub(super) struct Site {
    running: Running,
    /// Its paths, headers and body.
    plan: Plan,
}

impl Site {
    /// Starts the server on its CPU.
    pub(super) fn start(peer: &Peer, args: &CrowdArgs) -> Result<Site, String> {
        let running = peer.start(&args.esper, 1, Some(args.server_cpu))?;
        let plan = Plan::of(&running.url(), &peer.flags())?;
        Ok(Site { running, plan })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.plan.target.address
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Returns the request for a stream of that topic, from behind the event of that id if one is given.
    pub(super) fn subscribe(&self, topic: &str, last_id: Option<&str>) -> Result<Vec<u8>, String> {
        let mut headers = self.plan.subscriber_headers.clone();
        if let Some(id) = last_id {
            headers.add("Last-Event-ID", id)?;
        }
        let path = self.plan.flags.subscribe_path.replace("{topic}", topic);
        Ok(subscribe_request(&self.plan.target, &path, &headers))
    }

    /// Returns the publish of events of `size` bytes to that topic.
    pub(super) fn publish(&self, topic: &str, size: usize) -> PublishRequest {
        let path = self.plan.flags.publish_path.replace("{topic}", topic);
        let [before, after] = &self.plan.publish_body;
        let body = (&*before.replace("{topic}", topic), &*after.replace("{topic}", topic));
        PublishRequest::new(&self.plan.target, &path, &self.plan.publisher_headers, body, &Payload::new(size))
    }

    pub(super) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Returns what its processes use. The error says that it has ended.
    pub(super) fn usage(&self) -> Result<Usage, String> {
        Usage::now(self.pid()).ok_or_else(|| "the server has ended".to_owned())
    }

    /// Stops its processes, or lets them go on.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), String> {
        for pid in tree(self.pid()).into_iter().filter_map(|pid| Pid::from_raw(pid as i32)) {
            kill_process(pid, signal).map_err(|error| format!("the server takes no signal ({error})"))?;
        }
        Ok(())
    }
}
