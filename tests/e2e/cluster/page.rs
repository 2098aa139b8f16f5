//! What docs/cluster.md has a newcomer do, as it stands there, and a page in a browser behind a balancer whose node dies.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::load::publish_at;
use super::world::World;
use crate::readme::{Background, bash, block, without_run};
use crate::support::admin_page::{prepare, shown, until};
use crate::support::browser::{Browser, serve_page};
use crate::support::nats::{Nats, free_ports};
use crate::support::proxy::{Proxy, haproxy, nginx, replace};
use crate::support::{TempDir, eventually, free_port, wait_until};

const CLUSTER: &str = include_str!("../../../docs/cluster.md");
const HAPROXY: &str = include_str!("../../../deploy/haproxy-cluster.cfg");
const NGINX: &str = include_str!("../../../deploy/nginx-cluster.conf");

#[test]
fn three_nodes_are_there_after_the_guides_two_commands_and_a_publish_at_one_is_at_another_also_when_one_is_killed()
 {
    let dir = TempDir::new();
    let pids = format!("{}/esper-", dir.0.display());
    let port = free_ports();
    let nats = replace(block(CLUSTER, "nats").trim_end(), "--nodes 3", &format!("--nodes 3 --port {port}"));
    let nats = format!("{}/{nats}", env!("CARGO_MANIFEST_DIR"));
    let nats = Background::start(&nats);
    eventually("NATS is ready", || nats.printed().contains('\n').then_some(()));
    let mut shown = block(CLUSTER, "nodes").to_owned();
    let [mut publish, mut kill] = ["publish", "kill"].map(|name| block(CLUSTER, name).to_owned());
    for n in 0..3 {
        shown = replace(&shown, &format!(":{}", 4222 + n), &format!(":{}", port + n));
    }
    assert!(
        shown.contains(nats.printed().trim_end()),
        "the URLs are those that it printed: {}",
        nats.printed()
    );
    let ports = [free_port(), free_port(), free_port()];
    for (n, port) in ports.iter().enumerate() {
        shown = replace(&shown, &format!(" {}", 3001 + n), &format!(" {port}"));
        publish = publish.replace(&format!(":{}", 3001 + n), &format!(":{port}"));
        kill = kill.replace(&format!(":{}", 3001 + n), &format!(":{port}"));
    }
    let kill = replace(&kill, "/tmp/esper-3001", &format!("{pids}{}", ports[0]));
    let shown = replace(&shown, "/tmp/esper-", &pids);
    // They end with the shell that started them.
    let shown = replace(&shown, "esper --port", "setpriv --pdeathsig KILL esper --port");
    let _nodes = Background::start(&format!("bash -c '{shown}'"));
    let ready = |port: &String| {
        bash(&format!("curl -s -o /dev/null -w '%{{http_code}}' http://127.0.0.1:{port}/readyz || true"), &[])
    };
    wait_until("all three are ready", || ports.iter().all(|port| ready(port) == "200"));
    // In one shell, which has the id.
    let printed = bash(&format!("{publish}echo ---\n{kill}"), &[]);
    let (published, killed) = printed.split_once("---\n").expect("the line between them");
    assert_eq!(without_run(published), without_run(block(CLUSTER, "published")));
    assert_eq!(without_run(killed), without_run(block(CLUSTER, "killed")));
    assert_ne!(ready(&ports[0]), "200", "it was killed");
}

/// A page sees every event once and in order, whatever its node.
fn page_misses_nothing(proxy: impl Fn(&World) -> Proxy) {
    let mut world = World::of(Nats::start(1), 3, &[]);
    let proxy = proxy(&world);
    let browser = Browser::open(&serve_page(""));
    browser.run(&format!("subscribe('http://{}/subscribe/page00001')", proxy.address));
    browser.until("opened == 1");
    let mut published = 0..;
    let mut publish = |world: &World, node: usize| {
        for n in published.by_ref().take(100) {
            publish_at(world, node, "page00001", &n.to_string());
            thread::sleep(Duration::from_millis(5));
        }
    };
    let mut alive = vec![0, 1, 2];
    for lives in [2, 3] {
        let clients = |node: usize| world.node(node).stats()["clients"].as_u64();
        let node = eventually("the page is at a node", || {
            alive.iter().copied().find(|node| clients(*node) == Some(1))
        });
        alive.retain(|other| *other != node);
        publish(&world, alive[0]);
        world.kill_node(node);
        publish(&world, alive[0]);
        browser.until(&format!("opened == {lives}"));
    }
    browser.until("seen.length >= 400");
    let seen = browser.run("return seen");
    let data: Vec<&str> = seen.as_array().unwrap().iter().map(|event| event[1].as_str().unwrap()).collect();
    let expected: Vec<String> = (0..400).map(|n| n.to_string()).collect();
    assert_eq!(data, expected);
    assert_eq!(browser.run("return source.readyState"), Value::from(1));
}

#[test]
fn a_page_behind_haproxy_misses_nothing_when_its_node_is_killed() {
    page_misses_nothing(|world| haproxy(HAPROXY, [0, 1, 2].map(|node| world.node(node).server.address)));
}

#[test]
fn a_page_behind_nginx_misses_nothing_when_its_node_is_killed() {
    page_misses_nothing(|world| nginx(NGINX, [0, 1, 2].map(|node| world.node(node).server.address)));
}

#[test]
fn the_admin_page_shows_the_cluster_its_other_nodes_and_when_this_one_is_cut_off() {
    let mut world = World::of(Nats::start(1), 2, &[]);
    let browser = Browser::open(&format!("http://{}/admin/", world.node(0).control));
    prepare(&browser);
    until(&browser, "state() == 'live' && is_shown('cluster-section')");
    until(&browser, "shown('tile-cluster-nodes') == '2' && $('nodes').tBodies[0].rows.length == 1");
    until(&browser, "shown('cluster-health').startsWith('Connected: ')");
    assert_eq!(
        browser.run("return ['journal-section', 'queues-section'].map(is_shown)"),
        Value::from(vec![false; 2])
    );

    world.kill_node(1);
    until(&browser, "shown('cluster-health') == 'Connected; 1 other node does not answer'");
    assert_eq!(browser.run("return $('nodes').tBodies[0].rows[0].cells[1].textContent"), "no answer");

    world.hold(0);
    until(
        &browser,
        "shown('cluster-health').startsWith('Cut off: ') && $('cluster-health').dataset.is == 'bad'",
    );
    world.mend(0);
    until(&browser, "$('cluster-health').dataset.is != 'bad'");
    assert!(!shown(&browser, "cluster-health").is_empty());
}
