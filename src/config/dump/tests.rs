use proptest::prelude::*;

use super::super::yaml::{self, YamlValue};
use super::*;

/// What means something in YAML, and what none of its readers takes as it is.
const TEXT: &str = "(\\PC|[\n\t\r\0 :#'\"\\\\~-]|null|\u{85}|\u{feff}){0,20}";

proptest! {
    #[test]
    fn any_text_is_written_so_that_it_reads_back(text in TEXT) {
        let document = format!("- {}\n", scalar(&text));
        let read = yaml::parse(&document).map(|node| node.value);
        let Ok(YamlValue::List(list)) = read else { panic!("{document:?} gave {read:?}") };
        prop_assert_eq!(&list[0].value, &YamlValue::Text(text), "{:?}", document);
    }
}
