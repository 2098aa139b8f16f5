//! The rules of the tree that no compiler checks: which module may name which, which one knows lapin, how long a file may
//! be, that a type's name means one thing, and that the oldest Rust that is supported can build it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what it expects by unwrapping it"
)]

mod modules;
mod names;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use modules::Crate;

const CIRCLE: &str = "is in a circle of imports";
const DOUBLE: &str = "is the name of several types";
const GUARD: &str = "has an `if let` guard, which Rust 1.89 cannot build";
const LAPIN: &str = "names lapin, which is for src/backend/amqp alone";
const LONG: &str = "is longer than 500 lines";

#[test]
fn the_tree_keeps_its_rules() {
    std::env::set_current_dir(env!("CARGO_MANIFEST_DIR")).unwrap();
    let report = report(&violations());
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn violations_are_reported_with_their_places() {
    let found =
        [((LONG, "a.rs".to_owned()), vec!["501 lines".to_owned()]), ((LAPIN, "b.rs".to_owned()), vec![])];
    let lapin = "b.rs names lapin, which is for src/backend/amqp alone\n";
    assert_eq!(report(&found.into()), format!("a.rs is longer than 500 lines\n    501 lines\n{lapin}"));
}

#[test]
fn an_arm_with_an_if_let_guard_is_found_and_no_other_if_let() {
    let arms = ["None if let Some(end) = end.take() => {", "if let Some(head) = known(bytes) => true,"];
    for arm in arms {
        assert_eq!(guards(&format!("match one {{\n    {arm}\n}}")), [arm]);
    }
    let others = "if let Some(one) = one {\n} else if let Some(two) = two {\n}\nA => if let B = b { c }";
    assert!(guards(others).is_empty());
}

/// What breaks which rule, and the places.
type Violations = BTreeMap<(&'static str, String), Vec<String>>;

/// Reports the violations; empty when there are none.
fn report(found: &Violations) -> String {
    let mut report = String::new();
    for ((rule, thing), places) in found {
        report += &format!("{thing} {rule}\n");
        places.iter().for_each(|place| report += &format!("    {place}\n"));
    }
    report
}

fn violations() -> Violations {
    let shipped = Crate::read(Path::new("src/lib.rs"), |path| fs::read_to_string(path).ok());
    let mut found = BTreeMap::new();
    found.extend(modules::circles(&shipped.edges()).into_iter().map(|(module, at)| ((CIRCLE, module), at)));
    found.extend(names::doubles(&shipped).into_iter().map(|(name, at)| ((DOUBLE, name), at)));
    for path in files_below("src") {
        if !path.starts_with("src/backend/amqp") && fs::read_to_string(&path).unwrap().contains("lapin") {
            found.insert((LAPIN, path.display().to_string()), Vec::new());
        }
    }
    for path in ["loadtest/src", "src"].into_iter().flat_map(files_below) {
        let guards = guards(&fs::read_to_string(&path).unwrap());
        if !guards.is_empty() {
            found.insert((GUARD, path.display().to_string()), guards);
        }
    }
    for path in
        ["benches", "examples", "loadtest", "scripts", "src", "tests"].into_iter().flat_map(files_below)
    {
        // Rust, and scripts, whose names have no ending.
        let is_code = path.extension().is_none_or(|ending| ending == "rs");
        let lines = if is_code { fs::read_to_string(&path).unwrap().lines().count() } else { 0 };
        if lines > 500 {
            found.insert((LONG, path.display().to_string()), vec![format!("{lines} lines")]);
        }
    }
    found
}

/// Returns the lines of arms that are chosen by an `if let`: what a compiler of today takes without a word.
fn guards(text: &str) -> Vec<String> {
    let is_guard = |line: &&str| line.split_once("if let ").is_some_and(|(_, rest)| rest.contains(" => "));
    let code = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    code.filter(is_guard).map(str::to_owned).collect()
}

fn files_below(folder: &str) -> Vec<PathBuf> {
    let (mut files, mut unread) = (Vec::new(), vec![PathBuf::from(folder)]);
    while let Some(folder) = unread.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let list = if entry.file_type().unwrap().is_dir() { &mut unread } else { &mut files };
            list.push(entry.path());
        }
    }
    files
}
