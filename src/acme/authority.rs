//! What is asked of the authority without an account: its directory, and when to renew a certificate.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_web_client::{HttpError, TransportError, prelude::*};
use http::{Request, StatusCode};
use rustls::{CertificateError, ClientConfig};
use serde::{Deserialize, de::DeserializeOwned};
use smol::{Timer, future};

use crate::clock::as_ms;

const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_BYTES: usize = 64 * 1024;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthorityError {
    #[error(
        "the certificate of the authority is not valid at the time that this machine has: set its clock \
         (`timedatectl` shows whether it is synchronized)"
    )]
    Clock,
    #[error(
        "the authority is not trusted ({0}): install the package ca-certificates, or set `extra_ca` for an \
         authority of your own"
    )]
    Untrusted(rustls::Error),
    #[error(
        "the authority cannot be reached ({0}): check that this machine has DNS and the internet, and \
         `acme_directory`"
    )]
    Unreachable(String),
    #[error("at `acme_directory` is no ACME authority: {0}")]
    NoDirectory(String),
}

/// Source: RFC 8555, section 7.1.1; RFC 9773, section 4.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Directory {
    #[serde(rename = "newOrder")]
    _new_order: String,
    renewal_info: Option<String>,
}

/// Source: RFC 9773, section 4.2.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewalInfo {
    suggested_window: Window,
}

#[derive(Deserialize)]
struct Window {
    start: String,
    end: String,
}

impl Directory {
    pub(super) async fn get(client: &Arc<ClientConfig>, url: &str) -> Result<Self, AuthorityError> {
        get_json(client, url).await
    }

    /// A time within those at which the authority suggests to renew a certificate, in milliseconds since the
    /// epoch. None if it suggests none.
    pub(super) async fn renew_at_ms(
        &self,
        client: &Arc<ClientConfig>,
        renewal_id: &str,
    ) -> Result<Option<u64>, AuthorityError> {
        let Some(url) = &self.renewal_info else {
            return Ok(None);
        };
        let url = format!("{}/{renewal_id}", url.trim_end_matches('/'));
        let RenewalInfo { suggested_window } = get_json(client, &url).await?;
        let ms = |time: &str| {
            let time = humantime::parse_rfc3339(time).ok()?;
            Some(as_ms(time.duration_since(SystemTime::UNIX_EPOCH).ok()?))
        };
        let window = ms(&suggested_window.start).zip(ms(&suggested_window.end));
        Ok(window.map(|(start, end)| rand::random_range(start..=end.max(start))))
    }
}

async fn get_json<T: DeserializeOwned>(
    client: &Arc<ClientConfig>,
    url: &str,
) -> Result<T, AuthorityError> {
    let request =
        Request::get(url).header("user-agent", concat!("hearth/", env!("CARGO_PKG_VERSION")));
    let request = request.body(String::new());
    let request = request.map_err(|error| AuthorityError::NoDirectory(error.to_string()))?;
    let asking = async {
        let response = request.send_with_client_config(client.clone()).await;
        let mut response = response.map_err(of_http)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(AuthorityError::NoDirectory(format!("it answers {status}")));
        }
        let body = response.body_mut().bytes(Some(MAX_BYTES)).await;
        let body = body.map_err(|error| match error.kind() {
            io::ErrorKind::OutOfMemory => {
                AuthorityError::NoDirectory("the answer is too large".to_owned())
            }
            _ => AuthorityError::Unreachable(in_words(&error)),
        })?;
        serde_json::from_slice(&body)
            .map_err(|error| AuthorityError::NoDirectory(error.to_string()))
    };
    let timed_out = async {
        Timer::after(TIMEOUT).await;
        let words = format!("no answer in {} seconds", TIMEOUT.as_secs());
        Err(AuthorityError::Unreachable(words))
    };
    future::or(asking, timed_out).await
}

fn of_http(error: HttpError) -> AuthorityError {
    let error = match error {
        HttpError::ConnectError(
            TransportError::TcpConnect(error) | TransportError::TlsConnect(error),
        )
        | HttpError::IoError(error) => error,
        other => return AuthorityError::NoDirectory(other.to_string()),
    };
    let tls = error.get_ref().and_then(|error| error.downcast_ref());
    match tls {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::Expired
            | CertificateError::ExpiredContext { .. },
        )) => AuthorityError::Clock,
        Some(error @ rustls::Error::InvalidCertificate(_)) => {
            AuthorityError::Untrusted(error.clone())
        }
        _ => AuthorityError::Unreachable(in_words(&error)),
    }
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        io::ErrorKind::InvalidData => "it does not speak TLS".to_owned(),
        _ => error.to_string(),
    }
}
