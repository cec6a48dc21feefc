//! The census: every endpoint of the specification that a homeserver serves is served here, or
//! stands in `tests/census/not_served.txt`.
//!
//! `tests/census/endpoints.tsv` holds the operations of specification v1.19's client-server and
//! server-server APIs. Whether one is served is asked of the server itself: it is when the answer
//! is anything but [`M_UNRECOGNIZED`].
//!
//! [`M_UNRECOGNIZED`]: https://spec.matrix.org/v1.19/client-server-api/#common-error-codes

use std::{collections::BTreeSet, fmt::Write};

use http::Method;
use serde_json::Value;

use crate::home::Home;

const ENDPOINTS: &str = include_str!("../census/endpoints.tsv");
const NOT_SERVED: &str = include_str!("../census/not_served.txt");

/// An endpoint, as `METHOD /path/{argument}`.
pub type Endpoint<'a> = (&'a str, &'a str);

pub fn endpoints() -> BTreeSet<Endpoint<'static>> {
    let lines = ENDPOINTS.lines().skip(1);
    let fields = lines.map(|line| line.split('\t').collect::<Vec<_>>());
    fields.map(|fields| (fields[1], fields[2])).collect()
}

fn not_served() -> BTreeSet<Endpoint<'static>> {
    let lines = NOT_SERVED.lines();
    lines
        .map(|line| line.split_once(' ').expect("a method and a path"))
        .collect()
}

/// The path with something in the place of each argument.
fn example(path: &str) -> String {
    let segments = path.split('/');
    let filled = segments.map(|segment| {
        if segment.starts_with('{') {
            "x"
        } else {
            segment
        }
    });
    filled.collect::<Vec<_>>().join("/")
}

fn is_served(home: &Home, (method, path): Endpoint<'_>) -> bool {
    let method: Method = method.parse().expect("this is a method");
    let (_, body) = home.ask(method, &example(path), Value::Null);
    body["errcode"] != "M_UNRECOGNIZED"
}

fn list<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint<'a>>) -> String {
    let mut list = String::new();
    for (method, path) in endpoints {
        let _ = writeln!(list, "{method} {path}");
    }
    list
}

#[test]
fn every_endpoint_of_the_specification_is_served_or_known_not_to_be() {
    let home = Home::new();
    let endpoints = endpoints();
    assert!(endpoints.len() > 190, "the census has lost endpoints");
    let missing: BTreeSet<_> = endpoints
        .into_iter()
        .filter(|endpoint| !is_served(&home, *endpoint))
        .collect();
    let known = not_served();
    let (gone, come) = (
        list(missing.difference(&known)),
        list(known.difference(&missing)),
    );
    assert!(
        gone.is_empty() && come.is_empty(),
        "tests/census/not_served.txt is wrong\n\
         not served, and not in the list:\n{gone}\n\
         in the list, and served (or no endpoint at all):\n{come}"
    );
}
