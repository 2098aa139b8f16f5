use std::borrow::Cow;
use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// Returns names that look like parts of a session topic's name.
fn name() -> impl Strategy<Value = String> {
    let parts = [
        "",
        "a",
        "b",
        "c",
        "*",
        " ",
        ":",
        "/",
        "1",
        "2",
        "session",
        "session 1:a",
        "admin events",
        "\0",
        "é",
    ];
    let parts =
        prop::collection::vec(prop::sample::select(parts.to_vec()), 1..4).prop_map(|parts| parts.concat());
    let any = "\\PC{1,8}".prop_map(|name: String| name);
    prop_oneof![4 => parts, 1 => any]
        .prop_filter("1 to 128 bytes", |name| (1..=NAME_BYTES_MAX).contains(&name.len()))
}

#[test]
fn a_name_has_1_to_128_bytes() {
    let (longest, too_long) = ("x".repeat(128), "x".repeat(129));
    for name in ["a", "*", " ", "/", "\0", "a/b c", "🦀", &longest] {
        let session = Session::new(name, name).unwrap();
        assert_eq!((session.user(), session.channel()), (name, name));
    }
    for (user, channel, line) in [
        ("", "c", "userId has 0 bytes: write 1 to 128"),
        ("u", "", "channel has 0 bytes: write 1 to 128"),
        (&*too_long, "c", "userId has 129 bytes: write 1 to 128"),
        ("u", &*too_long, "channel has 129 bytes: write 1 to 128"),
        ("", "", "userId has 0 bytes: write 1 to 128"),
    ] {
        assert_eq!(Session::new(user, channel).unwrap_err().to_string(), line);
    }
}

#[test]
fn a_session_is_shown_as_its_channel_and_its_user() {
    assert_eq!(Session::new("ann", "chat").unwrap().shown(), "chat/ann");
    assert_eq!(Session::new(ALL, "chat").unwrap().shown(), "chat/*");
}

#[test]
fn names_that_make_one_text_make_different_topics() {
    let hasher = TopicHasher::of(16);
    let pairs = [
        ("a/b", "c"),
        ("b/c", "a"),
        ("c", "a/b"),
        ("a b", "c"),
        ("b", "c a"),
        ("*", "c"),
        ("*", "c *"),
        ("a", "c *"),
        ("x", "1:c"),
        ("1:c x", "1"),
        ("c x", "1:"),
        (" ", " "),
        ("  ", " "),
        (" ", "  "),
    ];
    let names: HashSet<String> = pairs
        .iter()
        .map(|(user, channel)| Session::new(user, channel).unwrap().topic(&hasher).name().to_owned())
        .collect();
    assert_eq!(names.len(), pairs.len());
}

proptest! {
    #[test]
    fn the_names_are_found_again_in_the_topic(user in name(), channel in name()) {
        let hasher = TopicHasher::of(16);
        let session = Session::new(&user, &channel).unwrap();
        prop_assert!(session.topic(&hasher).is_of_session());
        let topics = [session.topic_of_all(&hasher), session.topic(&hasher)];
        prop_assert_eq!(Session::of_topic(&topics[1]), Some(session.clone()));
        let all = Session::new(ALL, &channel).unwrap();
        prop_assert_eq!(Session::of_topic(&topics[0]), Some(all.clone()));
        prop_assert_eq!(all.topic(&hasher), session.topic_of_all(&hasher));
    }

    #[test]
    fn no_two_pairs_share_a_topic_and_all_of_a_channel_have_one_partition(
        first in (name(), name()),
        second in (name(), name()),
    ) {
        let hasher = TopicHasher::of(16);
        let topic = |(user, channel): &(String, String)| Session::new(user, channel).unwrap().topic(&hasher);
        prop_assert_eq!(topic(&first) == topic(&second), first == second);
        prop_assert_eq!(topic(&first).name() == topic(&second).name(), first == second);
        if first.1 == second.1 {
            prop_assert!(topic(&first).partition().is_some());
            prop_assert_eq!(topic(&first).partition(), topic(&second).partition());
        }
    }

    #[test]
    fn no_topic_of_a_request_is_a_session_nor_covers_one(user in name(), channel in name()) {
        let hasher = TopicHasher::of(16);
        let session = Session::new(&user, &channel).unwrap();
        let topic = session.topic(&hasher);
        // Neither its own name nor a part of it can be requested.
        for text in [topic.name(), &user, &channel] {
            if let Ok(id) = Topic::parse(text.as_bytes(), &hasher) {
                prop_assert!(id != topic && !id.covers(&topic) && !topic.covers(&id));
            }
            let segments: Vec<_> = text.split('/').map(|segment| Cow::Borrowed(segment.as_bytes())).collect();
            if let Ok(path) = Topic::parse_path(&segments, &hasher) {
                prop_assert!(path != topic && !path.covers(&topic) && !topic.covers(&path));
            }
        }
        prop_assert!(Topic::parse(topic.name().as_bytes(), &hasher).is_err());
        prop_assert!(topic != Topic::internal("admin events", &hasher));
        prop_assert!(topic != Topic::everything(&hasher));
        prop_assert!(topic.parent().is_none());
    }
}
