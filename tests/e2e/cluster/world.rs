//! A cluster: NATS servers, nodes, and the links between them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;
use crate::support::nats::Nats;
use crate::support::relay::Relay;
use crate::support::sessions::{SECRET, Sessions};
use crate::support::{Answer, Server, Stream, exchange, signal};

/// Short enough that a stream which is alive is seen to be.
const FLAGS: [&str; 6] = ["--heartbeat", "1s", "--retry-min", "10ms", "--retry-max", "50ms"];

/// Nodes and their NATS servers; ended when dropped.
pub(super) struct World {
    pub(super) nats: Nats,
    nodes: Vec<Node>,
    pub(super) addresses: Addresses,
}

/// A node, and its links to each NATS server.
struct Node {
    links: Vec<Relay>,
    running: Option<Sessions>,
    flags: Vec<String>,
    launcher: Vec<String>,
}

/// Where the nodes listen; a node that was killed is nowhere. The public address comes first, then that for control.
#[derive(Clone)]
pub(super) struct Addresses(Arc<Vec<Mutex<Option<Pair>>>>);

type Pair = (SocketAddr, SocketAddr);

impl Addresses {
    pub(super) fn of(&self, node: usize) -> Option<Pair> {
        *self.0[node].lock().expect("no panic under it")
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    fn set(&self, node: usize, addresses: Option<Pair>) {
        *self.0[node].lock().expect("no panic under it") = addresses;
    }
}

impl World {
    /// Three NATS servers and so many nodes.
    pub(super) fn start(nodes: usize) -> World {
        World::of(Nats::start(3), nodes, &[])
    }

    /// So many nodes with these flags at these servers.
    pub(super) fn of(nats: Nats, nodes: usize, flags: &[&str]) -> World {
        let mut world = World::without_nodes(nats, nodes, flags);
        (0..nodes).for_each(|node| world.start_node(node));
        world
    }

    /// The same, with nodes that are not started yet.
    pub(super) fn without_nodes(nats: Nats, nodes: usize, flags: &[&str]) -> World {
        let replicas = if nats.nodes() == 1 { "1" } else { "3" };
        let threads: &[&str] = if flags.contains(&"--cores") { &[] } else { &["--cores", "1"] };
        let flags: Vec<String> = FLAGS
            .iter()
            .chain(&["--cluster-replicas", replicas])
            .chain(threads)
            .chain(flags)
            .map(|flag| (*flag).to_owned())
            .collect();
        let node = |_| Node {
            links: (0..nats.nodes()).map(|server| Relay::to(nats.address(server))).collect(),
            running: None,
            flags: flags.clone(),
            launcher: vec!["env".to_owned()],
        };
        let addresses = Addresses(Arc::new((0..nodes).map(|_| Mutex::new(None)).collect()));
        World { nodes: (0..nodes).map(node).collect(), nats, addresses }
    }

    /// Has a node be started by this command from now on.
    pub(super) fn launch_by(&mut self, node: usize, launcher: &[&str]) {
        self.nodes[node].launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Starts a node, and waits until it listens.
    pub(super) fn start_node(&mut self, node: usize) {
        let urls = self.urls(node);
        let Node { flags, launcher, running, .. } = &mut self.nodes[node];
        let words = |words: &[String]| words.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        let (launcher, flags) = (words(launcher), words(flags));
        let launcher: Vec<_> = launcher.split('\n').collect();
        let flags: Vec<_> = ["--bind-control", "127.0.0.1:0"].into_iter().chain(flags.split('\n')).collect();
        let mut command = crate::support::launched(&launcher, &flags);
        command.envs([("ESPER_CLUSTER", &*urls), ("ESPER_SESSION_SECRET", SECRET)]);
        let sessions = Sessions::of(Server::spawn(command));
        self.addresses.set(node, Some((sessions.public, sessions.control)));
        *running = Some(sessions);
    }

    /// The URLs of its NATS servers, by its links.
    pub(super) fn urls(&self, node: usize) -> String {
        let urls = self.nodes[node].links.iter().map(|link| format!("nats://esper:esper@{}", link.address));
        urls.collect::<Vec<_>>().join(",")
    }

    /// A node that runs.
    pub(super) fn node(&self, node: usize) -> &Sessions {
        self.nodes[node].running.as_ref().expect("it runs")
    }

    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Kills a node as a crash would.
    pub(super) fn kill_node(&mut self, node: usize) {
        self.addresses.set(node, None);
        self.nodes[node].running = None;
    }

    /// Ends a node in order.
    pub(super) fn end_node(&mut self, node: usize) {
        if let Some(sessions) = self.nodes[node].running.take() {
            let ended = sessions.server.stop();
            self.addresses.set(node, None);
            assert!(ended.success(), "{ended:?}");
        }
    }

    /// Has a node do nothing, or go on.
    pub(super) fn signal_node(&self, node: usize, name: &str) {
        signal(self.node(node).server.pid(), name);
    }

    /// A node's links to the NATS servers.
    pub(super) fn links(&self, node: usize) -> &[Relay] {
        &self.nodes[node].links
    }

    /// Lets nothing pass between a node and NATS, and closes nothing.
    pub(super) fn hold(&self, node: usize) {
        self.nodes[node].links.iter().for_each(Relay::hold);
    }

    /// Closes a node's connections to NATS, and lets it make none.
    pub(super) fn cut(&self, node: usize) {
        self.nodes[node].links.iter().for_each(Relay::cut);
    }

    pub(super) fn mend(&self, node: usize) {
        self.nodes[node].links.iter().for_each(Relay::mend);
    }

    /// Waits until each running node is connected and takes publishes.
    pub(super) fn wait_all_publish(&self) {
        let start = Instant::now();
        for node in (0..self.nodes.len()).filter(|node| self.nodes[*node].running.is_some()) {
            loop {
                let answer = self.publish(node, "probes01", "data: is it taken?");
                if answer.status == 200 {
                    break;
                }
                assert!(
                    start.elapsed() < PATIENCE,
                    "node {node} takes no publish: {answer:?}\n{}",
                    self.node(node).server.log()
                );
                thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// Publishes at a node.
    pub(super) fn publish(&self, node: usize, topic: &str, body: &str) -> Answer {
        self.publish_with(node, topic, &[], body)
    }

    pub(super) fn publish_with(&self, node: usize, topic: &str, fields: &[&str], body: &str) -> Answer {
        let address = self.node(node).control;
        Answer::parse(&exchange(address, "POST", &format!("/publish/{topic}"), fields, body))
    }

    /// Subscribes at a node.
    pub(super) fn subscribe(&self, node: usize, topic: &str) -> Stream {
        let stream = Stream::open(&self.node(node).server, &format!("/subscribe/{topic}"));
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        stream
    }

    /// Subscribes at a node after this event.
    pub(super) fn resume(&self, node: usize, topic: &str, id: &str) -> Stream {
        let stream = Stream::resume(&self.node(node).server, topic, id);
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        stream
    }

    /// The status of a node's path.
    pub(super) fn status(&self, node: usize, path: &str) -> u16 {
        self.node(node).server.get(path).status
    }

    /// Waits until a node's path has this status.
    pub(super) fn wait_status(&self, node: usize, path: &str, status: u16) {
        let start = Instant::now();
        while self.status(node, path) != status {
            assert!(
                start.elapsed() < PATIENCE,
                "{path} of node {node} is not {status}: {}",
                self.node(node).server.log()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a node says of its cluster.
    pub(super) fn stats(&self, node: usize) -> serde_json::Value {
        self.node(node).stats()["cluster"].clone()
    }
}
