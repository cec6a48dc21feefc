//! Coverage of the specification's endpoints.
//!
//! `tests/endpoints/specification.tsv` lists the operations of specification v1.19's client-server and
//! server-server APIs, `tests/endpoints/not_served.txt` those that are not served, each with the reason behind a
//! tab. An endpoint is served if the server answers it with anything but [`M_UNRECOGNIZED`].
//!
//! [`M_UNRECOGNIZED`]: https://spec.matrix.org/v1.19/client-server-api/#common-error-codes

use std::{collections::BTreeSet, fmt::Write};

use http::Method;
use serde_json::Value;

use crate::test_server::TestServer;

const SPECIFICATION: &str = include_str!("../endpoints/specification.tsv");
const NOT_SERVED: &str = include_str!("../endpoints/not_served.txt");

/// Method and path, with arguments as `{argument}`.
pub type Endpoint<'a> = (&'a str, &'a str);

pub fn endpoints() -> BTreeSet<Endpoint<'static>> {
    let lines = SPECIFICATION.lines().skip(1);
    let fields = lines.map(|line| line.split('\t').collect::<Vec<_>>());
    fields.map(|fields| (fields[1], fields[2])).collect()
}

/// How the reasons begin for which an endpoint may be left out.
const REASONS: [&str; 4] = [
    "application services",
    "OAuth",
    "policy server",
    "third-party identifiers",
];

fn not_served() -> BTreeSet<Endpoint<'static>> {
    let lines = NOT_SERVED.lines();
    let endpoints = lines.map(|line| {
        let (endpoint, reason) = line.split_once('\t').expect("a tab and a reason");
        assert!(
            REASONS.iter().any(|known| reason.starts_with(known)),
            "{endpoint}: {reason:?} is no reason"
        );
        endpoint.split_once(' ').expect("a method and a path")
    });
    endpoints.collect()
}

fn fill_arguments(path: &str) -> String {
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

fn is_served(server: &TestServer, (method, path): Endpoint<'_>) -> bool {
    let method: Method = method.parse().expect("this is a method");
    let (_, body) = server.request(method, &fill_arguments(path), Value::Null);
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
fn every_specified_endpoint_is_served_or_listed_as_not_served() {
    let server = TestServer::new();
    let endpoints = endpoints();
    assert!(endpoints.len() > 190, "endpoints are missing from the list");
    let actual: BTreeSet<_> = endpoints
        .into_iter()
        .filter(|endpoint| !is_served(&server, *endpoint))
        .collect();
    let listed = not_served();
    let (unlisted, outdated) = (
        list(actual.difference(&listed)),
        list(listed.difference(&actual)),
    );
    assert!(
        unlisted.is_empty() && outdated.is_empty(),
        "tests/endpoints/not_served.txt is wrong\n\
         lines to add, as these are not served:\n{unlisted}\n\
         lines to remove, as these are served or do not exist:\n{outdated}"
    );
}
