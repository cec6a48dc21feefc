//! The two well-known files at the server's name: where other servers and where clients find it.
//!
//! Sources: server-server API, "Server discovery"; client-server API, "Well-known URI".

use http::{Response, StatusCode, header};
use hyper::body::Bytes;
use ruma::{OwnedServerName, ServerName};

use super::{
    finding::{Finding, State},
    visit::{self, Visits, cors_problem, json},
};
use crate::{
    executor::Executor,
    federation::{Scheme, WebUrl, probe::Probe},
};

const CHECK: &str = "well-known";
const SERVER_PATH: &str = "/.well-known/matrix/server";
const CLIENT_PATH: &str = "/.well-known/matrix/client";
const MAX_REDIRECTS: usize = 3;

/// A page and the redirects before it.
pub(super) struct Fetched {
    pub visits: Visits,
    /// What is wrong with a redirect.
    redirect_problem: Option<String>,
    /// The first response that a page of another site may not read.
    cors_problem: Option<&'static str>,
}

pub(super) async fn fetch_server(over: (&Probe, &Executor), name: &ServerName) -> Fetched {
    fetch(over, name.host(), SERVER_PATH).await
}

pub(super) async fn fetch_client(over: (&Probe, &Executor), name: &ServerName) -> Fetched {
    fetch(over, name.host(), CLIENT_PATH).await
}

async fn fetch((probe, executor): (&Probe, &Executor), host: &str, path: &str) -> Fetched {
    let mut url = WebUrl {
        scheme: Scheme::Https,
        host: host.to_owned(),
        port: None,
        path: path.to_owned(),
    };
    let (mut cors, mut redirects) = (None, 0);
    loop {
        let site = visit::site(&url.host, url.port, probe.https_port());
        let addresses = visit::addresses(probe, &url.host).await;
        let visits = visit::get((probe, executor), site, &addresses, &url.path).await;
        let mut fetched = Fetched {
            redirect_problem: None,
            cors_problem: cors,
            visits,
        };
        let Some(response) = fetched.visits.response() else {
            return fetched;
        };
        cors = cors.or_else(|| cors_problem(response));
        fetched.cors_problem = cors;
        if !response.status().is_redirection() {
            return fetched;
        }
        let location = response.headers().get(header::LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let location = location.unwrap_or("nowhere");
        let problem = match url.redirected(location) {
            None => format!("leads to {location}, which is no web page"),
            Some(to) if to.scheme == Scheme::Http => {
                format!("leads to {location}, which is not https")
            }
            Some(_) if redirects == MAX_REDIRECTS => "leads from one page to the next".to_owned(),
            Some(to) => {
                url = to;
                redirects += 1;
                continue;
            }
        };
        fetched.redirect_problem = Some(problem);
        return fetched;
    }
}

impl Fetched {
    /// The page, or why there is none: what is wrong, and whether somebody meant there to be one.
    fn page(&self) -> Result<&Response<Bytes>, (String, bool)> {
        if let Some(problem) = &self.redirect_problem {
            return Err((problem.clone(), true));
        }
        if let Some(certificate) = self.visits.certificates().next()
            && certificate.verdict.is_err()
        {
            return Err(("has no valid certificate".to_owned(), true));
        }
        match self.visits.response() {
            Some(response) if response.status() == StatusCode::OK => Ok(response),
            Some(response) => {
                let status = response.status();
                Err((format!("answers {status}"), status != StatusCode::NOT_FOUND))
            }
            None => Err(match self.visits.failure() {
                Some(failure) => (format!("cannot be read ({failure})"), false),
                None => ("is at a host without an address".to_owned(), false),
            }),
        }
    }
}

/// Where other servers are led.
pub(super) enum Delegation {
    To(OwnedServerName),
    /// The name has a port or is an address, so nobody looks for the file.
    NotNeeded,
    /// What is wrong with the file, and whether there is one.
    None(String, bool),
}

impl Delegation {
    pub fn of(name: &ServerName, fetched: &Fetched) -> Self {
        if name.port().is_some() || name.is_ip_literal() {
            return Self::NotNeeded;
        }
        let response = match fetched.page() {
            Ok(response) => response,
            Err((problem, is_there)) => return Self::None(problem, is_there),
        };
        let Some(body) = json(response) else {
            return Self::None("is no JSON".to_owned(), true);
        };
        let Some(server) = body["m.server"].as_str() else {
            return Self::None("has no text `m.server`".to_owned(), true);
        };
        match ServerName::parse(server) {
            Ok(server) => Self::To(server),
            Err(_) => {
                let server: String = server.chars().take(100).collect();
                let problem = format!(
                    "has the `m.server` {server:?}, which is no server name: it is a host, perhaps with a \
                     port, and without https://"
                );
                Self::None(problem, true)
            }
        }
    }

    pub fn to(&self) -> Option<&ServerName> {
        match self {
            Self::To(server) => Some(server),
            _ => None,
        }
    }
}

/// `host` is where the server is; `is_found` if others find it there without the file.
pub(super) fn check_server(
    name: &ServerName,
    delegation: &Delegation,
    host: &str,
    is_found: bool,
) -> Finding {
    let file = format!("https://{}{SERVER_PATH}", name.host());
    let (problem, is_there) = match delegation {
        Delegation::NotNeeded => {
            return Finding::ok(CHECK, format!("{name} needs no {SERVER_PATH}."));
        }
        Delegation::To(server) => {
            return Finding::ok(CHECK, format!("{file} leads other servers to {server}."));
        }
        Delegation::None(problem, is_there) => (problem, *is_there),
    };
    let state = match (is_found, is_there) {
        (true, false) => {
            return Finding::ok(
                CHECK,
                format!("Other servers find {name} without a file at {file}."),
            );
        }
        (true, true) => State::Warning,
        (false, _) => State::Error,
    };
    Finding::new(
        CHECK,
        state,
        format!("{file} {problem}."),
        format!(
            "Let it answer with 200 and {{\"m.server\":\"{host}:443\"}}, so that other servers find this one; \
             hearth answers this itself where it serves https://{}.",
            name.host()
        ),
    )
}

/// `client_url` is where apps should go.
pub(super) fn check_client(name: &ServerName, fetched: &Fetched, client_url: &str) -> Vec<Finding> {
    let file = format!("https://{}{CLIENT_PATH}", name.host());
    let body = format!("{{\"m.homeserver\":{{\"base_url\":\"{client_url}\"}}}}");
    let answer = format!("Let it answer with 200 and {body}");
    let is_at_name = client_url == format!("https://{}", name.host());
    let response = match fetched.page() {
        Ok(response) => response,
        // "IGNORE": apps go on with the server name itself.
        Err((_, false)) if is_at_name => {
            return vec![Finding::ok(
                CHECK,
                format!("Apps find {client_url} without a file at {file}."),
            )];
        }
        Err((problem, _)) => {
            return vec![Finding::error(
                CHECK,
                format!(
                    "{file} {problem}, so that apps do not find {client_url} by the name {name}."
                ),
                format!("{answer}, and the header `Access-Control-Allow-Origin: *`."),
            )];
        }
    };
    let mut findings = Vec::new();
    let base_url = json(response).and_then(|body| {
        let url = body["m.homeserver"]["base_url"].as_str()?;
        Some(url.trim_end_matches('/').to_owned())
    });
    match base_url {
        None => findings.push(Finding::error(
            CHECK,
            format!("{file} has no `base_url` in `m.homeserver`, so that apps refuse {name}."),
            format!("{answer}."),
        )),
        Some(url) if url != client_url => findings.push(Finding::warning(
            CHECK,
            format!("{file} leads apps to {url:.200}, but this server takes itself to be at {client_url}."),
            "Correct the file, or set `public_url` to where apps should go.",
        )),
        Some(_) => {}
    }
    if let Some(problem) = fetched.cors_problem {
        findings.push(Finding::error(
            CHECK,
            format!("{file} answers {problem}, so that web apps cannot read it."),
            "Have the web server send `Access-Control-Allow-Origin: *` once with it, and with redirects to it.",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            format!("{file} leads apps to {client_url}."),
        ));
    }
    findings
}
