//! POST requests to the web, without redirects, over connections that are reused.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response, header};
use hyper::body::Bytes;

use super::{
    connect::{Connection, Limits, Target, with_timeout},
    idle::IdleConnections,
    web::{AllowedAddresses, USER_AGENT},
    web_url::{Scheme, WebUrl},
};
use crate::{
    body_budget::BodyBudget,
    federation::{Error, discovery::hosts::Hosts},
};

/// For the lookup and the connection, before the timeout of the request begins.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(25);
/// Of all responses at once.
const MAX_RESPONSES_BYTES: usize = 1024 * 1024;

/// Sends POST requests. Clones are the same.
#[derive(Clone)]
pub struct Poster(Arc<PosterInner>);

struct PosterInner {
    hosts: Hosts,
    addresses: AllowedAddresses,
    idle: IdleConnections<String>,
    response_budget: BodyBudget<String>,
}

/// Who has chosen a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChosenBy {
    /// The owner of the server: it may lead anywhere, without TLS too.
    Owner,
    /// Somebody else: it must be `https`, at an allowed address.
    Others,
}

impl Poster {
    pub(super) fn new(hosts: &Hosts, addresses: AllowedAddresses) -> Self {
        Self(Arc::new(PosterInner {
            hosts: hosts.clone(),
            addresses,
            idle: IdleConnections::default(),
            response_budget: BodyBudget::new(MAX_RESPONSES_BYTES, 0),
        }))
    }

    /// Whether a URL that somebody else has chosen may lead to `address`.
    pub fn allows(&self, address: IpAddr) -> bool {
        match self.0.addresses {
            AllowedAddresses::AsServers => self.0.hosts.connector.allows(address),
            AllowedAddresses::Only(is_allowed) => is_allowed(address),
        }
    }

    /// Sends `json` to `url`. The response may be a redirect, which is not followed.
    pub async fn post(
        &self,
        url: &WebUrl,
        chosen_by: ChosenBy,
        json: Bytes,
        limits: Limits,
    ) -> Result<Response<Vec<u8>>, Error> {
        if url.scheme == Scheme::Http && chosen_by != ChosenBy::Owner {
            let reason = "a URL of http where only https is allowed";
            return Err(Error::Unsendable(reason.into()));
        }
        let request = Request::post(&url.path)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, json.len())
            .body(json);
        let request = request.map_err(|error| Error::Unsendable(error.to_string().into()))?;
        let connect = async {
            let connect = Box::pin(self.connect(url, chosen_by));
            with_timeout(CONNECT_TIMEOUT, connect).await?
        };
        let host = format!("{:?} {}", chosen_by, url.origin());
        let (idle, budget) = (&self.0.idle, &self.0.response_budget);
        let response = idle.exchange(host.as_str(), request, limits, budget, connect);
        Ok(response.await?.map(|mut body| body.take()))
    }

    async fn connect(
        &self,
        url: &WebUrl,
        chosen_by: ChosenBy,
    ) -> Result<(Connection, Target), Error> {
        let hosts = &self.0.hosts;
        let mut target = hosts.web_target(url).await?;
        let connection = match chosen_by {
            ChosenBy::Owner => hosts.connector.connect_anywhere(&target).await?,
            ChosenBy::Others => {
                let is_allowed = |address: &SocketAddr| self.allows(address.ip());
                target.addresses.retain(is_allowed);
                hosts.connector.connect(&target).await?
            }
        };
        Ok((connection, target))
    }
}
