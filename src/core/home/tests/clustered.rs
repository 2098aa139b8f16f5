//! A home in a cluster, which applies what all nodes published.

use super::*;
use crate::core::epochs::EarlierEpoch;
use crate::core::message::{Callback, ToFanout};

/// The place of the first event of message `n` of the stream.
const fn at(n: u64) -> Sequence {
    n << 16
}

/// A tester of a node that has read the stream up to its message 4, of which nothing is left.
fn node() -> Tester {
    let mut tester = Tester::with_topics(LIMITS, 2);
    tester.homes.join_cluster(&reset(9, &[], at(5) - 1, 0));
    tester
}

fn reset(epoch: u64, ended: &[u64], floor: Sequence, ready_at: Sequence) -> Reset {
    let ended = ended.iter().map(|epoch| EarlierEpoch { epoch: Epoch::at(*epoch), last: [].into() });
    Reset { epochs: Arc::new(Epochs::new(Epoch::at(epoch), ended.collect())), floor, ready_at }
}

impl Tester {
    fn apply(&mut self, first: Sequence, publish: Publish, stream_ms: u64) -> Vec<Post> {
        let mut out = Vec::new();
        self.homes.apply(0, Applied { first, publish, is_own: false, at_ms: 0, stream_ms }, &mut out);
        out
    }

    fn apply_text(&mut self, first: Sequence, topic: usize, text: &'static str) -> Vec<Post> {
        let publish = self.new_publish(self.topic(topic), text, None);
        self.apply(first, Publish { reply: ReplyTo::Nobody, ..publish }, 0)
    }

    /// Sends a join of a topic; returns the page, if it is let in.
    fn joins(&mut self, topic: usize, last_event_id: Option<&str>) -> Option<ReplayPage> {
        let selection = selection(&[self.topic(topic)]);
        let last_event_id = last_event_id.map(Into::into);
        let join = ToHome::Join { selection, from: 0, key: self.key, last_event_id };
        page(self.ask(join).into_iter())
    }
}

/// Returns the page among messages, if there is one.
fn page(mut messages: impl Iterator<Item = Message>) -> Option<ReplayPage> {
    messages.find_map(|message| match message {
        Message::Fanout(ToFanout::Page { page, .. }) => Some(page),
        _ => None,
    })
}

fn page_of(posts: Vec<Post>) -> Option<ReplayPage> {
    page(posts.into_iter().map(|post| post.message))
}

fn gap(page: &ReplayPage) -> Option<GapReason> {
    page.gap.as_ref().map(|gap| gap.reason)
}

#[test]
fn what_was_before_the_node_read_is_a_gap_and_what_it_read_is_replayed() {
    let mut node = node();
    node.apply_text(at(5), 1, "data:a");
    node.apply_text(at(6), 1, "data:b");
    let early = node.joins(1, Some("9-262144")).unwrap();
    assert_eq!((gap(&early), early.frames.len()), (Some(GapReason::Trimmed), 2));
    let late = node.joins(1, Some(&format!("9-{}", at(5)))).unwrap();
    assert_eq!((gap(&late), late.frames.len()), (None, 1));
}

#[test]
fn a_subscriber_that_knows_more_waits_until_it_is_applied() {
    let mut node = node();
    assert!(node.joins(1, Some(&format!("9-{}", at(6)))).is_none());
    assert_eq!(node.homes.waiting(), 1);
    assert!(page_of(node.apply_text(at(5), 1, "data:a")).is_none());
    let page = page_of(node.apply_text(at(6), 1, "data:b")).unwrap();
    assert_eq!((gap(&page), page.frames.len(), page.upto), (None, 0, at(6)));
    assert_eq!(node.homes.waiting(), 0);
}

#[test]
fn one_that_knows_more_than_the_stream_has_is_told_of_a_gap_once_the_leader_said_so_after_it_came() {
    let mut node = node();
    node.apply_text(at(5), 1, "data:a");
    assert!(node.joins(1, Some(&format!("9-{}", at(8)))).is_none());
    let mut said = |end| {
        let mut out = Vec::new();
        node.homes.stream_ends_at(end, &mut out);
        page_of(out)
    };
    assert!(said(at(7) - 1).is_none(), "the leader may have been asked before the subscriber came");
    assert!(said(at(9) - 1).is_none(), "the stream has it");
    assert_eq!(gap(&said(at(7) - 1).unwrap()), Some(GapReason::Unknown));
}

#[test]
fn one_that_waits_too_long_is_refused_for_now() {
    let mut node = node();
    assert!(node.joins(1, Some(&format!("9-{}", at(8)))).is_none());
    let mut refused = |now_ms| {
        let mut out = Vec::new();
        node.homes.refuse_waiting(now_ms, &mut out);
        out.len()
    };
    assert_eq!((refused(10_000), refused(10_001), refused(20_000)), (0, 1, 0));
}

#[test]
fn a_topic_for_which_there_is_no_room_has_its_events_all_the_same() {
    let mut node = node();
    node.joins(1, None);
    node.joins(3, None);
    node.apply_text(at(5), 2, "data:other");
    assert_eq!(node.homes.topics(), 2, "the topic that nobody takes made room at once");
    let posts = node.apply_text(at(6), 1, "data:a");
    assert!(posts.iter().any(|post| matches!(post.message, Message::Fanout(ToFanout::Events { .. }))));
}

#[test]
fn a_repeated_key_is_dropped_by_the_streams_time_and_its_publisher_gets_the_first_answer() {
    let mut node = node();
    let key = |digest| Some(PublishKey { name: b"k".as_slice().into(), digest: [digest; 32] });
    let mut publish = |first, digest, stream_ms| {
        let (told, answer) = std::sync::mpsc::channel();
        let publish = node.new_publish(node.topic(1), "data:a", key(digest));
        let reply = ReplyTo::Caller(Callback::new(move |reply| told.send(reply).unwrap()));
        node.now_ms = u64::MAX / 2;
        node.apply(first, Publish { reply, ..publish }, stream_ms);
        match answer.try_recv().unwrap() {
            Reply::Published(result) => result.map(|published| published.last_id),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(publish(at(5), 1, 1000), Ok(EventId::Sequence(at(5))));
    assert_eq!(publish(at(6), 1, 121_000), Ok(EventId::Sequence(at(5))));
    assert_eq!(publish(at(7), 2, 121_000), Err(OrderError::KeyReused));
    assert_eq!(publish(at(8), 1, 121_001), Ok(EventId::Sequence(at(8))), "it is forgotten");
}

#[test]
fn missed_events_are_a_gap_for_all() {
    let mut node = node();
    node.apply_text(at(5), 1, "data:a");
    let mut out = Vec::new();
    node.homes.miss(at(7) - 1, 2, &mut out);
    let told = out.iter().filter(|post| {
        matches!(post.message, Message::Fanout(ToFanout::Missed { partition: 0, upto }) if upto == at(7) - 1)
    });
    assert_eq!(told.map(|post| post.to).collect::<Vec<_>>(), [0, 1]);
    let page = node.joins(1, Some(&format!("9-{}", at(5)))).unwrap();
    assert_eq!(gap(&page), Some(GapReason::Trimmed));
    assert_eq!(gap(&node.joins(2, Some(&format!("9-{}", at(6)))).unwrap()), Some(GapReason::Trimmed));
    assert_eq!(gap(&node.joins(1, Some(&format!("9-{}", at(7) - 1))).unwrap()), None);
}

#[test]
fn an_order_that_begins_anew_drops_all_and_lets_nobody_in_before_it_is_read() {
    let mut node = node();
    node.apply_text(at(5), 1, "data:a");
    // The stream was set back to message 2, and message 4 began the new epoch.
    node.homes.reset(&reset(11, &[9], at(2) - 1, at(5) - 1));
    assert!(node.joins(1, Some(&format!("9-{}", at(5)))).is_none());
    assert!(node.joins(1, None).is_none());
    node.apply_text(at(2), 1, "data:old");
    node.apply_text(at(3), 1, "data:older");
    let mut out = Vec::new();
    node.homes.advance(at(5) - 1, &mut out);
    let pages: Vec<_> = out.into_iter().filter_map(|post| page_of(vec![post])).collect();
    assert_eq!(pages.iter().map(gap).collect::<Vec<_>>(), [Some(GapReason::Reset), None]);
    assert_eq!(pages[1].frames.len(), 0, "nothing old for a new subscriber");
    let told = node.joins(1, Some(&format!("11-{}", at(5) - 1))).unwrap();
    assert_eq!((gap(&told), told.frames.len()), (None, 0));
    assert_eq!(gap(&node.joins(1, Some("8-1")).unwrap()), Some(GapReason::Unknown));
}
