//! `/metrics`: what Prometheus and its tools make of it, and the dashboard of what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::support::nats::Nats;
use crate::support::tokens::{PUBLISHER, bearer, token};
use crate::support::{Answer, Server, Stream, TempDir, check_refusal, connect, eventually, wait_until};

const DOCUMENT: &str = include_str!("../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../deploy/grafana.json");

/// What docs/metrics.md has for the `sub` of a scraper's token: it can be no topic.
const NO_TOPIC: &str = "(none)";

/// A broker that is not there.
const NOBODY: &str = "amqp://guest:hunter2@127.0.0.1:1/";

/// A server with each part that has metrics of its own, and the directory of its journal.
fn start_with_all_parts(variables: &[(&str, &str)]) -> (TempDir, Server) {
    let dir = TempDir::new();
    let data = dir.0.join("data");
    let log = dir.0.join("access.log");
    let flags = ["--threads", "2", "--broker-node", NOBODY, "--data-dir", data.to_str().unwrap()];
    let flags = [&flags[..], &["--access-log", log.to_str().unwrap()]].concat();
    let server = Server::start_with(&flags, variables);
    (dir, server)
}

/// A node of a cluster, which has no journal of its own, and its NATS server.
fn start_node() -> (Nats, Server) {
    let nats = Nats::start(1);
    let urls = format!("nats://esper:esper@{}", nats.address(0));
    let server =
        Server::start_with(&["--threads", "2", "--cluster-replicas", "1"], &[("ESPER_CLUSTER", &urls)]);
    (nats, server)
}

/// A scrape: the value of each series, by its name and labels as they stand there.
fn scrape(server: &Server) -> BTreeMap<String, f64> {
    let answer = server.get("/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// The names of its series, without labels.
fn names(scrape: &BTreeMap<String, f64>) -> BTreeSet<&str> {
    scrape.keys().map(|series| series.split('{').next().unwrap()).collect()
}

/// The sum over all shards.
fn sum(scrape: &BTreeMap<String, f64>, name: &str) -> f64 {
    let start = format!("{name}{{shard=");
    let values: Vec<_> = scrape.iter().filter(|(series, _)| series.starts_with(&start)).collect();
    assert!(!values.is_empty(), "no {name} in {scrape:?}");
    values.into_iter().map(|(_, value)| value).sum()
}

#[test]
fn promtool_finds_nothing_to_say() {
    let (_dir, server) = start_with_all_parts(&[]);
    let mut stream = Stream::open(&server, "/subscribe/promtool1");
    assert_eq!(server.post("/publish/promtool1", "data: x").status, 200);
    assert_eq!(stream.event().data, "x");
    let answer = server.get("/metrics");
    assert_eq!(answer.field("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let said = promtool(&["check", "metrics"], &answer.body);
    assert!(said.status.success() && said.stdout.is_empty() && said.stderr.is_empty(), "{said:?}");
    // It would say something of metrics that are not as they should be.
    let worse = answer.body.replace("esper_published_events_total", "esper_published_events");
    assert!(!promtool(&["check", "metrics"], &worse).status.success());
}

fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is installed");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn metrics_move_by_what_was_published_delivered_and_refused() {
    let server = Server::start(&["--threads", "2"]);
    let before = scrape(&server);
    for name in ["esper_subscribers", "esper_published_events_total", "esper_publish_to_send_seconds_count"] {
        assert_eq!(sum(&before, name), 0.0, "{name}");
    }

    let topics = ["counted01", "counted02", "counted03"];
    let mut streams: Vec<_> = topics
        .iter()
        .flat_map(|topic| [topic, topic])
        .map(|topic| Stream::open(&server, &format!("/subscribe/{topic}")))
        .collect();
    for topic in topics {
        assert_eq!(server.post(&format!("/publish/{topic}"), "data: 1\n\ndata: 2").status, 200);
    }
    for stream in &mut streams {
        assert_eq!((stream.event().data, stream.event().data), ("1".to_owned(), "2".to_owned()));
    }
    assert_eq!(server.post("/publish/counted01", "event: without data").status, 400);

    // What the kernel took of a send is counted after the client may have it.
    let after = eventually("all is counted", || {
        let after = scrape(&server);
        let is_all = sum(&after, "esper_delivered_events_total") >= 12.0
            && sum(&after, "esper_topics") >= 3.0
            && sum(&after, "esper_refused_requests_total") >= 1.0;
        is_all.then_some(after)
    });
    for (name, value) in [
        ("esper_subscribers", 6.0),
        ("esper_topics", 3.0),
        ("esper_published_events_total", 6.0),
        ("esper_delivered_events_total", 12.0),
        ("esper_refused_requests_total", 1.0),
        ("esper_evicted_subscribers_total", 0.0),
    ] {
        assert_eq!(sum(&after, name), value, "{name}");
    }
    // Whoever asks is a connection that is no stream; the one before may not be gone yet.
    assert!(sum(&after, "esper_connections") >= 1.0);
    assert!(sum(&after, "esper_sent_bytes_total") > 12.0 * "data: 1\n\n".len() as f64);
    assert!(sum(&after, "esper_history_bytes") > 0.0 && after["esper_held_bytes"] > 0.0);
    // One for each send, which may cover both events.
    let sends = sum(&after, "esper_publish_to_send_seconds_count");
    assert!((6.0..=12.0).contains(&sends), "{sends}");
    assert!(sum(&after, "esper_publish_to_send_seconds_sum") > 0.0);
    for shard in [0, 1] {
        let all = format!("esper_publish_to_send_seconds_bucket{{le=\"+Inf\",shard=\"{shard}\"}}");
        assert_eq!(after[&all], after[&format!("esper_publish_to_send_seconds_count{{shard=\"{shard}\"}}")]);
    }
    assert_eq!(after["esper_start_time_seconds"], before["esper_start_time_seconds"]);

    drop(streams);
    wait_until("nobody is left", || sum(&scrape(&server), "esper_subscribers") == 0.0);
}

#[test]
fn metrics_need_the_publishers_token_when_a_secret_is_set() {
    let server = Server::start_with(&[], &[("ESPER_PUBLISHER_SECRET", PUBLISHER)]);
    check_refusal(&server.get("/metrics"), 401, "no token");
    check_refusal(&server.get("/metrics?token=x"), 401, "malformed token");
    assert!(DOCUMENT.contains(&format!("esper token --publish --sub '{NO_TOPIC}'")));
    let bearer = bearer(&token(PUBLISHER, NO_TOPIC));
    assert_eq!(server.request("GET", "/metrics", &[&bearer], "").status, 200);
    // This token is for nothing else.
    check_refusal(&server.request("POST", "/publish/anytopic1", &[&bearer], "data: x"), 403, "another topic");
}

#[test]
fn what_becomes_of_queues_is_counted_in_metrics_and_variables_alike() {
    let server = Server::start(&["--broker-node", NOBODY]);
    let before = scrape(&server);
    assert_eq!((before["esper_brokers"], before["esper_brokers_connected"]), (1.0, 0.0));
    assert_eq!(before["esper_queue_refused_requests_total"], 0.0);
    // For now: its page is told to come back.
    assert!(server.get("/?id=alice").body.contains("retry:"));
    assert_eq!(scrape(&server)["esper_queue_refused_requests_total"], 1.0);
    let vars = vars(&server.get("/debug/vars"));
    assert_eq!(vars["eventsourced"]["Broker"], json!({"Configured": 1, "Connected": 0}));
    assert_eq!(vars["eventsourced"]["Consumer"], json!({"Open": 0, "Refused": 1}));
    let alone = Server::start(&[]);
    assert!(names(&scrape(&alone)).iter().all(|name| !name.contains("queue") && !name.contains("broker")));
}

fn vars(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.field("Content-Type"), Some("application/json"));
    serde_json::from_str(&answer.body).unwrap()
}

#[test]
fn the_variables_of_a_server_without_a_broker_are_all_there_and_zeros() {
    for flags in [&[][..], &["--broker-node", NOBODY]] {
        let server = Server::start(flags);
        let mut vars = vars(&server.get("/debug/vars"));
        assert_eq!(vars["version"], env!("CARGO_PKG_VERSION"));
        assert!(vars["eventsourced"]["Uptime"].is_u64(), "{vars}");
        vars["eventsourced"]["Uptime"] = 0.into();
        let zeros = json!({
            "Broker": {"Configured": flags.len() / 2, "Connected": 0},
            "Consumer": {"Open": 0, "Refused": 0},
            "Delivery": {
                "Delivered": 0,
                "Redelivered": 0,
                "Acknowledged": 0,
                "AcknowledgedUnsent": 0,
                "Published": 0,
            },
            "Uptime": 0,
        });
        assert_eq!(vars["eventsourced"], zeros);
    }
}

#[test]
fn the_variables_show_the_command_line_without_secrets() {
    let secret = "a-secret-of-32-characters-session";
    let server = Server::start(&["--broker-node", NOBODY, "--session-secret", secret]);
    let answer = server.get("/debug/vars");
    let vars = vars(&answer);
    let cmdline: Vec<_> =
        vars["cmdline"].as_array().unwrap()[1..].iter().map(|arg| arg.as_str().unwrap()).collect();
    let masked = ["--broker-node", "amqp://***@127.0.0.1:1/", "--session-secret", "***", "--port", "0"];
    assert_eq!(cmdline, masked);
    assert!(!answer.body.contains("hunter2") && !answer.body.contains(secret), "{answer:?}");
}

#[test]
fn the_variables_are_for_those_who_run_it_alone() {
    let server = Server::start_with(&[], &[("ESPER_PUBLISHER_SECRET", PUBLISHER)]);
    check_refusal(&server.get("/debug/vars"), 401, "no token");
    let answer = server.get(&format!("/debug/vars?token={}", token(PUBLISHER, NO_TOPIC)));
    assert_eq!((answer.status, answer.field("Access-Control-Allow-Origin")), (200, None), "no page reads it");
    let answer = server.post("/debug/vars", "x");
    assert_eq!((answer.status, answer.field("Allow")), (405, Some("GET, HEAD, OPTIONS")));
    for path in ["/debug", "/debug/", "/debug/vars/", "/debug/pprof"] {
        check_refusal(&server.get(path), 404, "no such path");
    }
}

#[test]
fn docs_metrics_md_names_every_metric_with_its_type_and_meaning() {
    let (_dir, server) = start_with_all_parts(&[]);
    let (_nats, node) = start_node();
    let body = server.get("/metrics").body + &node.get("/metrics").body;
    let comments = |kind: &str| -> BTreeMap<String, String> {
        let lines = body.lines().filter_map(|line| line.strip_prefix(kind)?.split_once(' '));
        lines.map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
    };
    let (types, helps) = (comments("# TYPE "), comments("# HELP "));
    assert!(types.len() > 10, "{types:?}");
    let mut told = BTreeSet::new();
    for row in DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")) {
        let [name, kind, meaning] = row.split(" | ").collect::<Vec<_>>()[..] else { panic!("{row}") };
        let name = name.trim_end_matches('`');
        assert_eq!(types.get(name).map(String::as_str), Some(kind), "{name}");
        // What it says of its label differs.
        if name != "esper_build_info" {
            assert_eq!(helps.get(name).map(String::as_str), Some(meaning), "{name}");
        }
        told.insert(name);
    }
    assert_eq!(told, types.keys().map(String::as_str).collect());
}

/// Every query of the dashboard: those of its panels, and those that fill its variables.
fn queries(dashboard: &Value) -> Vec<&str> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let queries =
        targets.map(|target| &target["expr"]).chain(variables.map(|variable| &variable["query"]["query"]));
    queries.map(|query| query.as_str().unwrap()).collect()
}

#[test]
fn every_metric_that_the_dashboard_asks_for_is_there() {
    let (_dir, server) = start_with_all_parts(&[]);
    let (_nats, node) = start_node();
    let mut scraped = scrape(&server);
    scraped.append(&mut scrape(&node));
    let names = names(&scraped);
    let dashboard = serde_json::from_str(DASHBOARD).unwrap();
    for query in queries(&dashboard) {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics: Vec<_> = words.filter(|word| word.starts_with("esper_")).collect();
        assert!(!metrics.is_empty(), "{query}");
        for metric in metrics {
            assert!(names.contains(metric), "{metric} of {query}");
        }
    }
}

/// Grafana asks for the data source when it is imported, and puts it in the place of `${DS_PROMETHEUS}`.
#[test]
fn the_dashboard_takes_its_data_source_from_whoever_imports_it() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    assert_eq!(dashboard["__inputs"][0]["name"], "DS_PROMETHEUS");
    assert_eq!(dashboard["__inputs"][0]["pluginId"], "prometheus");
    assert_eq!(dashboard["id"], Value::Null, "Grafana gives it one");
    let source = json!({"type": "prometheus", "uid": "${DS_PROMETHEUS}"});
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        assert_eq!(variable["datasource"], source);
    }
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = &panel["title"];
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title} has an id of its own");
        assert_eq!(panel["datasource"], source, "{title}");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"], source, "{title}");
        }
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().unwrap());
        assert!(x + w <= 24, "{title} is within the 24 columns");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} covers no other panel");
        }
    }
}

#[test]
fn prometheus_scrapes_as_the_docs_say_and_answers_every_query_of_the_dashboard() {
    let (_dir, server) = start_with_all_parts(&[("ESPER_PUBLISHER_SECRET", PUBLISHER)]);
    let prometheus = Prometheus::start(server.address);
    let mut stream = Stream::open(&server, "/subscribe/scraped01");
    let path = format!("/publish/scraped01?token={}", token(PUBLISHER, "scraped01"));
    assert_eq!(server.post(&path, "data: x").status, 200);
    assert_eq!(stream.event().data, "x");

    for (query, value) in [
        ("up", "1"),
        ("sum(esper_subscribers)", "1"),
        ("sum(esper_published_events_total)", "1"),
        ("sum without (shard) (esper_subscribers)", "1"),
    ] {
        eventually(query, || {
            let result = prometheus.query(query);
            (result.pointer("/0/value/1")? == value).then_some(())
        });
    }
    let metadata = prometheus.get("/api/v1/metadata");
    assert_eq!(metadata["data"]["esper_published_events_total"][0]["type"], "counter");
    assert_eq!(metadata["data"]["esper_publish_to_send_seconds"][0]["type"], "histogram");

    let dashboard = serde_json::from_str(DASHBOARD).unwrap();
    // A node of a cluster has no journal, which this server has.
    for query in queries(&dashboard).into_iter().filter(|query| !query.contains("esper_cluster_")) {
        // What Grafana itself puts in and takes away.
        let query = query.replace("$__rate_interval", "10s").replace("$__range", "10s");
        let query = query.replace("$job", "esper").replace("$instance", ".*");
        let query =
            query.strip_prefix("label_values(").map_or(&*query, |rest| rest.rsplit_once(',').unwrap().0);
        wait_until(query, || !prometheus.query(query).as_array().unwrap().is_empty());
    }
}

/// A Prometheus of its own, which scrapes one server; killed when dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    dir: TempDir,
}

impl Prometheus {
    /// Starts one with the configuration of docs/metrics.md, and waits until it is ready.
    fn start(server: SocketAddr) -> Prometheus {
        let (_, rest) = DOCUMENT.split_once("```yaml\n").unwrap();
        let (config, _) = rest.split_once("```").unwrap();
        // Between the look for a free port and Prometheus somebody else may take it.
        for _ in 0..5 {
            let dir = TempDir::new();
            let path = |name: &str| dir.0.join(name).to_str().unwrap().to_owned();
            // The line's end is Prometheus's to ignore.
            fs::write(path("token"), token(PUBLISHER, NO_TOPIC) + "\n").unwrap();
            let mut config = format!("global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n{config}");
            for (from, to) in
                [("/etc/prometheus/esper.token", path("token")), ("127.0.0.1:3000", server.to_string())]
            {
                assert!(config.contains(from), "no {from} in {config}");
                config = config.replace(from, &to);
            }
            fs::write(path("prometheus.yml"), config).unwrap();
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let child = Command::new("prometheus")
                .arg(format!("--config.file={}", path("prometheus.yml")))
                .arg(format!("--storage.tsdb.path={}", path("data")))
                .arg(format!("--web.listen-address={address}"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(path("stderr")).unwrap())
                .spawn()
                .expect("prometheus is installed");
            let mut prometheus = Prometheus { child, address, dir };
            if prometheus.is_ready() {
                return prometheus;
            }
            let errors = fs::read_to_string(prometheus.dir.0.join("stderr")).unwrap();
            assert!(errors.contains("address already in use"), "{errors}");
        }
        panic!("no port was free for long enough");
    }

    fn is_ready(&mut self) -> bool {
        eventually("Prometheus is ready", || match self.child.try_wait().unwrap() {
            Some(_) => Some(false),
            None => {
                TcpStream::connect(self.address).ok()?;
                (self.request("/-/ready").status == 200).then_some(true)
            }
        })
    }

    /// What a query finds now.
    fn query(&self, query: &str) -> Value {
        let path = format!("/api/v1/query?query={}", utf8_percent_encode(query, NON_ALPHANUMERIC));
        let mut answer = self.get(&path);
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].take()
    }

    fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.request(path).body).unwrap()
    }

    /// By HTTP/1.0, whose answers are never chunked.
    fn request(&self, path: &str) -> Answer {
        let mut connection = connect(self.address);
        connection.write_all(format!("GET {path} HTTP/1.0\r\nHost: h\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        Answer::parse(&answer)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
