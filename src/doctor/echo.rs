//! What becomes of a request on its way to this server: sent to itself, through the proxy that may be in front.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use http::{Request, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::finding::Finding;
use crate::{
    config::Size,
    federation::probe::{Failure, Probe, ProbeBody, Site, empty_body, zeros},
};

const CHECK: &str = "proxy";
/// Below it is the nonce, and [`PLAIN`] or [`ENCODED`]. Proxies that pass the paths of Matrix pass it too.
pub const PATHS: [&str; 2] = [
    "/_matrix/client/unstable/hearth.doctor",
    "/_matrix/federation/unstable/hearth.doctor",
];
/// What proxies that decode paths change: an alias as it is in a path.
const ENCODED: &str = "%23a%2Fb%3Ac%25d";
const PLAIN: &str = "a";
/// From the addresses for documentation: nobody has it.
const CLAIMED_ADDRESS: &str = "192.0.2.77";
const FORWARDED: &str = "x-forwarded-for";
const SET_HEADER: &str = "Let it set the header X-Forwarded-For to the address from which they come: in nginx, \
     `proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;`.";
/// 8 MiB: less than what hearth accepts of files and of transactions.
const LARGE_CHUNKS: usize = 128;

/// What arrived of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Echo {
    /// As in the request line.
    pub path: String,
    pub body_bytes: u64,
    /// What counts as the address of the client.
    pub client: IpAddr,
    pub forwarded_for: Option<String>,
}

/// The nonce of the requests that are under way: others get no echo.
#[derive(Debug, Default)]
pub struct Nonce(Mutex<Option<String>>);

impl Nonce {
    pub fn is(&self, nonce: &str) -> bool {
        let current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_deref() == Some(nonce)
    }

    pub(super) fn renew(&self) -> String {
        let nonce = format!("{:032x}", rand::random::<u128>());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce.clone());
        nonce
    }

    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What came back from a site.
pub(super) struct Echoes {
    site: Site,
    /// Of a path without anything that is encoded.
    plain: Result<Echo, Lost>,
    /// The others. None if the plain one was lost.
    more: Option<More>,
}

struct More {
    encoded: Result<Echo, Lost>,
    large: Result<Echo, Lost>,
}

#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Failure(Failure),
    /// Something else than an echo.
    #[error("it answers {0}")]
    Answer(StatusCode),
}

/// Sends echo requests to `site` at `address`. `path` is one of [`PATHS`].
pub(super) async fn send(
    probe: &Probe,
    site: Site,
    address: IpAddr,
    (path, nonce): (&str, &str),
    is_proxied: bool,
) -> Echoes {
    let request = |text: &str, (body, length): (ProbeBody, usize)| {
        let mut request =
            Request::put(format!("{path}/{nonce}/{text}")).header(header::CONTENT_LENGTH, length);
        if is_proxied {
            request = request.header(FORWARDED, CLAIMED_ADDRESS);
        }
        request.body(body).expect("it is a path")
    };
    let exchange = |text, body| exchange(probe, &site, address, request(text, body));
    let plain = exchange(PLAIN, (empty_body(), 0)).await;
    let more = match &plain {
        Ok(_) => Some(More {
            encoded: exchange(ENCODED, (empty_body(), 0)).await,
            large: exchange(PLAIN, zeros(LARGE_CHUNKS)).await,
        }),
        Err(_) => None,
    };
    Echoes { site, plain, more }
}

async fn exchange(
    probe: &Probe,
    site: &Site,
    address: IpAddr,
    request: Request<ProbeBody>,
) -> Result<Echo, Lost> {
    let reply = probe.request(site, address, request).await;
    let response = reply.and_then(|reply| reply.response);
    let response = response.map_err(Lost::Failure)?;
    let echo = serde_json::from_slice(response.body());
    echo.map_err(|_| Lost::Answer(response.status()))
}

/// `is_proxied` if hearth has no TLS listener of its own.
pub(super) fn check(echoes: &Echoes, is_proxied: bool, max_upload: Size) -> Vec<Finding> {
    let at = &echoes.site.authority;
    let who = match is_proxied {
        true => "The proxy",
        false => "What is in front of hearth",
    };
    let (echo, more) = match (&echoes.plain, &echoes.more) {
        (Ok(echo), Some(more)) => (echo, more),
        (Err(lost), _) => {
            return vec![Finding::error(
                CHECK,
                format!("A PUT request to {at} does not arrive: {lost}."),
                "Let the proxy or firewall there pass all methods, for all paths below /_matrix.",
            )];
        }
        (Ok(_), None) => return Vec::new(),
    };
    let mut findings = Vec::new();
    let changed = match &more.encoded {
        Ok(echo) if echo.path.ends_with(ENCODED) => None,
        Ok(echo) => Some(format!("of /{ENCODED} it makes {:.300}", echo.path)),
        Err(lost) => Some(format!("with %2F in the path, {lost}")),
    };
    if let Some(how) = changed {
        findings.push(Finding::error(
            CHECK,
            format!("{who} at {at} decodes or rewrites paths: {how}."),
            "Let it pass paths as they are: in nginx, `proxy_pass http://…:8008;` without a slash at the end; \
             in Apache, `AllowEncodedSlashes NoDecode` and `nocanon`.",
        ));
    }
    match &more.large {
        Ok(_) => {}
        Err(Lost::Failure(Failure::TimedOut)) => findings.push(Finding::unknown(
            CHECK,
            format!("A body of 8 MB to {at} takes too long to see whether it arrives."),
            "On a slow line this is no fault; else look whether the proxy there passes large bodies.",
        )),
        Err(lost) => findings.push(Finding::error(
            CHECK,
            format!("{who} at {at} does not pass a body of 8 MB: {lost}."),
            format!(
                "Raise its limit to `max_upload`, which is {max_upload}: in nginx, `client_max_body_size {}m;`.",
                max_upload.bytes().div_ceil(1 << 20)
            ),
        )),
    }
    if is_proxied {
        findings.extend(check_client_address(at, echo));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            format!("Requests and bodies of 8 MB to {at} arrive unchanged."),
        ));
    }
    findings
}

fn check_client_address(at: &str, echo: &Echo) -> Option<Finding> {
    let client = echo.client.to_string();
    let Some(forwarded) = echo
        .forwarded_for
        .as_deref()
        .filter(|text| *text != CLAIMED_ADDRESS)
    else {
        if client == CLAIMED_ADDRESS {
            return Some(Finding::warning(
                CHECK,
                format!(
                    "The proxy at {at} passes on what clients claim in X-Forwarded-For, and adds nothing."
                ),
                format!(
                    "{SET_HEADER} Otherwise all clients share the limits of one, and who claims another \
                     address gets around those for guessing passwords."
                ),
            ));
        }
        return Some(Finding::warning(
            CHECK,
            format!("The proxy at {at} does not say where requests come from."),
            format!("{SET_HEADER} Otherwise all its clients share the limits of one."),
        ));
    };
    let is_believed = forwarded.split(',').map(str::trim).any(|entry| {
        let with_port = entry.parse::<SocketAddr>().map(|address| address.ip());
        entry.parse().or(with_port) == Ok(echo.client)
    });
    (!is_believed).then(|| {
        Finding::warning(
            CHECK,
            format!("The proxy at {client} in front of {at} is not trusted, so all its clients share the limits of one."),
            format!("Add \"{client}\" to `trusted_proxies`."),
        )
    })
}
