//! Real proxies in front, with the configurations of deploy/.

mod at_once;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::support::proxy::{Proxy, haproxy, nginx, replace};
use crate::support::{Answer, Event, PATIENCE, Server, Stream, TempDir, eventually, exchange, wait_until};

const CADDY: &str = include_str!("../../deploy/Caddyfile");
const NGINX: &str = include_str!("../../deploy/nginx.conf");
const NGINX_INSTANCES: &str = include_str!("../../deploy/nginx-instances.conf");
const NGINX_CLUSTER: &str = include_str!("../../deploy/nginx-cluster.conf");
const HAPROXY: &str = include_str!("../../deploy/haproxy.cfg");
const HAPROXY_INSTANCES: &str = include_str!("../../deploy/haproxy-instances.cfg");
const HAPROXY_CLUSTER: &str = include_str!("../../deploy/haproxy-cluster.cfg");

/// The least that somebody would write.
const NGINX_MINIMAL: &str = "
    user www-data;
    pid /run/nginx.pid;
    error_log /var/log/nginx/error.log;
    events {}
    http {
        access_log /var/log/nginx/access.log;
        server {
            listen 80;
            location / {
                proxy_pass http://127.0.0.1:3000;
            }
        }
    }
";

#[test]
fn nginx_with_nothing_but_proxy_pass_hands_each_event_on_at_once() {
    let server = Server::start(&["--heartbeat", "200ms"]);
    hands_each_event_on_at_once(&nginx(NGINX_MINIMAL, [server.address; 2]), server);
}

#[test]
fn nginx_with_http_1_1_to_its_upstream_hands_each_event_on_at_once() {
    let pass = "proxy_pass http://127.0.0.1:3000;";
    let config = replace(NGINX_MINIMAL, pass, &format!("{pass} proxy_http_version 1.1;"));
    let server = Server::start(&["--heartbeat", "200ms"]);
    hands_each_event_on_at_once(&nginx(&config, [server.address; 2]), server);
}

#[test]
fn deploy_nginx_conf_hands_each_event_on_at_once() {
    let server = Server::start(&["--heartbeat", "200ms"]);
    hands_each_event_on_at_once(&nginx(NGINX, [server.address; 2]), server);
}

#[test]
fn deploy_haproxy_cfg_hands_each_event_on_at_once() {
    let server = Server::start(&["--heartbeat", "200ms"]);
    hands_each_event_on_at_once(&haproxy(HAPROXY, [server.address; 2]), server);
}

/// nginx's and HAProxy's names of the same socket.
#[test]
fn a_socket_of_the_file_system_is_an_upstream_as_a_port_is() {
    type Start = fn(&str, [String; 1]) -> Proxy;
    for (start, config, before) in [(nginx as Start, NGINX, "unix:"), (haproxy, HAPROXY, "unix@")] {
        let dir = TempDir::new();
        let socket = dir.path("esper.sock");
        // nginx's workers are of another user.
        let bind = format!("127.0.0.1,unix:{socket}");
        let server = Server::start(&[
            "--heartbeat",
            "200ms",
            "--bind",
            &bind,
            "--bind-mode",
            "666",
            "--trusted-proxy",
            "unix",
        ]);
        let proxy = start(config, [format!("{before}{socket}")]);
        let stream = proxy.subscribe("proxied00", "");
        let status = server.get("/admin/status.json").json();
        assert_eq!(status["connections"][0]["client_ip"], "127.0.0.1", "the client of the proxy: {status}");
        drop(stream);
        hands_each_event_on_at_once(&proxy, server);
    }
}

/// Each event is published only when the one before has come out: a proxy that holds back even a little waits for ever.
fn hands_each_event_on_at_once(proxy: &Proxy, server: Server) {
    let mut stream = proxy.subscribe("proxied01", "");
    assert_eq!(
        (stream.head.status, stream.head.field("Content-Type")),
        (200, Some("text/event-stream; charset=utf-8"))
    );
    assert_eq!(stream.head.field("Access-Control-Allow-Origin"), Some("*"));
    let mut first_id = String::new();
    for n in 0..5 {
        let answer = proxy.publish("proxied01", &format!("event: e{n}\ndata: {n}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let event = stream.event();
        assert_eq!((event.name, event.data), (format!("e{n}"), n.to_string()));
        if n == 0 {
            first_id = event.id;
        }
    }
    // The comments of a quiet stream come through, else the proxy would take it for dead.
    let mut quiet = proxy.subscribe("proxied02", "");
    while !quiet.read_some().expect("a heartbeat").starts_with(':') {}

    // More than any buffer of theirs, either way.
    let long = "0123456789".repeat(50_000);
    assert_eq!(proxy.publish("proxied01", &format!("data: {long}")).status, 200);
    assert_eq!(stream.event().data, long);

    let mut resumed = proxy.subscribe("proxied01", &format!("Last-Event-ID: {first_id}\r\n"));
    assert_eq!(resumed.event().data, "1");

    // Refusals come through as they are.
    let refused = proxy.publish("proxied01", "event: no data");
    assert_eq!((refused.status, refused.field("Access-Control-Allow-Origin")), (400, Some("*")));

    assert!(server.stop().success());
    let farewell = last_event(&mut stream);
    assert!(farewell.retry.is_some(), "{farewell:?}");
    assert!(stream.is_complete || stream.head.field("Transfer-Encoding").is_none(), "an orderly end");
}

/// Nothing is sent that could fail, so the proxy has to look for it.
#[test]
fn a_client_that_leaves_frees_its_place_at_once() {
    type Start = fn(&str, [SocketAddr; 2]) -> Proxy;
    for (start, config) in [
        (nginx as Start, NGINX),
        (nginx, NGINX_INSTANCES),
        (nginx, NGINX_MINIMAL),
        (haproxy, HAPROXY),
        (haproxy, HAPROXY_INSTANCES),
        (nginx, NGINX_CLUSTER),
        (haproxy, HAPROXY_CLUSTER),
    ] {
        let server = Server::start(&["--heartbeat", "0s"]);
        let proxy = start(config, [server.address; 2]);
        let stream = proxy.subscribe("leaving01", "");
        assert_eq!(server.stats()["clients"], 1);
        drop(stream);
        wait_until("its place is free", || server.stats()["clients"] == 0);
    }
}

/// `EventSource` gives up for ever on a 502, 503 or 504, but comes back after a connection that closes.
#[test]
fn a_stream_that_no_instance_can_serve_is_closed_without_an_answer() {
    type Start = fn(&str, [SocketAddr; 2]) -> Proxy;
    for (start, config, timeout, down) in [
        (nginx as Start, NGINX, "proxy_read_timeout 60s", 502),
        (nginx, NGINX_INSTANCES, "proxy_read_timeout 60s", 502),
        (haproxy, HAPROXY, "timeout server 60s", 503),
        (haproxy, HAPROXY_INSTANCES, "timeout server 60s", 503),
        (nginx, NGINX_CLUSTER, "proxy_read_timeout 60s", 502),
        (haproxy, HAPROXY_CLUSTER, "timeout server 60s", 503),
    ] {
        let subscribe = |proxy: &Proxy| exchange(proxy.address, "GET", "/subscribe/downdown1", &[], "");
        // One that is not there.
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let proxy = start(config, [nobody; 2]);
        assert_eq!(subscribe(&proxy), "");
        assert_eq!(proxy.publish("downdown1", "data: x").status, down);

        // One that ends while the request is on its way.
        let ending = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = start(config, [ending.local_addr().unwrap(); 2]);
        thread::spawn(move || ending.incoming().for_each(drop));
        assert_eq!(subscribe(&proxy), "");

        // One that is stuck: the kernel takes its connections, and nothing answers.
        let stuck = TcpListener::bind("127.0.0.1:0").unwrap();
        let hasty = replace(config, timeout, &timeout.replace("60s", "200ms"));
        let proxy = start(&hasty, [stuck.local_addr().unwrap(); 2]);
        assert_eq!(subscribe(&proxy), "");
    }
}

#[test]
fn what_shows_the_broker_from_inside_is_not_for_the_public() {
    let server = Server::start(&[]);
    for proxy in [nginx(NGINX, [server.address; 2]), haproxy(HAPROXY, [server.address; 2])] {
        for path in [
            "/admin",
            "/admin/",
            "/admin/status.json",
            "/%61dmin/events",
            "/metrics",
            "/stat%73",
            "/debug/vars",
        ] {
            let answer = Answer::parse(&exchange(proxy.address, "GET", path, &[], ""));
            assert_eq!(answer.status, 404, "{path}");
        }
        assert_eq!(Answer::parse(&exchange(proxy.address, "GET", "/healthz", &[], "")).status, 200);
    }
}

#[test]
fn each_configuration_says_where_a_client_is_behind_what_it_says_itself() {
    type Start = fn(&str, [SocketAddr; 2]) -> Proxy;
    for (start, config) in
        [(nginx as Start, NGINX), (nginx, NGINX_INSTANCES), (haproxy, HAPROXY), (haproxy, HAPROXY_INSTANCES)]
    {
        let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = start(config, [upstream.local_addr().unwrap(); 2]);
        let client = TcpStream::connect(proxy.address).unwrap();
        let fields = "Host: x\r\nX-Forwarded-For: 192.0.2.1\r\n";
        write!(&client, "GET /subscribe/forwarded1 HTTP/1.1\r\n{fields}\r\n").unwrap();
        upstream.set_nonblocking(true).unwrap();
        let head = eventually("the request comes through", || {
            let (connection, _) = upstream.accept().ok()?;
            connection.set_read_timeout(Some(PATIENCE)).unwrap();
            let lines = BufReader::new(&connection).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            // HAProxy looks whether somebody is there.
            write!(&connection, "HTTP/1.0 200 OK\r\n\r\n").unwrap();
            head.first()?.contains("forwarded1").then_some(head)
        });
        let lines = head.iter().map(|line| line.to_ascii_lowercase());
        let values = lines.filter_map(|line| Some(line.strip_prefix("x-forwarded-for: ")?.to_owned()));
        let forwarded = values.collect::<Vec<_>>().join(", ");
        assert_eq!(forwarded, "192.0.2.1, 127.0.0.1");
    }
}

#[test]
fn several_topics_come_through_one_proxy_and_are_refused_where_they_belong_to_several_instances() {
    type Start = fn(&str, [SocketAddr; 2]) -> Proxy;
    for (start, one, several) in
        [(nginx as Start, NGINX, NGINX_INSTANCES), (haproxy, HAPROXY, HAPROXY_INSTANCES)]
    {
        let server = Server::start(&[]);
        let proxy = start(one, [server.address; 2]);
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.address);
        for path in ["/subscribe?topic=several1&topic=several2", "/subscribe/?topic=several1&topic=several2"]
        {
            let mut stream = Stream::send(proxy.address, &get(path));
            for topic in ["several1", "several2"] {
                assert_eq!(proxy.publish(topic, &format!("data: {topic}")).status, 200);
                assert_eq!(stream.event().data, topic);
            }
        }
        let proxy = start(several, [server.address; 2]);
        for path in ["/subscribe?topic=several1", "/subscribe/?topic=several1", "/subscribe", "/subscribe/"] {
            let answer = Answer::parse(&exchange(proxy.address, "GET", path, &[], ""));
            assert_eq!(
                (answer.status, answer.field("Access-Control-Allow-Origin")),
                (400, Some("*")),
                "{path}"
            );
            assert!(answer.body.contains("open a stream for each"), "{answer:?}");
        }
    }
}

#[test]
fn a_tree_of_topics_belongs_to_one_instance() {
    let servers = [Server::start(&["--namespaces"]), Server::start(&["--namespaces"])];
    let addresses = [servers[0].address, servers[1].address];
    for proxy in [nginx(NGINX_INSTANCES, addresses), haproxy(HAPROXY_INSTANCES, addresses)] {
        for n in 0..10 {
            let mut parent = proxy.subscribe(&format!("tree{n}"), "");
            assert_eq!(proxy.publish(&format!("tree{n}/below/it"), &format!("data: {n}")).status, 200);
            assert_eq!(parent.event().data, n.to_string());
        }
    }
}

#[test]
fn haproxy_sends_nothing_new_to_a_server_that_drains() {
    let server = Server::start(&["--drain-delay", "1h"]);
    let proxy = haproxy(HAPROXY, [server.address; 2]);
    let mut stream = proxy.subscribe("draining1", "");
    assert_eq!(proxy.publish("draining1", "data: before").status, 200);
    server.terminate();
    wait_until("the check has noticed", || proxy.publish("draining1", "data: meanwhile").status == 503);
    assert_eq!(exchange(proxy.address, "GET", "/subscribe/draining1", &[], ""), "");
    // What is there is let be, and the server itself still serves.
    assert_eq!(server.post("/publish/draining1", "data: last").status, 200);
    assert_eq!(stream.event().data, "before");
    while stream.event().data != "last" {}
}

#[test]
fn the_access_log_of_nginx_holds_no_token() {
    for config in [NGINX, NGINX_INSTANCES] {
        let server = Server::start(&[]);
        let proxy = nginx(config, [server.address; 2]);
        let answer = exchange(proxy.address, "POST", "/publish/logging01?token=secret", &[], "data: x");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let log = eventually("the request is logged", || {
            let log = fs::read_to_string(proxy.dir.0.join("access.log")).ok()?;
            log.ends_with('\n').then_some(log)
        });
        assert!(log.contains("POST /publish/logging01 200") && !log.contains("secret"), "{log}");
    }
}

#[test]
fn nginx_sends_a_topic_to_one_instance_whatever_the_route() {
    let servers = [Server::start(&[]), Server::start(&[])];
    let proxy = nginx(NGINX_INSTANCES, [servers[0].address, servers[1].address]);
    topics_are_spread_and_meet(&proxy, &servers);

    // However it is spelt. nginx cannot lower-case, so capitals are refused, however they are spelt.
    let mut stream = proxy.subscribe("%73pelling", "");
    assert_eq!(proxy.publish("spellin%67", "data: x").status, 200);
    assert_eq!(stream.event().data, "x");
    for topic in ["Spelling", "spellinG", "%53pelling"] {
        let answer = proxy.publish(topic, "data: x");
        assert_eq!((answer.status, answer.field("Access-Control-Allow-Origin")), (400, Some("*")), "{topic}");
        assert!(answer.body.contains("write it in lower case"), "{answer:?}");
    }
}

#[test]
fn haproxy_sends_a_topic_to_one_instance_whatever_the_route() {
    let servers = [Server::start(&[]), Server::start(&[])];
    let proxy = haproxy(HAPROXY_INSTANCES, [servers[0].address, servers[1].address]);
    topics_are_spread_and_meet(&proxy, &servers);

    for (subscribed, published) in
        [("%73pelling", "spelling"), ("Spelling", "spelling"), ("%53pelling", "sPELLing")]
    {
        let mut stream = proxy.subscribe(subscribed, "");
        assert_eq!(proxy.publish(published, &format!("data: {published}")).status, 200);
        assert_eq!(stream.event().data, published);
    }
}

fn topics_are_spread_and_meet(proxy: &Proxy, servers: &[Server; 2]) {
    for n in 0..40 {
        let topic = format!("sharded{n}");
        let mut stream = proxy.subscribe(&topic, "");
        assert_eq!(stream.head.status, 200, "{:?}", stream.head);
        assert_eq!(proxy.publish(&topic, &format!("data: {n}")).status, 200);
        assert_eq!(stream.event().data, n.to_string());
    }
    for server in servers {
        assert!(server.stats()["published"].as_u64().unwrap() > 0, "each has topics");
    }
    // These are each instance's own.
    for path in ["/stats", "/healthz"] {
        assert_eq!(Answer::parse(&exchange(proxy.address, "GET", path, &[], "")).status, 404, "{path}");
    }
}

fn last_event(stream: &mut Stream) -> Event {
    let mut last = Event::default();
    while let Some(event) = stream.next_event() {
        last = event;
    }
    last
}
