//! Why an order failed, in words for the owner.

use std::io;

use rustls_acme::{
    EventError, OrderError,
    acme::{AcmeError, Problem},
};

use super::{authority::AuthorityError, issued::Malformed};

/// The problem types of an authority begin with it.
const PROBLEM: &str = "urn:ietf:params:acme:error:";

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) words: String,
    /// Whether the authority wants fewer orders.
    pub(super) is_rate_limited: bool,
    /// Whether it is to be tried again at once (RFC 8555, section 6.5).
    pub(super) is_passing: bool,
}

impl Failure {
    fn new(words: impl Into<String>) -> Self {
        Self {
            words: words.into(),
            is_rate_limited: false,
            is_passing: false,
        }
    }

    pub(super) fn timed_out() -> Self {
        Self::new("the authority did not finish the order in time")
    }

    pub(super) fn unfinished() -> Self {
        Self::new("the order ended without a certificate")
    }

    pub(super) fn disk(error: &io::Error) -> Self {
        Self::new(format!(
            "the directory `acme` in the data directory cannot be read or written: {error}; make room, or \
             give it to the user of hearth"
        ))
    }

    pub(super) fn of_authority(error: &AuthorityError) -> Self {
        Self::new(error.to_string())
    }

    pub(super) fn malformed(error: &Malformed) -> Self {
        Self::new(format!(
            "the authority sent no certificate that can be used: {error}"
        ))
    }

    pub(super) fn of(error: &EventError<io::Error, io::Error>) -> Self {
        let EventError::Order(order) = error else {
            return Self::new(format!(
                "the authority sent what is no certificate: {error}"
            ));
        };
        match order {
            OrderError::Acme(error) => Self::of_request(error),
            OrderError::BadAuth(authorization) => {
                let mut challenges = authorization.challenges.iter();
                Self::of_problem(challenges.find_map(|challenge| challenge.error.as_ref()))
            }
            OrderError::BadOrder(order) => Self::of_problem(order.error.as_ref()),
            OrderError::TooManyAttemptsAuth(_) | OrderError::ProcessingTimeout(_) => {
                Self::timed_out()
            }
            OrderError::Rcgen(error) => Self::new(format!("the request cannot be made: {error}")),
        }
    }

    fn of_request(error: &AcmeError) -> Self {
        match error {
            AcmeError::NoTlsAlpn01Challenge => Self::new(
                "the authority does not check names by TLS-ALPN-01; let hearth listen on port 80, too",
            ),
            AcmeError::NoHttp01Challenge => {
                Self::new("the authority does not check names over HTTP on port 80")
            }
            AcmeError::HttpRequest(refused) => match problem(&refused.to_string()) {
                Some(problem) => Self::of_problem(Some(&problem)),
                None => Self::new(format!(
                    "the connection to the authority failed: {}",
                    printable(&refused.to_string())
                )),
            },
            other => Self::new(format!(
                "the authority answered what ACME does not know: {other}"
            )),
        }
    }

    /// Source: RFC 8555, section 6.7.
    fn of_problem(problem: Option<&Problem>) -> Self {
        let kind = problem.and_then(|problem| problem.typ.as_deref());
        let kind = kind
            .and_then(|kind| kind.strip_prefix(PROBLEM))
            .unwrap_or("");
        let advice = match kind {
            "connection" | "tls" | "unauthorized" | "incorrectResponse" => {
                "the authority did not find this server under the name: let the DNS records of the name lead \
                 to this house, and forward port 443 (or 80) of the router to hearth"
            }
            "dns" => {
                "the name cannot be looked up: make a DNS record (A for IPv4, AAAA for IPv6) with the address \
                 of this house, and wait until it is known"
            }
            "caa" => {
                "a CAA record of the domain allows other authorities only: add this one, or remove it"
            }
            "rateLimited" => "the authority wants fewer orders: hearth waits",
            "rejectedIdentifier" => "the authority gives no certificate for this name",
            "invalidContact" | "unsupportedContact" => {
                "the authority does not take the e-mail address: correct `acme`"
            }
            "userActionRequired" => "the authority asks you to do something first",
            "badNonce" | "serverInternal" => "the authority failed: hearth tries again",
            _ => "the authority refused the order",
        };
        let detail = problem.and_then(|problem| problem.detail.as_deref());
        Self {
            words: match detail {
                Some(detail) => format!("{advice} ({})", printable(detail)),
                None => advice.to_owned(),
            },
            is_rate_limited: kind == "rateLimited",
            is_passing: kind == "badNonce",
        }
    }
}

/// The problem in the display of a refusal, as `non 2xx http status: 403 "{…}"`: its type is not public.
fn problem(refusal: &str) -> Option<Problem> {
    let quoted = &refusal[refusal.find('"')?..];
    let body: String = serde_json::from_str(quoted).ok()?;
    serde_json::from_str(&body).ok()
}

/// At most 300 characters on one line.
fn printable(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    printable.take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::{Failure, printable, problem};

    #[test]
    fn the_problem_in_a_refusal_is_read() {
        let refusal = r#"non 2xx http status: 429 "{\"type\":\"urn:ietf:params:acme:error:rateLimited\",\"detail\":\"too \\\"many\\\"\"}""#;
        let failure = Failure::of_problem(problem(refusal).as_ref());
        assert!(failure.is_rate_limited && !failure.is_passing);
        assert_eq!(
            failure.words,
            "the authority wants fewer orders: hearth waits (too \"many\")"
        );
        let nonce = refusal.replace("rateLimited", "badNonce");
        assert!(Failure::of_problem(problem(&nonce).as_ref()).is_passing);
        for other in ["", "non 2xx http status: 500 \"<html>\"", "io error"] {
            assert!(problem(other).is_none(), "{other}");
        }
    }

    #[test]
    fn what_the_authority_says_is_one_line_of_the_log() {
        let text = "a\nb\u{1b}[31m".to_owned() + &"x".repeat(1000);
        let shown = printable(&text);
        assert!(shown.starts_with("a b [31mx") && shown.chars().count() == 300);
    }
}
