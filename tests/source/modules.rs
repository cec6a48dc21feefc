//! Which file takes something from which other one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

use crate::scan::Mentions;

/// The segments behind `crate`.
type ModulePath = Vec<String>;

/// All modules of `src` that are not only for tests.
pub struct Modules {
    files: BTreeMap<ModulePath, File>,
}

struct File {
    /// Relative to `src`, with `/`.
    name: String,
    mentions: Mentions,
}

/// One file takes `what` from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub from: String,
    pub to: String,
    pub what: String,
}

impl Modules {
    pub fn read(src: &Path) -> Self {
        let mut files = BTreeMap::new();
        for path in rust_files(src) {
            let relative = path.strip_prefix(src).expect("in src").with_extension("");
            let mut module: ModulePath = relative
                .iter()
                .map(|part| part.to_str().expect("UTF-8").to_owned())
                .collect();
            if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
                module.pop();
            }
            let name = path.strip_prefix(src).expect("in src");
            let name = name.to_str().expect("UTF-8").to_owned();
            let source = fs::read_to_string(&path).expect("a source file");
            let mentions = Mentions::of(&source);
            files.insert(module, File { name, mentions });
        }
        let only_for_tests: Vec<ModulePath> = files
            .iter()
            .flat_map(|(module, file)| {
                let names = file.mentions.test_modules.iter();
                names.map(|name| [&module[..], std::slice::from_ref(name)].concat())
            })
            .collect();
        files.retain(|module, _| !only_for_tests.iter().any(|test| module.starts_with(test)));
        Self { files }
    }

    /// The first segments of all modules.
    pub fn top_level(&self) -> BTreeSet<&str> {
        let modules = self.files.keys();
        modules
            .filter_map(|module| Some(&**module.first()?))
            .collect()
    }

    /// Every use of something that another file defines, whatever it is re-exported by.
    pub fn edges(&self) -> BTreeSet<Edge> {
        let mut edges = BTreeSet::new();
        for (module, file) in &self.files {
            let uses = file.mentions.uses.iter().filter(|it| {
                // A facade: others take it from here.
                !it.is_public || file.mentions.words.contains(&it.name)
            });
            let uses = uses.map(|it| &it.path);
            for path in uses.chain(&file.mentions.paths) {
                let Some(target) = self.defining(module, path) else {
                    continue;
                };
                if target != file.name {
                    edges.insert(Edge {
                        from: file.name.clone(),
                        to: target.to_owned(),
                        what: path.join("::"),
                    });
                }
            }
        }
        edges
    }

    /// The file that defines what `module` calls `path`. None for a module and what is not of this
    /// crate.
    fn defining(&self, module: &[String], path: &[String]) -> Option<&str> {
        let (first, mut rest) = path.split_first()?;
        let mut base = module.to_vec();
        match first.as_str() {
            "crate" => base.clear(),
            "hearth" if module == ["main"] => base.clear(),
            "self" => {}
            "super" => {
                base.pop();
                while rest.first().is_some_and(|segment| segment == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            _ => {
                let own = &self.files[module].mentions;
                let is_own = own.uses.iter().any(|it| it.name == *first)
                    || self
                        .files
                        .contains_key(&[module, std::slice::from_ref(first)].concat());
                return is_own.then(|| self.item(&base, path, 0)).flatten();
            }
        }
        self.item(&base, rest, 0)
    }

    /// The file that defines what is at `path` in `module`.
    fn item(&self, module: &[String], path: &[String], depth: usize) -> Option<&str> {
        let file = self.files.get(module)?;
        let (first, rest) = path.split_first()?;
        let child = [module, std::slice::from_ref(first)].concat();
        let imported = file.mentions.uses.iter().find(|it| it.name == *first);
        // A function may have the name of its module.
        if self.files.contains_key(&child) && (imported.is_none() || !rest.is_empty()) {
            return self.item(&child, rest, depth);
        }
        let Some(imported) = imported else {
            return Some(&file.name);
        };
        if depth > 20 {
            return None; // An import of an outside crate under its own name.
        }
        let whole = [&imported.path[..], rest].concat();
        let (start, behind) = whole.split_first()?;
        match start.as_str() {
            "crate" => self.item(&[], behind, depth + 1),
            "self" => self.item(module, behind, depth + 1),
            "super" => {
                let ups = whole
                    .iter()
                    .take_while(|segment| *segment == "super")
                    .count();
                self.item(&module[..module.len() - ups], &whole[ups..], depth + 1)
            }
            own if self
                .files
                .contains_key(&[module, &[own.to_owned()]].concat()) =>
            {
                self.item(module, &whole, depth + 1)
            }
            _ => None,
        }
    }
}

/// For every file in a circle one that it is in, the shortest first, as their edges.
pub fn circles(edges: &BTreeSet<Edge>) -> Vec<Vec<Edge>> {
    let mut outgoing: BTreeMap<&str, Vec<&Edge>> = BTreeMap::new();
    for edge in edges {
        outgoing.entry(&edge.from).or_default().push(edge);
    }
    let starts = outgoing.keys();
    let mut circles: Vec<Vec<&Edge>> = starts
        .filter_map(|start| shortest_circle(start, &outgoing))
        .collect();
    circles.sort_by_key(Vec::len);
    let mut seen = BTreeSet::new();
    circles.retain(|circle| {
        let before = seen.len();
        seen.extend(circle.iter().map(|edge| edge.from.clone()));
        seen.len() > before
    });
    let owned = circles
        .into_iter()
        .map(|circle| circle.into_iter().cloned().collect());
    owned.collect()
}

fn shortest_circle<'e>(
    start: &str,
    outgoing: &BTreeMap<&str, Vec<&'e Edge>>,
) -> Option<Vec<&'e Edge>> {
    let mut reached_by: BTreeMap<&str, &Edge> = BTreeMap::new();
    let mut waiting = VecDeque::from([start]);
    while let Some(file) = waiting.pop_front() {
        for edge in outgoing.get(file).into_iter().flatten() {
            if reached_by.contains_key(&*edge.to) {
                continue;
            }
            reached_by.insert(&edge.to, edge);
            if edge.to != start {
                waiting.push_back(&edge.to);
                continue;
            }
            let mut circle = vec![*edge];
            while circle[0].from != start {
                circle.insert(0, reached_by[&*circle[0].from]);
            }
            return Some(circle);
        }
    }
    None
}

/// Every file below `directory` whose name ends in `.rs`.
pub fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}
