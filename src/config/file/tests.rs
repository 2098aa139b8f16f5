//! Files as a person writes them, and the configuration or the refusal they give.

mod warnings;

use std::ffi::OsString;
use std::time::Duration;

use proptest::prelude::*;

use super::super::keys::tests::{TempFile, parse, parse_with_warnings};
use super::super::{Config, ConfigError, Queues};
use super::*;

/// The configuration file of eventsourced, as its documentation has it.
const SEED: &str = include_str!("../../../tests/eventsourced.yml");

/// Returns the configuration of these files, flags and variables, and the warnings; a refusal names the files `1`, `2`,
/// ...
fn read(files: &[&str], line: &str, variables: &[(&str, &str)]) -> Result<(Config, Vec<String>), String> {
    let files: Vec<TempFile> = files.iter().map(TempFile::new).collect();
    let places: Vec<PathBuf> = files.iter().map(|file| file.path().into()).collect();
    let args = ["esper"].into_iter().chain(line.split_whitespace()).map(OsString::from).collect();
    let env = |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into());
    parse_with_warnings(args, &env, &places).map_err(|error| {
        assert_eq!(error.exit_code(), 2, "{error}");
        files
            .iter()
            .zip(1..)
            .fold(error.to_string(), |text, (file, number)| text.replace(file.path(), &number.to_string()))
    })
}

fn config(files: &[&str], line: &str, variables: &[(&str, &str)]) -> Config {
    read(files, line, variables).unwrap().0
}

fn queues(text: &str) -> Queues {
    config(&[text], "--broker-node amqp://localhost/", &[]).queues.unwrap()
}

fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

#[test]
fn eventsourceds_own_file_means_what_it_says() {
    let config = config(&[SEED], "", &[]);
    assert_eq!((config.addresses()[0].to_string().as_str(), config.port), ("0.0.0.0:2069", 2069));
    let queues = config.queues.unwrap();
    let nodes: Vec<&str> = queues.nodes.iter().map(|node| node.expose()).collect();
    let [first, other] = ["amqp://guest:guest@10.0.0.11:5672/", "amqp://guest:guest@10.0.0.55:5672/"];
    assert_eq!(nodes, [first, first, other]);
    assert_eq!((queues.pattern.to_string().as_str(), queues.path.as_str()), ("${query:id}", "/"));
    assert_eq!(queues.expire, Duration::from_secs(1800));
    let pairs = |headers: &[(&str, &str)]| -> Vec<(String, String)> {
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(
        queues.headers_cors,
        pairs(&[
            ("Access-Control-Allow-Origin", "*"),
            ("Access-Control-Allow-Methods", "GET, OPTIONS"),
            ("Access-Control-Allow-Headers", "Content-Type, Accept, Cache-Control"),
        ])
    );
    assert_eq!(
        queues.headers_sse,
        pairs(&[
            ("Content-Type", "text/event-stream; charset=utf-8"),
            ("Cache-Control", "no-cache"),
            ("X-Accel-Buffering", "no"),
            ("Transfer-Encoding", "identity"),
        ])
    );
}

#[test]
fn the_example_of_the_documentation_has_every_key_and_says_the_defaults() {
    let text = include_str!("../../../docs/config.yml");
    let Err(ConfigError::Help(defaults)) = parse("-c --broker-node amqp://h", &[]) else { panic!("no dump") };
    let keys = |text: &str| -> Vec<String> {
        let root = yaml::parse(text).unwrap().value.entries();
        let below = |(key, node): (YamlKey, YamlNode)| {
            let inner = node.value.entries().into_iter().map(|(inner, _)| inner.name);
            inner.map(|inner| format!("{}.{inner}", key.name)).chain([key.name.clone()]).collect::<Vec<_>>()
        };
        root.into_iter().flat_map(below).collect()
    };
    let (dumped, written) = (keys(&defaults), keys(text));
    let missing: Vec<&String> = dumped.iter().filter(|key| !written.contains(key)).collect();
    assert!(missing.is_empty(), "docs/config.yml has no {missing:?}");
    // A dump is complete too.
    let command = super::super::cli::command();
    for arg in command.get_arguments().filter(|arg| arg.get_long().is_some_and(is_key)) {
        let (id, flag) = (arg.get_id().as_str(), arg.get_long().unwrap());
        let key = if id.contains('.') { id } else { flag }.to_owned();
        let apart = ["port", "session-secret"].contains(&flag);
        assert!(apart || dumped.contains(&key), "--dump-config shows no {key}");
    }

    // Unchanged it gives the configuration without it, also where a flag names a broker.
    let file = TempFile::new(text);
    for flags in ["", "--broker-node amqp://h"] {
        let with_file = parse(&format!("--config {} {flags}", file.path()), &[]).unwrap();
        assert_eq!(with_file, parse(flags, &[]).unwrap());
    }
}

#[test]
fn files_are_looked_for_where_both_programs_have_them_and_beside_the_binary() {
    let places = places();
    let places: Vec<&str> = places.iter().map(|place| place.to_str().unwrap()).collect();
    let beside = std::env::current_exe().unwrap().parent().unwrap().join("config.yml");
    let known = ["/usr/lib/esper/config.yml", "/etc/eventsourced/config.yml", "/etc/esper/config.yml"];
    assert_eq!(places, [&known[..], &[beside.to_str().unwrap()]].concat());
}

#[test]
fn what_is_above_stands_over_what_is_below_entry_by_entry() {
    let port = |files: &[&str], line: &str, variables: &[(&str, &str)]| config(files, line, variables).port;
    let variable = [("ESPER_PORT", "4")];
    let named = TempFile::new("port: 3");
    let line = format!("--config {}", named.path());
    assert_eq!(port(&[], "", &[]), 3000);
    assert_eq!(port(&["port: 1"], "", &[]), 1);
    assert_eq!(port(&["port: 1", "port: 2"], "", &[]), 2);
    assert_eq!(port(&["port: 1", "port: 2", "log-level: debug"], "", &[]), 2);
    assert_eq!(port(&["port: 1", "port: 2"], &line, &[]), 3);
    assert_eq!(port(&["port: 1"], "", &[("ESPER_CONFIG", named.path())]), 3);
    let other = TempFile::new("port: 9");
    assert_eq!(port(&[], &line, &[("ESPER_CONFIG", other.path())]), 3);
    assert_eq!(port(&["port: 1", "port: 2"], &line, &variable), 4);
    assert_eq!(port(&["port: 1", "port: 2"], &format!("{line} --port 5"), &variable), 5);
    assert_eq!(port(&["port: 1", "port: null"], "", &[]), 3000, "null takes away what is below");
}

#[test]
fn switches_and_lists_of_a_file_give_way_as_a_whole_and_an_address_ip_and_port_by_themselves() {
    let on_off = ["namespaces: true", "namespaces: off"];
    assert!(!config(&on_off, "", &[]).namespaces);
    assert!(config(&on_off, "--namespaces", &[]).namespaces);
    assert!(!config(&["namespaces: yes"], "", &[("ESPER_NAMESPACES", "false")]).namespaces);

    let proxies = |files: &[&str], line: &str| -> Vec<String> {
        config(files, line, &[]).trusted_proxies.iter().map(ToString::to_string).collect()
    };
    let lists = ["trusted-proxy: [10.0.0.1, 10.0.0.2]", "trusted-proxy:\n- 10.0.0.3"];
    assert_eq!(proxies(&lists, ""), ["10.0.0.3/32"]);
    assert_eq!(proxies(&["trusted-proxy: '10.0.0.1, 10.0.0.2'"], ""), ["10.0.0.1/32", "10.0.0.2/32"]);
    assert_eq!(proxies(&[lists[0], "trusted-proxy: []"], ""), [""; 0]);
    assert_eq!(proxies(&lists, "--trusted-proxy 10.0.0.4"), ["10.0.0.4/32"]);

    let address = "server: {address: '0.0.0.0:2069'}";
    for (files, line, variables, expected) in [
        (&[address][..], "", &[][..], "0.0.0.0:2069"),
        (&[address], "--port 0", &[], "0.0.0.0:0"),
        (&[address], "", &[("ESPER_PORT", "1")], "0.0.0.0:1"),
        (&[address, "port: 1"], "", &[], "0.0.0.0:1"),
        (&[address], "--bind ::1", &[], "[::1]:2069"),
        (&[address], "--bind ::1 --port 2", &[], "[::1]:2"),
        (&[address], "", &[("ESPER_BIND", "::1")], "[::1]:2069"),
        (&[address, "bind: 127.0.0.1"], "", &[], "127.0.0.1:2069"),
        (&["port: 1"], "--bind 0.0.0.0:2", &[], "0.0.0.0:2"),
        (&["port: 1"], "", &[("ESPER_BIND", "::")], "[::]:1"),
        (&["server: {address: ':2069'}"], "", &[], "[::]:2069"),
        (&[address], "-bind :8000", &[], "[::]:8000"),
        (&["server: {address: ['0.0.0.0:1', '[::]:2']}"], "", &[], "0.0.0.0:1 [::]:2"),
        (&["server: {address: ['0.0.0.0:1', '[::1]:2']}"], "--port 3", &[], "0.0.0.0:3 [::1]:3"),
        (&["bind: [0.0.0.0, 'unix:/run/a']"], "--port 3", &[], "0.0.0.0:3 unix:/run/a"),
        (&[address], "--bind unix:/run/a", &[], "unix:/run/a"),
        (&[address], "", &[("ESPER_BIND", "unix:/run/a, [::1]:5, ::1")], "unix:/run/a [::1]:5 [::1]:2069"),
        (&[address], "-b 127.0.0.1 -b [::1]:5", &[("ESPER_BIND", "::")], "127.0.0.1:2069 [::1]:5"),
    ] {
        let config = config(files, line, variables);
        let addresses: Vec<String> = config.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses.join(" "), expected, "{files:?} {line}");
    }
    assert_eq!(config(&["threads: 1"], "", &[("ESPER_CORES", "1")]).cpus.ids.len(), 1);
}

#[test]
fn a_secret_stands_in_a_file_of_its_own_which_a_file_names() {
    let secret = TempFile::new("a-secret-of-these-tests-and-of-nothing-else");
    let file = format!("publisher-secret-file: {}\n", secret.path());
    let current = |variables: &[(&str, &str)]| {
        let pair = config(&[&file], "", variables).auth.publisher.secret.unwrap();
        String::from_utf8(pair.current.expose().to_vec()).unwrap()
    };
    assert_eq!(current(&[]), "a-secret-of-these-tests-and-of-nothing-else");
    assert_eq!(current(&[("ESPER_PUBLISHER_SECRET", "over it")]), "over it");
    let refused = read(&[&file], "", &[("ESPER_PUBLISHER_SECRET_PREVIOUS", "before")]).unwrap_err();
    let both = "ESPER_PUBLISHER_SECRET_PREVIOUS and 1:1 publisher-secret-file do not go together; ";
    assert!(refused.starts_with(both), "{refused}");

    let warned = read(&["# none\nsession-secret-file: /nowhere\n"], "", &[]).unwrap_err();
    assert!(warned.starts_with("1:2 session-secret-file: /nowhere: No such file"), "{warned}");
}

#[test]
fn headers_are_overwritten_one_by_one_and_their_values_are_texts() {
    let lower = "header: {sse: {cache-control: no-store, X-Accel-Buffering: ~, X-A: 1.0, X-B: yes}}\n";
    let upper =
        "header:\n  sse:\n    X-A: 0x10\n  cors:\n    Access-Control-Allow-Origin: https://a.example\n";
    let headers = config(&[lower, upper], "--broker-node amqp://localhost/", &[]).queues.unwrap();
    let sse: Vec<String> =
        headers.headers_sse.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    assert_eq!(
        sse,
        [
            "Content-Type: text/event-stream; charset=utf-8",
            "cache-control: no-store",
            "X-A: 0x10",
            "X-B: yes"
        ]
    );
    assert_eq!(header(&headers.headers_cors, "Access-Control-Allow-Origin"), Some("https://a.example"));
    assert_eq!(header(&headers.headers_cors, "Access-Control-Allow-Methods"), Some("GET, OPTIONS"));
}

#[test]
fn rules_bind_exchanges_to_topics() {
    let text = "
queue:
  subscribe:
    - exchange: amq.topic
      routing_key: orders.#
      topic: orders/${routing_key}
    - {exchange: news, topic: newspaper1}
";
    let rules =
        config(&[text], "--broker-node amqp://localhost/ --namespaces", &[]).queues.unwrap().subscribe;
    let shown: Vec<[&str; 3]> =
        rules.iter().map(|rule| [&*rule.exchange, &*rule.routing_key, &*rule.topic]).collect();
    assert_eq!(shown, [["amq.topic", "orders.#", "orders/${routing_key}"], ["news", "#", "newspaper1"]]);
    assert_eq!(queues("queue: {subscribe: null}\n").subscribe, []);
    let without = "queue: {subscribe: [{exchange: e, topic: '${routing_key}'}]}";
    assert_eq!(queues(without).subscribe[0].topic, "${routing_key}", "its messages may have such keys");
}

#[test]
fn a_comma_of_a_password_parts_no_urls() {
    let text = "broker: {node: ['amqp://a:b,c@localhost/']}";
    let queues = config(&[text], "", &[]).queues.unwrap();
    assert_eq!(
        queues.nodes.iter().map(|node| node.expose()).collect::<Vec<_>>(),
        ["amqp://a:b%2Cc@localhost/"]
    );
}

#[test]
fn what_is_wrong_is_named_by_file_line_and_key_with_the_mend() {
    for (text, refused) in [
        ("\nprot: 1\n", "1:2 prot: unknown key; there is port, and esper config dump shows all there are"),
        (
            "history_events: 1",
            "1:1 history_events: unknown key; there is history-events, and esper config dump shows all",
        ),
        ("é\u{7}: 1", "1:1: not YAML: "),
        ("zzzzzzz: 1", "1:1 zzzzzzz: unknown key; esper config dump shows all there are"),
        ("config: /a", "1:1 config: unknown key; "),
        ("dump-config: true", "1:1 dump-config: unknown key; "),
        ("help: true", "1:1 help: unknown key; "),
        (
            "publisher-secret: hunter2",
            "1:1 publisher-secret: a secret, which does not stand in this file; write it into one of its own \
             and name that by publisher-secret-file, or set ESPER_PUBLISHER_SECRET",
        ),
        ("session-secret: hunter2", "1:1 session-secret: a secret, which does not stand in this file; "),
        ("secret: hunter2", "1:1 secret: a secret, which does not stand in this file; "),
        ("SUBSCRIBER_SECRET_PREVIOUS: hunter2", "1:1 SUBSCRIBER_SECRET_PREVIOUS: a secret, which does not"),
        ("port: 1\nport: 1", "1:2: port: there twice; keep one of them"),
        ("port: 65536", "1:1 port: 65536: not a port; write a number from 0 to 65535, 0 is any free port"),
        ("heartbeat: 15", "1:1 heartbeat: 15: no unit; write 15s or 15ms"),
        ("slow-policy: kill", "1:1 slow-policy: kill: not one of its values; write cut or skip"),
        ("takeover: maybe", "1:1 takeover: maybe: not a yes or no; write true or false"),
        ("takeover: ''", "1:1 takeover: '': not a yes or no; write true or false"),
        ("port: ''", "1:1 port: '': not a port; "),
        ("port:", "1:1 port: nothing; write a value, or null for none"),
        ("port: [1]", "1:1 port: a list, where one value is asked for; write the value itself"),
        ("port: {a: 1}", "1:1 port: a mapping, where one value is asked for; write the value itself"),
        (
            "broker:\n  node:\n    - amqp://localhost/\n    - [a]",
            "1:4 broker.node: a list, where one value is asked for; write the value itself",
        ),
        ("broker:\nnode: a", "1:2 node: unknown key; node stands below broker:, indented"),
        ("pattern: a", "1:1 pattern: unknown key; pattern stands below queue:, indented"),
        (
            "trusted-proxy: {a: 1}",
            "1:1 trusted-proxy: a mapping, where one value is asked for; write the value itself",
        ),
        (
            "trusted-proxy: [[::1]]",
            "1:1 trusted-proxy: a list, where one value is asked for; write the value itself",
        ),
        (
            "trusted-proxy:\n  - 10.0.0.1\n  - lb\n",
            "1:3 trusted-proxy: lb: not an address or a network; write 10.0.0.1, 10.0.0.0/8 or fd00::/8",
        ),
        (
            "trusted-proxy:\n  - 10.0.0.1\n  - null\n",
            "1:3 trusted-proxy: null, where one value is asked for; write the value itself",
        ),
        ("cors-origin: []", "1:1 cors-origin: an empty list; write what is meant, or null for the default"),
        ("cors-origin:\n- a.example", "1:1 cors-origin: 'a.example' has no scheme: write it like"),
        (
            "slow-lag: 1MiB\nbody-max: 1MiB",
            "1:1 slow-lag: 1MiB: less than twice 1:2 body-max: 1MiB; \
             raise 1:1 slow-lag to 2MiB, or lower the other",
        ),
        ("threads: 1\ncores: 1", "1:1 threads and 1:2 cores both say how many CPUs; give one of them"),
        (
            "bind: 127.0.0.1:1\nport: 2",
            "1:1 bind: 127.0.0.1:1 and 1:2 port: 2 say two ports; give one of them",
        ),
        (
            "server: {address: '0.0.0.0:1'}\nbind: 0.0.0.0",
            "1:2 bind: line 1 says the same as server.address; keep one of them",
        ),
        (
            "server: {address: 0.0.0.0}",
            "1:1 server.address: 0.0.0.0: no port; write one, such as 0.0.0.0:2069",
        ),
        ("server: {address: 'localhost:1'}", "1:1 server.address: localhost:1: not an address; "),
        ("server: {adress: '0.0.0.0:1'}", "1:1 server.adress: unknown key; server has address"),
        ("server: 0.0.0.0:1", "1:1 server: a text, not keys and values; write them below it, indented"),
        ("broker: {nodes: []}", "1:1 broker.nodes: unknown key; broker has node"),
        (
            "broker:\n  node:\n    - amqp://localhost/\n    - http://guest:hunter2@h/",
            "1:4 broker.node: ***: not a broker's URL; ",
        ),
        (
            "queue:\n  patern: x",
            "1:2 queue.patern: unknown key; \
             queue has pattern, path, expire, prefetch, ack_window, ack_delay, subscribe",
        ),
        ("queue: {expire: 0}", "1:1 queue.expire: 0: not whole seconds, or not 1 second to 49 days, "),
        ("queue: {expire: 1.5s}", "1:1 queue.expire: 1.5s: not whole seconds, or not 1 second to 49 days, "),
        ("queue: {expire: 50d}", "1:1 queue.expire: 50d: not whole seconds, or not 1 second to 49 days, "),
        ("queue: {expire: soon}", "1:1 queue.expire: soon: not a duration; "),
        ("queue: {prefetch: 0}", "1:1 queue.prefetch: 0: not a count; write a whole number from 1 to 65535"),
        ("queue: {prefetch: 65536}", "1:1 queue.prefetch: 65536: not a count; "),
        (
            "queue: {ack_window: -1}",
            "1:1 queue.ack_window: -1: not a count; write a whole number from 0 to 65534",
        ),
        ("queue: {path: a}", "1:1 queue.path: a: not a path; "),
        ("queue: {path: '/a b'}", "1:1 queue.path: /a b: not a path; "),
        ("queue: {path: /a?b}", "1:1 queue.path: /a?b: not a path; "),
        (
            "queue: {path: /publish/x}",
            "1:1 queue.path: /publish/x: /publish is served already; write another, such as / or /queue",
        ),
        ("queue:\n  pattern: ${id}", "1:2 queue.pattern: ${id}: at character 1: neither query nor cookie; "),
        (
            "queue: {pattern: amq.x}\nqueue-pattern: y",
            "1:2 queue-pattern: line 1 says the same as queue.pattern; ",
        ),
        ("queue: {subscribe: x}", "1:1 queue.subscribe: a text, not a list; "),
        ("queue:\n  subscribe:\n    - x", "1:3 queue.subscribe: a text, not keys and values; "),
        ("queue:\n  subscribe:\n    - topic: x", "1:3 queue.subscribe: no exchange; "),
        ("queue:\n  subscribe:\n    - exchange: x", "1:3 queue.subscribe: no topic; "),
        (
            "queue:\n  subscribe:\n    - exchange: ''\n      topic: x",
            "1:3 queue.subscribe.exchange: empty; write the exchange's name, such as amq.topic",
        ),
        (
            "queue:\n  subscribe:\n    - exchange: x\n      key: y",
            "1:4 queue.subscribe.key: unknown key; an entry has exchange, routing_key, topic",
        ),
        (
            "queue:\n  subscribe:\n    - exchange: x\n      topic: short",
            "1:4 queue.subscribe.topic: short: bad topic id: 5 characters; ",
        ),
        (
            "queue:\n  subscribe:\n    - exchange: x\n      topic: orders-${routing_key}",
            "1:4 queue.subscribe.topic: orders-${routing_key}: bad topic id: ",
        ),
        (
            "namespaces: true\nqueue:\n  subscribe:\n    - exchange: x\n      topic: a//${routing_key}",
            "1:5 queue.subscribe.topic: a//${routing_key}: bad topic: ",
        ),
        ("header: {other: {}}", "1:1 header.other: unknown key; header has cors, sse"),
        ("header: {sse: [a]}", "1:1 header.sse: a list, not keys and values; "),
        (
            "header: {sse: {X: [a]}}",
            "1:1 header.sse.X: a list, where one value is asked for; write the value itself",
        ),
        ("header:\n  sse:\n    X:\n", "1:3 header.sse.X: nothing; write a value, or null for none"),
        ("header:\n  sse:\n    X: a\n    x: b\n", "1:4 header.sse.x: there twice; keep one of them"),
        ("header:\n  sse:\n    Content-Length: 0", "1:3 header.sse.Content-Length: a stream has no length, "),
        ("header:\n  sse:\n    X: \"a\\r\\nb\"", "1:3 header.sse.X: a value with other than visible ASCII"),
        (
            "header:\n  cors:\n    cache-control: no-store",
            "1:3 header.cors.cache-control: a stream would have it twice, \
             by the default header.sse.cache-control, too; keep one of them, null takes the other away",
        ),
        (
            "- port",
            "1:1: a list, not keys and values; write a key and its value on a line, such as port: 3000",
        ),
        (
            "port 3000",
            "1:1: a text, not keys and values; write a key and its value on a line, such as port: 3000",
        ),
        ("a: &a [x]\nb: [*a, *a]", "1:1: an anchor or an alias, which are not read here; "),
    ] {
        let error = read(&[text], "", &[]).unwrap_err();
        assert!(error.starts_with(refused), "{text:?} gave:\n{error}\nnot:\n{refused}");
        assert!(!error.contains('\n') && error.contains([';', ':']), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn limits_that_cannot_hold_together_name_every_place() {
    for (files, line, refused) in [
        (
            &["queue:\n  prefetch: 100\n"][..],
            "",
            "1:2 queue.prefetch: 100: not more than --queue-ack-window 100; \
             raise 1:2 queue.prefetch to 101, or lower the other",
        ),
        (
            &["queue:\n  prefetch: 300\n", "queue:\n  ack_window: 300\n"],
            "",
            "1:2 queue.prefetch: 300: not more than 2:2 queue.ack_window: 300; \
             raise 1:2 queue.prefetch to 301, or lower the other",
        ),
        (
            &["heartbeat: 20s\n"],
            "",
            "--queue-ack-delay 40s: not longer than a dead client may stay unnoticed, 40s by two of \
             1:1 heartbeat: 20s; raise --queue-ack-delay over 40s, or lower the other",
        ),
        (
            &["heartbeat: 0s\nqueue: {ack_delay: 25}\n"],
            "",
            "1:2 queue.ack_delay: 25s: not longer than a dead client may stay unnoticed, 25s by 5/4 of \
             --send-timeout 20s; raise 1:2 queue.ack_delay over 25s, or lower the other",
        ),
    ] {
        assert_eq!(read(files, line, &[("ESPER_BROKER_NODE", "amqp://h/")]).unwrap_err(), refused);
        assert!(read(files, line, &[]).is_ok(), "without a broker there is nothing to hold");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_refused_and_one_that_is_not_there_only_when_it_was_named() {
    let missing = [PathBuf::from("/nowhere/config.yml"), PathBuf::from("/dev/null/config.yml")];
    assert!(parse_with_warnings(vec!["esper".into()], &|_| None, &missing).is_ok());
    let large = TempFile::new("#".repeat(FILE_BYTES_MAX + 1));
    for (path, reason) in [
        ("/nowhere", "No such file or directory (os error 2); name a file that this process may read"),
        ("/dev", "not a regular file; name one, which can be read again and again"),
        (large.path(), "larger than 1MiB; name a file with nothing else in it"),
    ] {
        let refused =
            |line: &str, variables: &[(&str, &str)]| read(&[], line, variables).map(drop).unwrap_err();
        assert_eq!(refused(&format!("--config {path}"), &[]), format!("--config {path}: {reason}"));
        assert_eq!(refused("", &[("ESPER_CONFIG", path)]), format!("ESPER_CONFIG={path}: {reason}"));
    }
    let full = TempFile::new("#".repeat(FILE_BYTES_MAX));
    assert!(parse(&format!("--config {}", full.path()), &[]).is_ok());
    assert_eq!(read(&["a: \u{1}"], "", &[]).unwrap_err().lines().count(), 1);
}

proptest! {
    #[test]
    fn any_keys_and_values_are_taken_or_refused_in_one_line(
        key in "(port|bind|queue|header|broker|server|namespaces|cors-origin|[a-z-]{1,8}|\\PC{0,4})",
        inner in "(cors|sse|node|address|pattern|subscribe|\\PC{0,4})",
        value in "\\PC{0,20}",
    ) {
        let quoted = serde_json::to_string(&value).unwrap();
        for text in [
            format!("{key}: {quoted}"),
            format!("{key}: {{{inner}: {quoted}}}"),
            format!("{key}:\n  {inner}:\n  - {value}"),
        ] {
            if let Err(error) = read(&[&text], "", &[]) {
                prop_assert!(!error.contains('\n'), "{:?}", error);
            }
        }
    }
}
