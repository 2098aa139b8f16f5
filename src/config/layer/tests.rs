use super::*;

fn layer(said: &[(&str, &str)]) -> Layer {
    let mut layer = Layer::default();
    for (flag, text) in said {
        let place = FilePlace { file: "f".into(), line: 1, key: (*flag).to_owned() };
        let values = if *text == "null" { vec![] } else { vec![(1, (*text).to_owned())] };
        layer.insert(flag, Setting { written: Written::File(place), values });
    }
    layer.split_port();
    layer
}

/// Returns flags and their values.
fn shown(layer: &Layer) -> Vec<(String, String)> {
    let text = |setting: &Setting| match setting.text() {
        Some(text) => text.parse().map_or(text.to_owned(), |address: BindAddress| address.to_string()),
        None => "null".to_owned(),
    };
    layer.0.iter().map(|(flag, setting)| (flag.clone(), text(setting))).collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(flag, text)| ((*flag).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn a_later_file_stands_over_an_earlier_one_entry_by_entry_in_whatever_words() {
    for (lower, upper, both) in [
        (
            &[("port", "1"), ("threads", "2")][..],
            &[("port", "3")][..],
            &[("port", "3"), ("threads", "2")][..],
        ),
        (&[("threads", "1")], &[("cores", "2")], &[("cores", "2")]),
        (&[("cores", "1")], &[("threads", "2")], &[("threads", "2")]),
        (&[("cores", "1")], &[("threads", "null")], &[("cores", "1"), ("threads", "null")]),
        (&[("cores", "1")], &[("cores", "null")], &[("cores", "null")]),
        (&[("bind", "::1"), ("port", "1")], &[("bind", "[::]:2")], &[("bind", "[::]:2"), ("port", "2")]),
        (&[("bind", "::1"), ("port", "1")], &[("bind", "::")], &[("bind", "::"), ("port", "1")]),
        (&[("bind", "[::1]:1")], &[("port", "2")], &[("bind", "::1"), ("port", "2")]),
        (&[("bind", "[::]:2")], &[("bind", "::1")], &[("bind", "::1"), ("port", "2")]),
        (&[("bind", "[::]:2")], &[("bind", "::1"), ("port", "3")], &[("bind", "::1"), ("port", "3")]),
        (&[("bind", "[::]:2")], &[("bind", "null")], &[("bind", "null")]),
        (&[("bind", "nonsense")], &[("port", "2")], &[("bind", "nonsense"), ("port", "2")]),
        // Several have no port in common.
        (
            &[("bind", "::1"), ("port", "1")],
            &[("bind", "[::]:2,::1")],
            &[("bind", "[::]:2,::1"), ("port", "1")],
        ),
        (
            &[("bind", "[::]:2,unix:/a,0.0.0.0:3")],
            &[("port", "4")],
            &[("bind", "::,unix:/a,0.0.0.0"), ("port", "4")],
        ),
        (&[("bind", "[::1]:1")], &[("bind", "unix:/a")], &[("bind", "unix:/a"), ("port", "1")]),
    ] {
        let mut merged = layer(lower);
        merged.overwrite(layer(upper));
        assert_eq!(shown(&merged), owned(both), "{lower:?} under {upper:?}");
    }
}

#[test]
fn a_secret_of_a_variable_stands_over_a_file_that_a_file_names() {
    let named =
        [("control-token-file", "/c"), ("publisher-secret-file", "/p"), ("session-secret-file", "/s")];
    let mut merged = layer(&named);
    merged.give_way(|flag| flag == "session-secret");
    assert_eq!(shown(&merged), owned(&named[..2]));
}
