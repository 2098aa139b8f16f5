//! The crate's modules as `mod` declares them, which of them name which, and where that goes round in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::source::{Token, group_end, shipped_tokens, texts_at};

/// The shipped files of a crate.
pub(crate) struct Crate {
    files: Vec<File>,
}

/// One file of a crate, which is one module.
pub(crate) struct File {
    /// As it was read, from the package's folder.
    pub(crate) path: PathBuf,
    /// The names of the modules around it, and its own; empty for the root.
    module: Vec<String>,
    pub(crate) tokens: Vec<Token>,
}

/// Where one top module names another, the first of the places.
pub(crate) type Edges = BTreeMap<(String, String), String>;

impl Crate {
    /// Reads a crate from its root file on, by what `read` returns for a path: the text of a file, or nothing when there
    /// is none.
    ///
    /// # Panics
    /// When a module is declared whose file is not there.
    pub(crate) fn read(root: &Path, read: impl Fn(&Path) -> Option<String>) -> Crate {
        let mut files = Vec::new();
        let mut unread = vec![(root.to_owned(), Vec::new())];
        while let Some((path, module)) = unread.pop() {
            let text = read(&path).unwrap_or_else(|| panic!("{} is not there", path.display()));
            let tokens = shipped_tokens(&text);
            let is_folder = module.is_empty() || path.ends_with("mod.rs");
            let folder = if is_folder { path.with_file_name("") } else { path.with_extension("") };
            for at in 0..tokens.len() {
                if !texts_at(&tokens, at, &["mod"]) || !texts_at(&tokens, at + 2, &[";"]) {
                    continue;
                }
                let name = &tokens[at + 1].text;
                let candidates = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
                let file = candidates.iter().find(|path| read(path).is_some());
                let file = file.unwrap_or_else(|| panic!("{} has no file for `mod {name}`", path.display()));
                let below = module.iter().chain([name]).cloned().collect();
                unread.push((file.clone(), below));
            }
            files.push(File { path, module, tokens });
        }
        files.sort_by(|one, other| one.path.cmp(&other.path));
        Crate { files }
    }

    pub(crate) fn files(&self) -> &[File] {
        &self.files
    }

    /// Returns which top module names which other, by `crate::` or by as many `super::`.
    pub(crate) fn edges(&self) -> Edges {
        let tops: BTreeSet<&String> = self.files.iter().filter_map(|file| file.module.first()).collect();
        let reexports = self.reexports();
        let mut edges = Edges::new();
        for file in &self.files {
            let Some(from) = file.module.first() else { continue };
            for (name, line) in file.names_at_root() {
                let to = reexports.get(&name).unwrap_or(&name);
                if to != from && tops.contains(to) {
                    let place = format!("{}:{line}", file.path.display());
                    edges.entry((from.clone(), to.clone())).or_insert(place);
                }
            }
        }
        edges
    }

    /// The names that the root has from its modules by `use`, and from which.
    fn reexports(&self) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        for root in self.files.iter().filter(|file| file.module.is_empty()) {
            for at in 0..root.tokens.len() {
                if texts_at(&root.tokens, at, &["use"]) {
                    for (path, name) in use_paths(&root.tokens, at + 1) {
                        let module = path.into_iter().find(|word| word != "crate" && word != "self");
                        names.extend(module.map(|module| (name, module)));
                    }
                }
            }
        }
        names
    }
}

impl File {
    /// The names that this file looks up at the root, and their lines.
    fn names_at_root(&self) -> Vec<(String, usize)> {
        let mut names = Vec::new();
        for (at, token) in self.tokens.iter().enumerate() {
            // The first word of a path: what stands before it is no `::`.
            let is_first = at < 2 || !texts_at(&self.tokens, at - 2, &[":", ":"]);
            let mut behind = at + 1;
            let is_at_root = match &*token.text {
                "crate" => true,
                "super" => {
                    let mut levels = 1;
                    while texts_at(&self.tokens, behind, &[":", ":", "super"]) {
                        (levels, behind) = (levels + 1, behind + 3);
                    }
                    levels == self.module.len() + self.inline_modules_around(at)
                }
                _ => false,
            };
            if !is_first || !is_at_root || !texts_at(&self.tokens, behind, &[":", ":"]) {
                continue;
            }
            for (path, _) in use_paths(&self.tokens, behind + 2) {
                names.extend(path.into_iter().next().map(|name| (name, token.line)));
            }
        }
        names
    }

    /// How many `mod name {` of this file are open at this token.
    fn inline_modules_around(&self, at: usize) -> usize {
        let starts = (0..at).filter(|start| {
            texts_at(&self.tokens, *start, &["mod"]) && texts_at(&self.tokens, start + 2, &["{"])
        });
        starts.filter(|start| group_end(&self.tokens, start + 2) > at).count()
    }
}

/// Returns the paths of a use tree, or the one path, that begins at `at`, and the name that each gives to its last.
fn use_paths(tokens: &[Token], mut at: usize) -> Vec<(Vec<String>, String)> {
    let mut path = Vec::new();
    while let Some(token) = tokens.get(at) {
        if token.text == "{" {
            let end = group_end(tokens, at);
            let mut paths = Vec::new();
            let mut start = at + 1;
            while start < end - 1 {
                let below = use_paths(tokens, start).into_iter();
                paths.extend(below.map(|(rest, name)| ([&path[..], &rest[..]].concat(), name)));
                start = tree_end(tokens, start, end - 1) + 1;
            }
            return paths;
        }
        path.push(token.text.clone());
        at += 1;
        if !texts_at(tokens, at, &[":", ":"]) {
            break;
        }
        at += 2;
    }
    let alias = tokens.get(at + 1).filter(|_| texts_at(tokens, at, &["as"]));
    let name = alias.map(|alias| alias.text.clone()).or_else(|| path.last().cloned());
    vec![(path, name.unwrap_or_default())]
}

/// Returns where the tree in a group ends that begins at `at`: at its comma, or at the group's end.
fn tree_end(tokens: &[Token], mut at: usize, end: usize) -> usize {
    while at < end && tokens[at].text != "," {
        at = if tokens[at].text == "{" { group_end(tokens, at) } else { at + 1 };
    }
    at
}

/// Returns the modules of which each names another that names it in turn, if only by way of further ones, and the places
/// where it does.
pub(crate) fn circles(edges: &Edges) -> BTreeMap<String, Vec<String>> {
    let reached_from = |start: &String| {
        let (mut reached, mut unseen) = (BTreeSet::new(), vec![start]);
        while let Some(module) = unseen.pop() {
            for (_, to) in edges.keys().filter(|(from, _)| from == module) {
                if reached.insert(to) {
                    unseen.push(to);
                }
            }
        }
        reached
    };
    let mut circles: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for ((from, to), place) in edges {
        if reached_from(to).contains(from) {
            circles.entry(from.clone()).or_default().push(format!("{from} -> {to} at {place}"));
        }
    }
    circles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(files: &'static [(&'static str, &'static str)]) -> Crate {
        Crate::read(Path::new("src/lib.rs"), |path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path);
            file.map(|(_, text)| (*text).to_owned())
        })
    }

    fn edges(files: &'static [(&'static str, &'static str)]) -> Vec<String> {
        let edges = fixture(files).edges();
        edges.into_iter().map(|((from, to), place)| format!("{from} -> {to} at {place}")).collect()
    }

    #[test]
    fn every_way_to_name_another_module_is_found() {
        for (text, expected) in [
            ("use crate::b::X;", Some("a -> b at src/a.rs:1")),
            ("\nuse crate::{\n c::d, b::{self, X},\n};", Some("a -> b at src/a.rs:2")),
            ("fn f(x: &crate::b::X) {}", Some("a -> b at src/a.rs:1")),
            ("pub(crate) use crate::{b as other};", Some("a -> b at src/a.rs:1")),
            ("use crate::Renamed;", Some("a -> b at src/a.rs:1")),
            ("use super::b;", Some("a -> b at src/a.rs:1")),
            ("mod inner { use super::super::b; use super::x; }", Some("a -> b at src/a.rs:1")),
            ("use super::super::b;", None),
            ("use crate::a::b;", None),
            ("use other::crate_::b; // crate::b", None),
            ("pub(in crate::a) fn f() -> &'static str { \"crate::b\" }", None),
            ("#[cfg(test)] mod tests { use crate::b; }", None),
        ] {
            let files: &'static [_] = Vec::leak(vec![
                ("src/lib.rs", "mod a; mod b; mod c; pub use b::{X, Y as Renamed};"),
                ("src/a.rs", text),
                ("src/b.rs", ""),
                ("src/c.rs", ""),
            ]);
            let found: Vec<_> = edges(files).into_iter().filter(|edge| edge.contains("-> b")).collect();
            assert_eq!(found, Vec::from_iter(expected), "{text}");
        }
    }

    #[test]
    fn modules_are_followed_into_folders_and_not_into_tests() {
        let files = &[
            ("src/lib.rs", "mod a; pub mod b;"),
            ("src/a.rs", "mod c; #[cfg(test)] mod tests;"),
            ("src/a/c.rs", "use super::super::b; use super::d;"),
            ("src/b/mod.rs", "mod e;"),
            ("src/b/e.rs", "use crate::a::X;"),
        ];
        let paths: Vec<_> =
            fixture(files).files().iter().map(|file| file.path.display().to_string()).collect();
        assert_eq!(paths, ["src/a/c.rs", "src/a.rs", "src/b/e.rs", "src/b/mod.rs", "src/lib.rs"]);
        assert_eq!(edges(files), ["a -> b at src/a/c.rs:1", "b -> a at src/b/e.rs:1"]);
    }

    #[test]
    fn each_circle_is_found_with_its_places_and_nothing_else() {
        let edges: Edges =
            [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a"), ("f", "g"), ("g", "f")]
                .into_iter()
                .map(|(from, to)| ((from.to_owned(), to.to_owned()), format!("{from}.rs:1")))
                .collect();
        let found: Vec<_> = circles(&edges).into_values().flatten().collect();
        let places = [
            "a -> b at a.rs:1",
            "b -> c at b.rs:1",
            "c -> a at c.rs:1",
            "f -> g at f.rs:1",
            "g -> f at g.rs:1",
        ];
        assert_eq!(found, places);
    }
}
