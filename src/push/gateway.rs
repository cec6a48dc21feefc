//! Push gateways: which ones are allowed, and how they are asked.

use std::time::Duration;

use http::StatusCode;
use hyper::body::Bytes;
use serde::Deserialize;

use crate::{
    config::PushGateways,
    fair_semaphore::{FairPermit, FairSemaphore},
    federation::{self, ChosenBy, Limits, Poster, Scheme, WebUrl},
};

/// Source: client-server API, `POST /pushers/set`.
const PATH: &str = "/_matrix/push/v1/notify";
const MAX_URL_BYTES: usize = 1024;
const LIMITS: Limits = Limits {
    timeout: Duration::from_secs(20),
    max_bytes: 64 * 1024,
};
/// How many requests are under way at once: to gateways that answer, and to others.
const MAX_REQUESTS: usize = 32;
const MAX_OTHER_REQUESTS: usize = 16;
/// How many of them to one gateway.
const MAX_REQUESTS_PER_GATEWAY: usize = 8;
const MAX_OTHER_REQUESTS_PER_GATEWAY: usize = 2;

/// Why a gateway is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("`data.url`: expected an address of a push gateway with at most 1,024 bytes")]
    NoUrl,
    #[error("`data.url`: the path of a push gateway is /_matrix/push/v1/notify")]
    Path,
    #[error(
        "`data.url`: a push gateway has https; without it the owner must list it in `push_gateways`"
    )]
    Http,
    #[error(
        "`data.url`: this server sends nothing to private addresses unless `push_gateways` lists them"
    )]
    PrivateAddress,
}

/// A push gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    url: WebUrl,
    chosen_by: ChosenBy,
}

impl Gateway {
    /// For logs, and for its share of the requests.
    pub fn origin(&self) -> String {
        self.url.origin()
    }
}

/// Why a gateway did not take a notification.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It refuses this notification, so others may be taken.
    #[error("it answers {0}")]
    Refused(StatusCode),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("its answer is not the one of a push gateway")]
    InvalidAnswer,
    #[error("{0}")]
    Request(#[from] federation::Error),
}

/// All push gateways.
pub struct Gateways {
    listed: PushGateways,
    poster: Poster,
    /// For gateways that answer, and for others.
    turns: [FairSemaphore<String>; 2],
}

impl Gateways {
    pub fn new(listed: PushGateways, poster: Poster) -> Self {
        Self {
            listed,
            poster,
            turns: [
                FairSemaphore::new(MAX_REQUESTS, MAX_REQUESTS_PER_GATEWAY),
                FairSemaphore::new(MAX_OTHER_REQUESTS, MAX_OTHER_REQUESTS_PER_GATEWAY),
            ],
        }
    }

    /// The gateway at `url`.
    ///
    /// # Errors
    /// If the specification or the settings forbid it.
    pub fn parse(&self, url: &str) -> Result<Gateway, UrlError> {
        if url.len() > MAX_URL_BYTES {
            return Err(UrlError::NoUrl);
        }
        let url = WebUrl::parse(url).ok_or(UrlError::NoUrl)?;
        if url.path.split('?').next() != Some(PATH) {
            return Err(UrlError::Path);
        }
        let scheme = url.scheme.as_str();
        if self
            .listed
            .contains(scheme, &url.host, url.port_or_default())
        {
            let chosen_by = ChosenBy::Owner;
            return Ok(Gateway { url, chosen_by });
        }
        if url.scheme == Scheme::Http {
            return Err(UrlError::Http);
        }
        if let Ok(address) = url.host.trim_matches(['[', ']']).parse()
            && !self.poster.allows(address)
        {
            return Err(UrlError::PrivateAddress);
        }
        let chosen_by = ChosenBy::Others;
        Ok(Gateway { url, chosen_by })
    }

    /// Held during a request to `gateway`. Only one that took the last notification of the pusher `is_proven`,
    /// so one that never answers takes no turns of gateways that answer, and one that begins to stall takes a
    /// few, once.
    pub async fn turn(&self, gateway: &Gateway, is_proven: bool) -> FairPermit<String> {
        let turns = &self.turns[usize::from(!is_proven)];
        turns.acquire(gateway.origin()).await
    }

    /// Sends a notification; the pushkeys that the gateway rejects.
    pub async fn send(
        &self,
        gateway: &Gateway,
        notification: Vec<u8>,
    ) -> Result<Vec<String>, SendError> {
        #[derive(Deserialize)]
        struct Answer {
            // NOTSPEC: it is required, but as in Synapse its absence is that of rejected pushkeys.
            #[serde(default)]
            rejected: Vec<String>,
        }
        let Gateway { url, chosen_by } = gateway;
        let body = Bytes::from(notification);
        let response = self.poster.post(url, *chosen_by, body, LIMITS).await?;
        match response.status() {
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY => Err(SendError::Refused(response.status())),
            status if !status.is_success() => Err(SendError::Status(status)),
            _ => {
                let answer = serde_json::from_slice::<Answer>(response.body());
                let answer = answer.map_err(|_| SendError::InvalidAnswer)?;
                Ok(answer.rejected)
            }
        }
    }
}
