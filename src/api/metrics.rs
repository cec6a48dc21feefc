//! `GET /metrics`: what the owner's monitoring reads, in the text format of Prometheus. It names no users, rooms
//! and servers.
//!
//! Source: "Text-based format" of Prometheus' exposition formats, version 0.0.4.

use std::fmt::{Display, Write};

use ruma::api::{
    IncomingRequest,
    auth_scheme::NoAuthentication,
    error::{DeserializationError, Error as MatrixError},
    metadata,
};
use serde_json::Value;

use super::{Api, Error, Unauthenticated, admin, text::Text};
use crate::gauges::{Kind, Reading};

#[derive(Clone, Copy, Debug)]
pub struct Request;

metadata! {
    method: GET,
    rate_limited: false,
    authentication: NoAuthentication,
    path: "/metrics",
}

impl IncomingRequest for Request {
    type EndpointError = MatrixError;
    type OutgoingResponse = Text;

    fn try_from_http_request_inner(
        _request: http::Request<&[u8]>,
        _path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        Ok(Self)
    }
}

/// `GET /metrics`
pub async fn metrics(api: Api, _client: Unauthenticated, _request: Request) -> Result<Text, Error> {
    let status = admin::status::summary(&api).await?;
    let outcomes = api.federation.client().answered().outcomes();
    let mut page = Page::default();
    page.metric("hearth_info", "gauge", "The version.");
    page.sample(
        "hearth_info",
        &[("version", &env!("CARGO_PKG_VERSION"))],
        &1,
    );
    page.metric(
        "hearth_memory_bytes",
        "gauge",
        "Memory, in use and allowed.",
    );
    page.samples("hearth_memory_bytes", "", &status["memory"]);
    page.metric(
        "hearth_memory_consumer_bytes",
        "gauge",
        "Memory in use, by consumer.",
    );
    page.readings(
        "hearth_memory_consumer_bytes",
        "consumer",
        api.gauges.read(Kind::Memory),
    );
    page.metric("hearth_queued", "gauge", "What waits in memory.");
    page.readings("hearth_queued", "queue", api.gauges.read(Kind::Queue));
    page.metric("hearth_connections", "gauge", "Open connections.");
    page.readings(
        "hearth_connections",
        "listeners",
        api.gauges.read(Kind::Connections),
    );
    page.metric("hearth_disk_bytes", "gauge", "Disk, in use and free.");
    page.samples("hearth_disk_bytes", "", &status["disk"]);
    page.metric(
        "hearth_items",
        "gauge",
        "What the database has, and what waits in it.",
    );
    page.samples("hearth_items", "", &status["counts"]);
    page.metric(
        "hearth_federation_requests_total",
        "counter",
        "Requests to other servers.",
    );
    for (outcome, count) in outcomes {
        page.sample(
            "hearth_federation_requests_total",
            &[("outcome", &outcome)],
            &count,
        );
    }
    page.metric(
        "hearth_http_requests_total",
        "counter",
        "Requests that were answered.",
    );
    for (kind, count) in api.requests.all() {
        let labels: [(&str, &dyn Display); 3] = [
            ("method", &kind.method),
            ("endpoint", &kind.endpoint),
            ("status", &kind.status),
        ];
        page.sample("hearth_http_requests_total", &labels, &count);
    }
    Ok(Text {
        content_type: "text/plain; version=0.0.4; charset=utf-8",
        body: page.0,
    })
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// No label has a quote, a backslash or a line break.
    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: &dyn Display) {
        self.0 += name;
        for (at, (label, text)) in labels.iter().enumerate() {
            let separator = if at == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{separator}{label}=\"{text}\"");
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    /// A sample for each gauge.
    fn readings(&mut self, name: &str, label: &str, readings: Vec<Reading>) {
        for reading in readings {
            self.sample(name, &[(label, &reading.name)], &reading.usage.used);
        }
    }

    /// A sample for each number in `value`, named by its keys.
    fn samples(&mut self, name: &str, prefix: &str, value: &Value) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let key = format!("{prefix}{key}");
            match value.as_u64() {
                Some(number) => self.sample(name, &[("kind", &key)], &number),
                None => self.samples(name, &format!("{key}_"), value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Page;

    #[test]
    fn each_number_is_a_sample_with_its_keys_as_label() {
        let mut page = Page::default();
        page.metric("a", "gauge", "Some help.");
        page.samples("a", "", &json!({ "x": 1, "none": null, "y": { "z": 2 } }));
        page.sample("b", &[], &3);
        page.sample("c", &[("d", &"e"), ("f", &4)], &5);
        let expected = "# HELP a Some help.\n# TYPE a gauge\na{kind=\"x\"} 1\na{kind=\"y_z\"} 2\n\
                        b 3\nc{d=\"e\",f=\"4\"} 5\n";
        assert_eq!(page.0, expected);
    }
}
