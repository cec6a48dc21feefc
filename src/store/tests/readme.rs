//! `README.md` describes the tables that there are.

use std::collections::BTreeMap;

use crate::store::TABLES;

/// Key, value and version.
type Shape = (String, String, String);

/// The tables that the catalog's source lists.
fn in_catalog() -> BTreeMap<String, Shape> {
    let source = include_str!("../catalog.rs").replace("&'static ", "&");
    let (_, list) = source.split_once("\ntables! {\n").expect("the list");
    let (list, _) = list.split_once("\n}\n").expect("its end");
    let rows = list
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//"));
    rows.map(|line| {
        let (name, types) = line.split_once(": ").expect("a name");
        let (key, rest) = types.split_once(" => ").expect("a key");
        let (value, version) = rest.split_once(", version ").expect("a value");
        let shape = (key, value, version.trim_end_matches(';'));
        (name.to_owned(), owned(shape))
    })
    .collect()
}

/// The tables that the page describes.
fn on_the_page() -> BTreeMap<String, Shape> {
    let page = include_str!("../README.md");
    let (_, tables) = page.split_once("\n## Tables\n").expect("the tables");
    let (tables, _) = tables.split_once("\n## ").expect("their end");
    let mut described = BTreeMap::new();
    for row in tables.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        let [_, name, key, value, version, meaning, _] = cells[..] else {
            panic!("not five cells: {row}");
        };
        assert!(meaning.len() > 10, "it says nothing: {row}");
        let before = described.insert(name.to_owned(), owned((key, value, version)));
        assert!(before.is_none(), "twice: {row}");
    }
    described
}

fn owned((key, value, version): (&str, &str, &str)) -> Shape {
    (key.to_owned(), value.to_owned(), version.to_owned())
}

#[test]
fn the_readme_lists_every_table_as_it_is() {
    let catalog = in_catalog();
    let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    for name in &names {
        assert!(catalog.contains_key(*name), "the test does not see {name}");
    }
    assert_eq!(catalog.len(), names.len());
    let page = on_the_page();
    for (name, shape) in &catalog {
        let described = page.get(name);
        assert_eq!(described, Some(shape), "README.md on `{name}`");
    }
    for name in page.keys() {
        assert!(catalog.contains_key(name), "there is no table `{name}`");
    }
}
