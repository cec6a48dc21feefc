//! Claims about the source: what may use what, and which words are retired.

mod modules;
mod scan;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use modules::{Edge, Modules, circles, rust_files};

/// From the top down, as in `src/README.md`. A layer uses its own modules and those below.
const LAYERS: &[&[&str]] = &[
    &["main", "cli"],
    &["server"],
    &["http"],
    &["api"],
    &["doctor"],
    &["acme", "backup", "push", "sync"],
    &["federation"],
    &["rooms", "users", "media"],
    &["protocol"],
    &["store"],
    &[
        "body_budget",
        "cache",
        "clock",
        "config",
        "executor",
        "fair_semaphore",
        "gauges",
        "shares",
        "logging",
        "pool",
        "rates",
        "request_counts",
        "runs",
        "single_flight",
        "stop",
        "systemd",
    ],
];

/// Folders that use nothing of each other: what both need is in the folder around them.
const SEPARATE: [[&str; 2]; 1] = [["api/client/", "api/federation/"]];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn layer(file: &str) -> usize {
    let top = file.split(['/', '.']).next().expect("a name");
    LAYERS
        .iter()
        .position(|modules| modules.contains(&top))
        .unwrap_or_else(|| panic!("`{top}` is in no layer: add it to LAYERS and to src/README.md"))
}

fn uses() -> BTreeSet<Edge> {
    let modules = Modules::read(&src());
    let missing: Vec<_> = LAYERS.concat();
    let missing: Vec<_> = missing
        .into_iter()
        .filter(|name| !modules.top_level().contains(name))
        .collect();
    assert!(
        missing.is_empty(),
        "LAYERS names what is not there: {missing:?}"
    );
    let mut edges = modules.edges();
    edges.retain(|edge| edge.from != "lib.rs" && edge.to != "lib.rs");
    edges
}

fn lines(edges: &[Edge]) -> String {
    let lines = edges.iter().map(|edge| {
        let Edge { from, to, what } = edge;
        format!("  src/{from} uses `{what}` of src/{to}\n")
    });
    lines.collect()
}

#[test]
fn no_layer_uses_one_above_it() {
    let upward: Vec<Edge> = uses()
        .into_iter()
        .filter(|edge| layer(&edge.to) < layer(&edge.from))
        .collect();
    assert!(
        upward.is_empty(),
        "uses of a layer above:\n{}",
        lines(&upward)
    );
}

#[test]
fn separate_folders_use_nothing_of_each_other() {
    let is_between = |edge: &Edge, [one, other]: [&str; 2]| {
        edge.from.starts_with(one) && edge.to.starts_with(other)
            || edge.from.starts_with(other) && edge.to.starts_with(one)
    };
    let crossing: Vec<Edge> = uses()
        .into_iter()
        .filter(|edge| SEPARATE.iter().any(|pair| is_between(edge, *pair)))
        .collect();
    assert!(
        crossing.is_empty(),
        "uses of a separate folder:\n{}",
        lines(&crossing)
    );
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let circles = circles(&uses());
    let circles: Vec<_> = circles.iter().map(|circle| lines(circle)).collect();
    assert!(
        circles.is_empty(),
        "{} circles, the shortest first:\n{}",
        circles.len(),
        circles.join("\n")
    );
}

/// Whether `text` has `phrase` with no letter or digit before and behind it.
fn has_words(text: &str, phrase: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric();
    text.match_indices(phrase).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + phrase.len()..].starts_with(is_part)
    })
}

#[test]
fn no_retired_word_is_in_the_source() {
    let list = fs::read_to_string(src().with_file_name("tests/source/retired_words.txt"));
    let list = list.expect("the list");
    let retired = list
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut found = Vec::new();
    for path in rust_files(&src()) {
        let source = fs::read_to_string(&path).expect("a source file");
        let file = path
            .strip_prefix(src())
            .expect("in src")
            .display()
            .to_string();
        for (number, line) in source.lines().enumerate() {
            for word in retired.clone().filter(|word| has_words(line, word)) {
                found.push(format!("  src/{file}:{}: {word}", number + 1));
            }
        }
    }
    assert!(
        found.is_empty(),
        "{} retired words:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// The uses in a crate of these files, as (from, to).
fn uses_in(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, source) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, source).expect("written");
    }
    let edges = Modules::read(directory.path()).edges();
    edges.into_iter().map(|edge| (edge.from, edge.to)).collect()
}

#[test]
fn a_use_through_a_facade_counts_for_the_file_that_defines_it() {
    let uses = uses_in(&[
        ("lib.rs", "mod top; mod low;"),
        (
            "top.rs",
            "use crate::low::{self, Thing as Other}; fn f() { low::run(); }",
        ),
        (
            "low/mod.rs",
            "mod inner; mod run; pub use self::{inner::Thing, run::run};",
        ),
        ("low/inner.rs", "pub struct Thing;"),
        ("low/run.rs", "use super::Thing; pub fn run() {}"),
    ]);
    let expected = [
        ("low/run.rs", "low/inner.rs"),
        ("top.rs", "low/inner.rs"),
        ("top.rs", "low/run.rs"),
    ];
    assert_eq!(
        uses,
        expected.map(|(from, to)| (from.to_owned(), to.to_owned()))
    );
}

#[test]
fn comments_literals_and_tests_use_nothing() {
    let uses = uses_in(&[
        ("lib.rs", "mod a; mod b;"),
        (
            "a.rs",
            "// crate::b::f\n/* crate::b::f */ #[cfg(test)] mod tests; const T: &str = \"crate::b::f\";",
        ),
        ("a/tests.rs", "use crate::b::f;"),
        (
            "b.rs",
            "#[cfg(test)] mod tests { use crate::a::T; } #[cfg(test)] use crate::a::T; pub fn f() {}",
        ),
    ]);
    assert!(uses.is_empty(), "{uses:?}");
}

#[test]
fn the_shortest_circle_is_found() {
    let edge = |from: &str, to: &str| Edge {
        from: from.to_owned(),
        to: to.to_owned(),
        what: String::new(),
    };
    let edges = [
        edge("a", "b"),
        edge("b", "c"),
        edge("c", "a"),
        edge("c", "b"),
        edge("d", "a"),
    ];
    let circles = circles(&edges.into());
    assert_eq!(circles[0], [edge("b", "c"), edge("c", "b")]);
    assert_eq!(circles.len(), 2);
}
