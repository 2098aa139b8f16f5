//! How long a queue lives, and whose it is.

use super::*;

#[test]
fn a_queue_is_durable_and_outlives_its_client_until_it_expires() {
    let server = start(&["--queue-expire", "2s"]);
    let (publisher, queue) = (Publisher::new(), unique("expires"));
    let stream = opened(&server, &queue, None);
    assert_eq!(publisher.declare(&queue, true, Some(2000)), Ok(()));
    let refused = publisher.declare(&queue, false, Some(2000)).unwrap_err();
    assert!(refused.contains("PRECONDITION_FAILED") && refused.contains("'durable'"), "{refused}");
    let refused = publisher.declare(&queue, true, Some(2001)).unwrap_err();
    assert!(refused.contains("PRECONDITION_FAILED") && refused.contains("'x-expires'"), "{refused}");
    // Used, it does not expire.
    pause(Duration::from_secs(4));
    assert_eq!(publisher.consumers(&queue), Some(1));

    drop(stream);
    publisher.queue(&queue, &["kept"]);
    let mut stream = opened_at_last(&server, &queue);
    assert_eq!(stream.event().data, "kept");
    drop(stream);
    wait_ready(&publisher, &queue, 1);
    // Nor does looking at it count as use: but it would, if each look declared it anew.
    let start = std::time::Instant::now();
    while publisher.ready(&queue).is_some() {
        assert!(start.elapsed() < PATIENCE, "it never expires");
        pause(Duration::from_secs(4));
    }
    // Who comes then finds an empty one.
    let mut stream = opened(&server, &queue, None);
    publisher.queue(&queue, &["new"]);
    assert_eq!(stream.event().data, "new");
}

#[test]
fn a_second_client_is_refused_on_every_node_until_the_first_leaves() {
    let nodes = [start(&SHORT), start(&SHORT)];
    let (publisher, queue) = (Publisher::new(), unique("second"));
    let path = format!("/?id={queue}");
    let mut first = opened(&nodes[0], &queue, None);
    for node in &nodes {
        assert_eq!(refused(node, &path, &[]), "another client has this queue");
    }
    publisher.queue(&queue, &["for the first"]);
    assert_eq!(first.event().data, "for the first", "it was not disturbed");
    drop(first);
    let mut second = opened_at_last(&nodes[1], &queue);
    assert_eq!(second.event().data, "for the first", "it was not acknowledged yet");
    for node in &nodes {
        assert_eq!(refused(node, &path, &[]), "another client has this queue");
    }
    drop(second);
    opened_at_last(&nodes[0], &queue);
    // Nor is it told of, for its name may be a session's.
    for node in &nodes {
        assert!(!node.log().contains(&queue), "{}", node.log());
    }
}

#[test]
fn of_many_who_come_at_once_one_has_the_queue() {
    let nodes = [start(&[]), start(&[])];
    let queue = unique("crowd");
    let answers: Vec<Stream> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..40)
            .map(|at| {
                scope.spawn({
                    let (node, queue) = (&nodes[at % 2], &queue);
                    move || open(node, queue, None)
                })
            })
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let statuses: Vec<_> = answers.iter().map(|answer| answer.head.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 39, "{statuses:?}");
}

#[test]
fn a_client_that_vanished_without_a_word_frees_its_queue() {
    let server = start(&SHORT);
    let (publisher, queue) = (Publisher::new(), unique("ghost"));
    let mut ghost = opened(&server, &queue, None);
    publisher.queue(&queue, &bodies(0..3));
    let seen = take(&mut ghost, 1);
    vanish(&ghost);
    publisher.queue(&queue, &bodies(3..6));
    // One that says nothing of what it has must wait; it gets all.
    let mut stream = opened_at_last(&server, &queue);
    let events = take(&mut stream, 6);
    assert_eq!(data(&events), bodies(0..6));
    assert_eq!(events[0].id, seen[0].id);
    drop(ghost);
}

/// EventSource gives up for ever on a 503.
#[test]
fn a_page_is_not_locked_out_by_its_own_ghost_on_this_node_or_another() {
    let nodes = [start(&SHORT), start(&SHORT)];
    let publisher = Publisher::new();
    for node in &nodes {
        let queue = unique("haunted");
        let mut ghost = opened(&nodes[0], &queue, None);
        publisher.queue(&queue, &bodies(0..3));
        let seen = take(&mut ghost, 2);
        vanish(&ghost);
        let mut stream = opened(node, &queue, Some(&seen[1].id));
        publisher.queue(&queue, &bodies(3..5));
        let events = take(&mut stream, 3);
        assert_eq!(data(&events), bodies(2..5));
        drop(ghost);
    }
}

/// A page of notifications has mostly had none when its network changes.
#[test]
fn nor_is_a_page_that_has_had_no_message_yet() {
    let nodes = [start(&SHORT), start(&SHORT)];
    let publisher = Publisher::new();
    for node in &nodes {
        let queue = unique("quiet");
        let mut ghost = Stream::open(&nodes[0], &format!("/?id={queue}"));
        let id = first_id(&mut ghost);
        vanish(&ghost);
        publisher.queue(&queue, &bodies(0..2));
        let mut stream = opened(node, &queue, Some(&id));
        assert_eq!(data(&take(&mut stream, 2)), bodies(0..2));
        drop(ghost);
    }
}

#[test]
fn who_has_an_id_of_the_queue_takes_it_over_and_the_other_stream_is_told_to_come_back() {
    let server = start(&["--retry-min", "2s", "--retry-max", "2s"]);
    let (publisher, queue) = (Publisher::new(), unique("takeover"));
    let mut first = opened(&server, &queue, None);
    publisher.queue(&queue, &bodies(0..5));
    let seen = take(&mut first, 5);
    let mut second = opened(&server, &queue, Some(&seen[2].id));
    let events = take(&mut second, 2);
    assert_eq!(events, seen[3..], "the same under the same ids");
    let farewell = first.event();
    assert_eq!((farewell.retry, first.next_event(), first.is_complete), (Some(2000), None, true));

    publisher.queue(&queue, &bodies(5..6));
    assert_eq!(second.event().data, "message 5", "and only there");
    // It has an id of the queue as well, as each of a page's two tabs would have.
    let mut third = opened(&server, &queue, Some(&seen[4].id));
    assert_eq!(third.event().data, "message 5");
}

#[test]
fn an_id_that_the_queue_did_not_issue_takes_nothing_over() {
    let server = start(&SHORT);
    let (publisher, queue) = (Publisher::new(), unique("foreign"));
    let mut first = opened(&server, &queue, None);
    publisher.queue(&queue, &bodies(0..2));
    let seen = take(&mut first, 2);
    let id = format!("Last-Event-ID: {}0", seen[1].id);
    assert_eq!(refused(&server, &format!("/?id={queue}"), &[&id]), "another client has this queue");
    publisher.queue(&queue, &bodies(2..3));
    assert_eq!(first.event().data, "message 2");
}

#[test]
fn a_queue_that_exists_with_other_properties_is_refused_with_the_brokers_reason() {
    let server = start(&[]);
    let (publisher, queue) = (Publisher::new(), unique("other"));
    publisher.declare(&queue, true, None).unwrap();
    let reason = refused(&server, &format!("/?id={queue}"), &[]);
    let refused = "the broker refuses the queue: PRECONDITION_FAILED";
    assert!(reason.starts_with(refused) && reason.contains("x-expires"), "{reason}");
    publisher.delete(&queue);
    assert_eq!(opened(&server, &queue, None).head.status, 200, "and nothing else suffered");
}

#[test]
fn a_stream_whose_queue_is_deleted_ends_and_is_told_to_come_back() {
    let server = start(&["--retry-min", "2s", "--retry-max", "2s"]);
    let (publisher, queue, other) = (Publisher::new(), unique("deleted"), unique("beside"));
    let mut beside = opened(&server, &other, None);
    let mut stream = opened(&server, &queue, None);
    publisher.queue(&queue, &["one"]);
    let seen = stream.event();
    publisher.delete(&queue);
    let farewell = stream.event();
    assert_eq!((farewell.retry, stream.next_event(), stream.is_complete), (Some(2000), None, true));
    let mut stream = opened(&server, &queue, Some(&seen.id));
    publisher.queue(&queue, &["two"]);
    assert_eq!(stream.event().data, "two");
    publisher.queue(&other, &["undisturbed"]);
    assert_eq!(beside.event().data, "undisturbed");
}

#[test]
fn the_admin_page_shows_a_stream_of_a_queue_without_the_queue_s_name() {
    let server = start(&["--queue-path", "/mine"]);
    let queue = unique("shown");
    let stream = Stream::open(&server, &format!("/mine?id={queue}"));
    assert_eq!(stream.head.status, 200);
    let answer = server.get("/admin/status.json");
    let status: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let row = &status["connections"][0];
    assert_eq!(row["request_path"], "/mine", "{row}");
    assert!(row["namespace"].as_str().is_some_and(|name| name.starts_with("queue ")), "{row}");
    assert!(!answer.body.contains(&queue), "{}", answer.body);
    assert!(server.log().contains("configured by "), "{}", server.log());
}

#[test]
fn a_page_that_is_loaded_anew_is_not_refused_for_its_own_end() {
    let server = start(&[]);
    let queue = unique("reload");
    for _ in 0..100 {
        // Closed, and asked for again at once, without an id.
        drop(opened(&server, &queue, None));
    }
}
