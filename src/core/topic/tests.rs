use proptest::prelude::*;

use std::hash::BuildHasher as _;

use super::*;

fn topic(name: &str, hasher: &TopicHasher) -> Topic {
    Topic::parse(name.as_bytes(), hasher).unwrap()
}

fn parse_path(path: &str, hasher: &TopicHasher) -> Result<Topic, TopicError> {
    let segments: Vec<_> = path.split('/').map(|segment| Cow::Borrowed(segment.as_bytes())).collect();
    Topic::parse_path(&segments, hasher)
}

fn path(path: &str, hasher: &TopicHasher) -> Topic {
    if path.is_empty() { Topic::everything(hasher) } else { parse_path(path, hasher).unwrap() }
}

#[test]
fn ids_of_8_to_64_letters_and_digits_are_taken_and_others_are_refused() {
    let hasher = TopicHasher::of(16);
    for good in ["abcdef12", "ABCDEFGH", "12345678", &"a".repeat(64)] {
        assert!(Topic::parse(good.as_bytes(), &hasher).is_ok(), "{good}");
    }
    for (length, bad) in [(0, String::new()), (7, "a".repeat(7)), (65, "a".repeat(65))] {
        assert_eq!(Topic::parse(bad.as_bytes(), &hasher), Err(TopicError::Length { length }));
    }
    for bad in
        ["abcdef-12", "abcdef 12", "abc/def12", "abcdefgh\n", "abcdefgh\0", "äbcdefgh", "\u{212a}bcdefgh"]
    {
        assert_eq!(Topic::parse(bad.as_bytes(), &hasher), Err(TopicError::Character), "{bad:?}");
    }
    assert_eq!(Topic::parse(b"abcdefgh\xff", &hasher), Err(TopicError::Character));
}

#[test]
fn a_refusal_is_one_line_that_names_the_rule() {
    for error in [TopicError::Length { length: 3 }, TopicError::Character] {
        let line = error.to_string();
        assert!(line.contains("8 to 64 ASCII letters and digits"), "{line}");
        assert!(!line.contains('\n'));
    }
}

#[test]
fn a_path_that_is_refused_is_told_its_rule() {
    let hasher = TopicHasher::of(16);
    for (path, error, rule) in [
        ("a/b/c/d/e/f/g/h/i", TopicError::Segments { count: 9 }, "1 to 8"),
        ("", TopicError::SegmentLength { length: 0 }, "1 to 64"),
        ("pets/", TopicError::SegmentLength { length: 0 }, "no '/' at the end"),
        ("pets//dogs", TopicError::SegmentLength { length: 0 }, "1 to 64"),
        (&"a".repeat(65), TopicError::SegmentLength { length: 65 }, "1 to 64"),
        ("pets/*", TopicError::SegmentCharacter, "letters, digits, '.'"),
        ("hünde", TopicError::SegmentCharacter, "letters, digits, '.'"),
        ("pets/./dogs", TopicError::Dots, "another name"),
        ("pets/..", TopicError::Dots, "another name"),
    ] {
        assert_eq!(parse_path(path, &hasher), Err(error), "{path}");
        let line = error.to_string();
        assert!(line.contains(rule) && !line.contains('\n'), "{line}");
    }
    assert_eq!(Topic::parse_path(&[], &hasher), Err(TopicError::Segments { count: 0 }));
    // An encoded slash is a character of its segment, and not an allowed one.
    let slash = [Cow::Borrowed(&b"pets/dogs"[..])];
    assert_eq!(Topic::parse_path(&slash, &hasher), Err(TopicError::SegmentCharacter));
    assert_eq!(Topic::parse_path(&[Cow::Borrowed(b"a\xff")], &hasher), Err(TopicError::SegmentCharacter));
}

#[test]
fn a_path_has_each_shorter_one_and_everything_as_parents() {
    let hasher = TopicHasher::of(16);
    let corgi = path("pets/dogs/Corgi", &hasher);
    let names: Vec<&str> = corgi.lineage().map(Topic::name).collect();
    assert_eq!(names, ["pets/dogs/Corgi", "pets/dogs", "pets", ""]);
    for parent in corgi.lineage() {
        assert_eq!(*parent, path(parent.name(), &hasher));
        assert_eq!(parent.hash(), path(parent.name(), &hasher).hash());
    }
    assert!(corgi.lineage().last().unwrap().is_everything());
    assert!(Topic::everything(&hasher).parent().is_none());
    assert!(topic("abcdef123", &hasher).parent().is_none());
}

#[test]
fn case_matters_in_a_path() {
    let hasher = TopicHasher::of(16);
    assert_ne!(path("Pets", &hasher), path("pets", &hasher));
    assert!(!path("Pets", &hasher).covers(&path("pets/dogs", &hasher)));
}

#[test]
fn a_whole_tree_has_one_partition() {
    let hasher = TopicHasher::of(61);
    for n in 0..100 {
        let partition = path(&format!("tree{n}"), &hasher).partition();
        for below in ["a", "b", "a/b", "a/b/c/d/e/f/g"] {
            assert_eq!(path(&format!("tree{n}/{below}"), &hasher).partition(), partition);
        }
    }
}

#[test]
fn everything_covers_an_id_and_an_id_only_itself() {
    let hasher = TopicHasher::of(16);
    let (one, other) = (topic("abcdef123", &hasher), topic("abcdef124", &hasher));
    assert!(Topic::everything(&hasher).covers(&one) && one.covers(&one));
    assert!(!one.covers(&other) && !one.covers(&Topic::everything(&hasher)));
}

proptest! {
    #[test]
    fn a_path_is_taken_exactly_when_it_keeps_the_rule(
        segments in prop::collection::vec(
            prop_oneof![
                8 => "[A-Za-z0-9._~-]{1,3}".prop_map(String::into_bytes),
                2 => "[a.~]{62,67}".prop_map(String::into_bytes),
                1 => "[./%a]{0,2}".prop_map(String::into_bytes),
                1 => prop::collection::vec(any::<u8>(), 0..3),
            ],
            0..10,
        ),
    ) {
        let allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
        let is_good = |segment: &Vec<u8>| {
            segment.iter().all(|byte| allowed.as_bytes().contains(byte))
                && (1..=64).contains(&segment.len())
                && segment != b"."
                && segment != b".."
        };
        let good = (1..=8).contains(&segments.len()) && segments.iter().all(is_good);
        let given: Vec<Cow<'_, [u8]>> = segments.iter().map(|segment| segment.into()).collect();
        let parsed = Topic::parse_path(&given, &TopicHasher::of(16));
        prop_assert_eq!(parsed.is_ok(), good, "{:?}", parsed);
        if let Ok(topic) = parsed {
            prop_assert_eq!(topic.name().as_bytes(), segments.join(&b'/'));
        }
    }

    #[test]
    fn a_topic_covers_itself_and_what_begins_with_it_and_a_slash(
        one in prop::collection::vec("a|b|ab|a[.]b", 0..5),
        other in prop::collection::vec("a|b|ab|a[.]b", 0..5),
    ) {
        let hasher = TopicHasher::of(16);
        let (one, other) = (one.join("/"), other.join("/"));
        let covers = one.is_empty() || one == other || other.starts_with(&format!("{one}/"));
        prop_assert_eq!(path(&one, &hasher).covers(&path(&other, &hasher)), covers);
    }
}

#[test]
fn case_makes_no_difference() {
    let hasher = TopicHasher::of(16);
    let (upper, lower) = (topic("AbCdEf123", &hasher), topic("abcdef123", &hasher));
    assert_eq!(upper, lower);
    assert_eq!(upper.hash(), lower.hash());
    assert_eq!(upper.name(), "abcdef123");
}

#[test]
fn a_map_finds_a_topic_by_a_second_parse_of_its_name() {
    let hasher = TopicHasher::of(16);
    let mut map = TopicMap::default();
    for n in 0..1000 {
        map.insert(topic(&format!("topic{n:05}"), &hasher), n);
    }
    for n in 0..1000 {
        assert_eq!(map.get(&topic(&format!("TOPIC{n:05}"), &hasher.clone())), Some(&n));
    }
    assert!(!map.contains_key(&topic("topic99999", &hasher)));
}

#[test]
fn a_map_takes_the_topics_own_hash() {
    let topic = topic("abcdef123", &TopicHasher::of(16));
    assert_eq!(BuildHasherDefault::<PassThrough>::default().hash_one(&topic), topic.hash());
}

#[test]
fn a_map_of_other_keys_would_get_a_hash_of_all_their_bytes() {
    let hash = |n: u32| {
        let mut hasher = PassThrough::default();
        hasher.write(&n.to_be_bytes());
        hasher.finish()
    };
    let hashes: std::collections::HashSet<_> = (0..100_000).map(hash).collect();
    assert_eq!(hashes.len(), 100_000);
}

#[test]
fn topics_of_one_partition_differ_in_the_bits_a_map_sorts_them_by() {
    let hasher = TopicHasher::of(8);
    let (mut low, mut high) = ([0_u32; 8], [0_u32; 8]);
    for n in 0..32_000 {
        let topic = topic(&format!("topic{n:08}"), &hasher);
        if topic.partition() == Some(5) {
            low[(topic.hash() & 7) as usize] += 1;
            high[(topic.hash() >> 61) as usize] += 1;
        }
    }
    // About 500 expected each.
    assert!(low.iter().chain(&high).all(|count| count.abs_diff(500) < 200), "{low:?} {high:?}");
}

#[test]
fn another_server_hashes_the_same_name_differently() {
    let (one, two) = (topic("abcdef123", &TopicHasher::of(16)), topic("abcdef123", &TopicHasher::of(16)));
    assert_ne!(one.hash(), two.hash());
    assert_ne!(one, two, "topics are compared within one server");
}

#[test]
fn debug_shows_the_name_and_not_the_keyed_hash() {
    assert_eq!(format!("{:?}", topic("Abcdef123", &TopicHasher::of(16))), "Topic(abcdef123)");
}

#[test]
fn a_topic_of_a_queue_or_a_session_is_told_from_all_others() {
    let hasher = TopicHasher::of(16);
    for (topic, is_of_queue, is_of_session) in [
        (Topic::of_queue(7, &hasher), true, false),
        (Topic::of_session("chat", None, &hasher), false, true),
        (Topic::of_session("chat", Some("ann"), &hasher), false, true),
        (Topic::internal("admin events", &hasher), false, false),
        (topic("queue123", &hasher), false, false),
        (path("queue/7", &hasher), false, false),
    ] {
        assert_eq!((topic.is_of_queue(), topic.is_of_session()), (is_of_queue, is_of_session), "{topic:?}");
    }
}
