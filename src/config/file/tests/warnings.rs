//! Settings that are accepted with a warning.

use super::*;

#[test]
fn what_looks_like_a_mistake_is_warned_of() {
    let constant = "broker: {node: amqp://localhost/}\nqueue: {pattern: all}\n";
    let (_, warnings) = read(&[constant], "", &[]).unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(":2 queue.pattern: all: every client has the same queue"), "{warnings:?}");
    assert_eq!(read(&[constant], "--queue-pattern ${query:id}", &[]).unwrap().1, [""; 0]);

    let long = "broker: {node: amqp://localhost/}\nqueue: {ack_delay: 30m}\n";
    let (_, warnings) = read(&[long], "", &[]).unwrap();
    assert!(warnings[0].contains(":2 queue.ack_delay: 30m: RabbitMQ ends a stream"), "{warnings:?}");
    assert_eq!(read(&[long], "--queue-ack-delay 29m", &[]).unwrap().1, [""; 0]);

    let named = "broker: {node: amqp://localhost/}\ncors-origin: https://a.example\n";
    let (_, warnings) = read(&[named], "", &[]).unwrap();
    assert!(warnings[0].contains(":2 cors-origin is not for queues"), "{warnings:?}");
    let both = format!("{named}header: {{cors: {{Access-Control-Allow-Origin: https://a.example}}}}\n");
    assert_eq!(read(&[&both], "", &[]).unwrap().1, [""; 0]);

    let open = ["broker: {node: amqp://a:hunter2@localhost/}\n", "cluster: nats://token@localhost\n"];
    let own = TempFile::with_mode("broker: {node: amqp://localhost/}\n", 0o644);
    let warned = |file: &TempFile| {
        parse_with_warnings(vec!["esper".into()], &|_| None, &[file.path().into()]).unwrap().1
    };
    for open in open.map(|text| TempFile::with_mode(text, 0o644)) {
        let path = open.path();
        let expected =
            format!("{path}: everybody on this machine may read the passwords in its URLs; chmod o-r");
        assert_eq!(warned(&open), [expected]);
    }
    assert_eq!(warned(&own), [""; 0]);
}

#[test]
fn keys_of_queues_without_a_broker_are_warned_of_but_where_a_dump_says_them() {
    let said = |text: &str| read(&[text], "", &[]).unwrap().1;
    let warnings = said("queue: {pattern: a}");
    assert!(
        warnings[0].contains(":1 queue.pattern is of no use: --broker-node names no broker"),
        "{warnings:?}"
    );
    let rule = "queue: {subscribe: [{exchange: a, topic: abcdefgh}]}";
    assert!(said(rule)[0].contains("queue.subscribe is of no use"), "{:?}", said(rule));

    let dump = |line: &str| match parse(line, &[]) {
        Err(ConfigError::Help(dump)) => dump,
        other => panic!("no dump but {other:?}"),
    };
    assert_eq!(said(&dump("-c")), [""; 0]);
    let masked = said(&dump("-c --broker-node amqp://u:secret@h"));
    assert!(masked[0].contains("queue.pattern is of no use"), "{masked:?}");
}
