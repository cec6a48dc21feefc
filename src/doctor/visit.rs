//! Requests to a site at each of its addresses.

use std::net::IpAddr;

use http::{Request, Response, header};
use hyper::body::Bytes;
use serde_json::Value;

use crate::{
    executor::Executor,
    federation::probe::{
        Failure, Family, PeerCertificate, Probe, ProbeBody, Reply, Site, empty_body, whole_body,
    },
};

/// How many addresses of a site are visited.
const MAX_ADDRESSES: usize = 6;
/// Of a web page, as browsers send it. Servers that reflect it instead of `*` allow it too.
const ORIGIN: &str = "https://app.element.io";
const USER_AGENT: &str = concat!("hearth/", env!("CARGO_PKG_VERSION"), " (doctor)");

/// What came of a request to one address.
pub(super) struct Visit {
    pub address: IpAddr,
    pub reply: Result<Reply, Failure>,
}

/// All visits of a site.
pub(super) struct Visits {
    pub site: Site,
    pub all: Vec<Visit>,
}

impl Visit {
    pub fn response(&self) -> Result<&Response<Bytes>, &Failure> {
        self.reply.as_ref()?.response.as_ref()
    }

    pub fn certificate(&self) -> Option<&PeerCertificate> {
        Some(&self.reply.as_ref().ok()?.certificate)
    }
}

impl Visits {
    /// The first response that is not a failure of the connection.
    pub fn response(&self) -> Option<&Response<Bytes>> {
        self.all.iter().find_map(|visit| visit.response().ok())
    }

    /// Why there is no response.
    pub fn failure(&self) -> Option<&Failure> {
        let failures = self.all.iter().filter_map(|visit| visit.response().err());
        // That this machine has no IPv6 says least.
        failures.min_by_key(|failure| **failure == Failure::NoRoute)
    }

    pub fn certificates(&self) -> impl Iterator<Item = &PeerCertificate> {
        self.all.iter().filter_map(Visit::certificate)
    }
}

/// The addresses of `host` in both families, as far as name servers answer.
pub(super) async fn addresses(probe: &Probe, host: &str) -> Vec<IpAddr> {
    let (v4, v6) = smol::future::zip(
        probe.addresses(Family::V4, host),
        probe.addresses(Family::V6, host),
    )
    .await;
    [v4, v6].into_iter().flatten().flatten().collect()
}

/// Sends GET requests for `path` to all of `addresses` concurrently.
pub(super) async fn get(
    over: (&Probe, &Executor),
    site: Site,
    addresses: &[IpAddr],
    path: &str,
) -> Visits {
    visit(over, site, addresses, || get_request(path)).await
}

/// Sends POST requests with a JSON body to all of `addresses` concurrently.
pub(super) async fn post(
    over: (&Probe, &Executor),
    site: Site,
    addresses: &[IpAddr],
    (path, body): (&str, &Value),
) -> Visits {
    let request = || {
        Request::post(path)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONTENT_TYPE, "application/json")
            .body(whole_body(body.to_string().into_bytes()))
            .expect("it is a path")
    };
    visit(over, site, addresses, request).await
}

async fn visit(
    (probe, executor): (&Probe, &Executor),
    site: Site,
    addresses: &[IpAddr],
    request: impl Fn() -> Request<ProbeBody>,
) -> Visits {
    let addresses = addresses.iter().take(MAX_ADDRESSES);
    let running: Vec<_> = addresses
        .map(|address| {
            let (probe, site, address) = (probe.clone(), site.clone(), *address);
            let request = request();
            let visit = async move {
                let reply = probe.request(&site, address, request).await;
                Visit { address, reply }
            };
            executor.spawn(visit)
        })
        .collect();
    let mut all = Vec::new();
    for visit in running {
        all.push(visit.await);
    }
    Visits { site, all }
}

fn get_request(path: &str) -> Request<ProbeBody> {
    let request = Request::get(path)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::ORIGIN, ORIGIN)
        .body(empty_body());
    // A path that comes from elsewhere may be none.
    request.unwrap_or_else(|_| Request::new(empty_body()))
}

/// The body as a JSON object.
pub(super) fn json(response: &Response<Bytes>) -> Option<Value> {
    let value: Value = serde_json::from_slice(response.body()).ok()?;
    value.is_object().then_some(value)
}

/// What is wrong with the headers by which browsers decide whether a page of another site may read the
/// response (client-server API, "Web Browser Clients").
pub(super) fn cors_problem(response: &Response<Bytes>) -> Option<&'static str> {
    let name = header::ACCESS_CONTROL_ALLOW_ORIGIN;
    let values = response.headers().get_all(name).iter();
    let values: Vec<_> = values.map(|value| value.to_str().unwrap_or("")).collect();
    match *values {
        [] => Some("without the header `Access-Control-Allow-Origin: *`"),
        [value] if value == "*" || value == ORIGIN => None,
        [value] if !value.contains(',') => {
            Some("with an `Access-Control-Allow-Origin` that is not `*`")
        }
        _ => Some("with the header `Access-Control-Allow-Origin` twice"),
    }
}

/// A host and port in a URL or a delegation.
pub(super) fn site(host: &str, port: Option<u16>, default_port: u16) -> Site {
    Site {
        host: host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
        authority: port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
        port: port.unwrap_or(default_port),
    }
}
