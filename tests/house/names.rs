//! The names of the types that a crate defines, and those that it defines twice.

use std::collections::BTreeMap;

use crate::modules::Crate;
use crate::source::Token;

/// Returns each name that several types or traits of the crate have, and where. Associated types are not counted: their
/// names are their traits'.
pub(crate) fn doubles(of: &Crate) -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in of.files() {
        for (name, line) in defined(&file.tokens) {
            places.entry(name).or_default().push(format!("{}:{line}", file.path.display()));
        }
    }
    places.retain(|_, places| places.len() > 1);
    places
}

fn defined(tokens: &[Token]) -> Vec<(String, usize)> {
    let mut names = Vec::new();
    // Of each block that is open whether it is that of an `impl` or a `trait`, whose `type` is an associated one.
    let mut blocks = Vec::new();
    let mut header = 0;
    for (at, token) in tokens.iter().enumerate() {
        match &*token.text {
            "{" => {
                let first =
                    tokens[header..at].iter().find(|token| ["impl", "trait", "fn"].contains(&&*token.text));
                blocks.push(first.is_some_and(|first| first.text != "fn"));
                header = at + 1;
            }
            "}" => {
                blocks.pop();
                header = at + 1;
            }
            ";" => header = at + 1,
            "struct" | "enum" | "union" | "trait" | "type" => {
                let is_associated = token.text == "type" && blocks.last() == Some(&true);
                // `union` is a word like another where no name stands behind it.
                let name = tokens.get(at + 1).filter(|name| name.text.starts_with(char::is_uppercase));
                names.extend(name.filter(|_| !is_associated).map(|name| (name.text.clone(), name.line)));
            }
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::shipped_tokens;

    #[test]
    fn every_kind_of_type_is_found_and_an_associated_one_is_not() {
        let source = "
            pub(crate) struct A<'a>(&'a str); enum B { A } trait C { type Of; fn f() { type D = u8; } }
            impl<T> Iterator for A<'_> { type Item = T; fn next(&mut self) -> impl C { } type E = u8; }
            type F = Vec<u8>; mod g { union H { i: u8 } struct J; } fn k() -> impl C { struct L; type M = u8; }
            #[cfg(test)] struct N; // struct O;
            unsafe impl Send for J {} static P: &str = \"struct Q\"; union!(r);
        ";
        let names: Vec<_> = defined(&shipped_tokens(source)).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["A", "B", "C", "D", "F", "H", "J", "L", "M"]);
    }

    #[test]
    fn a_name_that_is_defined_twice_is_reported_with_both_places() {
        let files = [
            ("src/lib.rs", "mod a; mod b; struct Once;"),
            ("src/a.rs", "struct Twice;"),
            ("src/b.rs", "\nenum Twice {}"),
        ];
        let read = Crate::read("src/lib.rs".as_ref(), |path| {
            let file = files.iter().find(|(name, _)| path.ends_with(name));
            file.map(|(_, text)| (*text).to_owned())
        });
        let expected = ("Twice".to_owned(), vec!["src/a.rs:1".to_owned(), "src/b.rs:2".to_owned()]);
        assert_eq!(Vec::from_iter(doubles(&read)), [expected]);
    }
}
