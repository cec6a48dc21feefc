//! Requests to other servers.

use std::{fmt, fs::File, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, StatusCode, header, response::Parts};
use http_body_util::Full;
use hyper::body::Bytes;
use ruma::{
    OwnedServerName, ServerName,
    api::{
        IncomingResponseExt, OutgoingBody, OutgoingRequest,
        auth_scheme::{AuthScheme, NoAccessToken, NoAuthentication},
        federation::authentication::{ServerSignatures, XMatrix},
        path_builder::SinglePath,
    },
    serde::Base64,
    signatures::KeyPair,
};

use super::{
    address::is_public,
    connect::{
        Connection, Connector, Limits, MAX_ERROR_BYTES, StreamedResponse, Target, download, open,
        with_timeout,
    },
    idle::IdleConnections,
    parts::has_tiny_parts,
    poster::Poster,
    slots::{Answered, Slots},
    tls::{Authorities, TlsError},
    web::{self, Allowed, AllowedAddresses},
    web_url::WebUrl,
};
use crate::{
    body_budget::{BodyBudget, BodyMemory, BufferedBody},
    clock::Clock,
    config::{Config, Federation},
    executor::Executor,
    federation::{
        Error,
        discovery::{
            dns::Dns,
            hosts::Hosts,
            resolver::{Discovery, Resolver},
        },
    },
    gauges::Usage,
    pool::{Kind, Pool},
    protocol::{
        canonical_text::CanonicalTextError,
        depth::{MAX_DEPTH, is_too_deep},
        signed_request::SignedRequest,
    },
    rooms::Local,
    store::Store,
};

const MAX_CONCURRENT: usize = 64;
/// For server discovery and the connection, before the timeout of the request begins.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(25);
const MAX_BYTES_PARSED_IN_PLACE: usize = 64 * 1024;
const DEFAULT_LIMITS: Limits = Limits {
    timeout: Duration::from_secs(30),
    max_bytes: 1024 * 1024,
};
/// Of responses with many events, or ids of them.
const PDU_LIMITS: Limits = Limits {
    timeout: Duration::from_secs(30),
    max_bytes: 16 * 1024 * 1024,
};
/// The least that the budget has for large responses.
const MIN_LARGE_BYTES: usize = 4 * 1024 * 1024;

/// What a response takes of the budget for responses.
pub type ResponseMemory = BodyMemory<OwnedServerName>;

/// Whether requests of an authentication scheme are signed.
pub trait Signed: AuthScheme {
    const SIGNED: bool;
}

impl Signed for ServerSignatures {
    const SIGNED: bool = true;
}

impl Signed for NoAuthentication {
    const SIGNED: bool = false;
}

impl Signed for NoAccessToken {
    const SIGNED: bool = false;
}

/// Sends requests to other servers. Clones are the same.
#[derive(Clone)]
pub struct Client {
    inner: Arc<ClientInner>,
    slots: Slots,
}

struct ClientInner {
    local: Local,
    pool: Pool,
    federation: Federation,
    connector: Connector,
    resolver: Resolver,
    idle: IdleConnections<OwnedServerName>,
    answered: Answered,
    web_addresses: AllowedAddresses,
    /// For responses that are received whole.
    response_budget: BodyBudget<OwnedServerName>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Reads the file of the setting `extra_ca`.
    pub fn new(
        config: &Config,
        store: &Store,
        local: &Local,
        clock: &Clock,
        pool: &Pool,
        executor: &Executor,
    ) -> Result<Self, TlsError> {
        let authorities = Authorities::load(config.extra_ca.as_deref())?;
        let private = config.allow_private_addresses;
        let connector = Connector::new(authorities, private, pool, executor);
        let dns = Dns::new((&config.network).into(), pool);
        let ports = (&config.network).into();
        let discovery = Discovery::new(Hosts::new(&connector, dns, ports));
        let answered = Answered::new(clock);
        let inner = ClientInner {
            local: local.clone(),
            pool: pool.clone(),
            federation: config.federation.clone(),
            resolver: Resolver::new(discovery, store, clock, executor),
            connector,
            idle: IdleConnections::default(),
            answered: answered.clone(),
            response_budget: BodyBudget::with_max_per_owner(
                config.memory.responses(),
                MIN_LARGE_BYTES,
            ),
            // A server that only its own machine can reach has no untrusted users.
            web_addresses: if private && config.is_local() {
                AllowedAddresses::AsServers
            } else {
                AllowedAddresses::Only(is_public)
            },
        };
        Ok(Self {
            inner: Arc::new(inner),
            slots: Slots::new(MAX_CONCURRENT, &answered),
        })
    }

    /// The same client for a part of the server whose requests do not wait for those of other parts.
    pub fn with_own_slots(&self, max: usize) -> Self {
        Self {
            inner: self.inner.clone(),
            slots: Slots::new(max, &self.inner.answered),
        }
    }

    /// Has the address of `server` looked up again, unless the database still has it.
    pub fn forget_address(&self, server: &ServerName) {
        self.inner.resolver.forget(server);
    }

    /// Whether `server` is another server that this one federates with.
    pub fn may_contact(&self, server: &ServerName) -> bool {
        self.inner.federation.allows(server) && server != self.inner.local.server_name()
    }

    /// How much of the budget for responses is in use.
    pub fn response_usage(&self) -> Usage {
        self.inner.response_budget.usage()
    }

    /// The servers that answered their last request.
    pub fn answered(&self) -> &Answered {
        &self.inner.answered
    }

    /// Sends `request` to `server` and waits for the response, which is small.
    pub async fn send<R>(
        &self,
        server: &ServerName,
        request: R,
    ) -> Result<R::IncomingResponse, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, IncomingResponse: Send + 'static>,
        R::Authentication: Signed,
    {
        self.send_with_limits(server, request, DEFAULT_LIMITS).await
    }

    /// As [`send`](Self::send), for a response that is small or used at once.
    pub async fn send_with_limits<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, IncomingResponse: Send + 'static>,
        R::Authentication: Signed,
    {
        let response = self.send_with_memory(server, request, limits);
        Ok(response.await?.0)
    }

    /// Returns a response that may be large and is kept for longer, with its memory in the budget for
    /// responses.
    pub async fn send_with_memory<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<(R::IncomingResponse, ResponseMemory), Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, IncomingResponse: Send + 'static>,
        R::Authentication: Signed,
    {
        let parse = |head, body: &[u8]| {
            check_depth(body)?;
            parse::<R>(head, body)
        };
        self.send_and_parse(server, request, limits, parse).await
    }

    /// As [`send_with_memory`](Self::send_with_memory), but the parts of the response may be nested to any
    /// depth: the caller checks PDUs one by one.
    pub async fn send_for_pdus<R>(
        &self,
        server: &ServerName,
        request: R,
    ) -> Result<(R::IncomingResponse, ResponseMemory), Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath, IncomingResponse: Send + 'static>,
        R::Authentication: Signed,
    {
        let parse = |head, body: &[u8]| parse::<R>(head, body);
        self.send_and_parse(server, request, PDU_LIMITS, parse)
            .await
    }

    /// Sends `request` to `server`, and calls `parse` with the body of a successful response.
    pub async fn send_and_parse_body<R, T>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
        parse: impl FnOnce(&[u8]) -> Result<T, Error> + Send + 'static,
    ) -> Result<(T, ResponseMemory), Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
        T: Send + 'static,
    {
        let parse = |_, body: &[u8]| {
            check_depth(body)?;
            parse(body)
        };
        self.send_and_parse(server, request, limits, parse).await
    }

    /// Parses on the pool what is large.
    async fn send_and_parse<R, T>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
        parse: impl FnOnce(Parts, &[u8]) -> Result<T, Error> + Send + 'static,
    ) -> Result<(T, ResponseMemory), Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
        T: Send + 'static,
    {
        let response = self.send_unparsed(server, request, limits).await?;
        let (head, body) = response.into_parts();
        let (body, memory) = body.into_parts();
        let is_small = body.len() <= MAX_BYTES_PARSED_IN_PLACE;
        let parse = move || {
            if has_tiny_parts(&body) {
                return Err(Error::InvalidResponse("too many tiny values".into()));
            }
            parse(head, &body)
        };
        let parsed = match is_small {
            true => parse(),
            false => {
                let pool = &self.inner.pool;
                pool.run_in_background(Kind::Parse, parse).await
            }
        };
        Ok((parsed?, memory))
    }

    async fn send_unparsed<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<Response<BufferedBody<OwnedServerName>>, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
    {
        if !self.may_contact(server) {
            return Err(Error::NotAllowed);
        }
        let request = self.request(server, request)?;
        let _slot = self.slots.acquire(server).await;
        let response = self.exchange(server, request, limits).await;
        self.inner.answered.note(server, &response);
        let mut response = response?;
        if response.status().is_success() {
            Ok(response)
        } else {
            let status = response.status();
            Err(status_error(status, &response.body_mut().take()))
        }
    }

    /// Writes the response to `file`, as it may be too large for memory.
    pub async fn download<R>(
        &self,
        server: &ServerName,
        request: R,
        file: File,
        limits: Limits,
    ) -> Result<File, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
    {
        if !self.may_contact(server) {
            return Err(Error::NotAllowed);
        }
        let request = self.request(server, request)?.map(Full::new);
        let _slot = self.slots.acquire(server).await;
        let response = async {
            let (mut connection, target) = self.connect(server).await?;
            download(&mut connection, &target, request, file, limits).await
        };
        let response = response.await;
        self.inner.answered.note(server, &response);
        response?.map_err(|error| status_error(error.status(), error.body()))
    }

    /// Returns a successful response whose body is received as it is read.
    pub async fn stream<R>(
        &self,
        server: &ServerName,
        request: R,
    ) -> Result<StreamedResponse, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
    {
        self.stream_raw_request(server, self.request(server, request)?)
            .await
    }

    /// As [`stream`](Self::stream), with a request that is not made by ruma.
    pub async fn stream_raw_request(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
    ) -> Result<StreamedResponse, Error> {
        if !self.may_contact(server) {
            return Err(Error::NotAllowed);
        }
        let (connection, target) = self.connect(server).await?;
        let response = open(connection, &target, request.map(Full::new)).await?;
        let status = response.head.status;
        if status.is_success() {
            return Ok(response);
        }
        let body = response.whole(MAX_ERROR_BYTES).await?;
        Err(status_error(status, &body))
    }

    /// Requests `url` and follows redirects, those to `http` too if that is allowed. Returns the last URL
    /// too.
    pub async fn get_web(
        &self,
        url: WebUrl,
        http: bool,
    ) -> Result<(WebUrl, StreamedResponse), Error> {
        let hosts = self.inner.resolver.discovery().hosts();
        let addresses = self.inner.web_addresses;
        web::get(hosts, url, Allowed { http, addresses }).await
    }

    /// Sends requests to the web that this server's users chose.
    pub fn poster(&self) -> Poster {
        let hosts = self.inner.resolver.discovery().hosts();
        Poster::new(hosts, self.inner.web_addresses)
    }

    /// Serializes `request`, and signs it if its authentication scheme says so.
    fn request<R>(&self, server: &ServerName, request: R) -> Result<Request<Bytes>, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
    {
        let unsendable = |error: &dyn fmt::Display| Error::Unsendable(error.to_string().into());
        let request = request.try_into_http_request_inner("", ());
        let (mut head, body) = request.map_err(|error| unsendable(&error))?.into_parts();
        if let Some(content_type) = body.content_type() {
            head.headers
                .entry(header::CONTENT_TYPE)
                .or_insert(content_type);
        }
        let body: Vec<u8> = body
            .try_into_buf()
            .map_err(|error| unsendable(&error.into()))?;
        let mut request = Request::from_parts(head, Bytes::from(body));
        if R::Authentication::SIGNED {
            let signature = self.signature(server, &request);
            let signature = signature.map_err(|error| unsendable(&error))?;
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, signature);
        }
        Ok(request)
    }

    /// [Request authentication].
    ///
    /// [Request authentication]: https://spec.matrix.org/v1.19/server-server-api/#request-authentication
    fn signature(
        &self,
        server: &ServerName,
        request: &Request<Bytes>,
    ) -> Result<HeaderValue, CanonicalTextError> {
        let local = &self.inner.local;
        let signed = SignedRequest::new(request, local.server_name(), server)?;
        let signature = local.key().sign(signed.text().as_bytes());
        let (_, signature) = signature.into_parts();
        let signed = XMatrix::new(
            local.server_name().to_owned(),
            server.to_owned(),
            local.key().id().to_owned(),
            Base64::new(signature),
        );
        Ok(HeaderValue::from(&signed))
    }

    async fn exchange(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
        limits: Limits,
    ) -> Result<Response<BufferedBody<OwnedServerName>>, Error> {
        let (idle, budget) = (&self.inner.idle, &self.inner.response_budget);
        let connect = self.connect(server);
        idle.exchange(server, request, limits, budget, connect)
            .await
    }

    /// Opens a connection to `server`, with another discovery if its known addresses fail.
    async fn connect(&self, server: &ServerName) -> Result<(Connection, Target), Error> {
        // It is rare and large, and would make the future of every request as large.
        with_timeout(CONNECT_TIMEOUT, Box::pin(self.open_connection(server))).await?
    }

    async fn open_connection(&self, server: &ServerName) -> Result<(Connection, Target), Error> {
        let connector = &self.inner.connector;
        let target = self.inner.resolver.resolve(server).await?;
        let failure = match connector.connect(&target).await {
            Ok(connection) => return Ok((connection, target)),
            Err(error) => error,
        };
        let other = self.inner.resolver.resolve_again(server).await;
        let other = other.ok_or(failure)?;
        Ok((connector.connect(&other).await?, other))
    }
}

fn parse<R: OutgoingRequest>(head: Parts, body: &[u8]) -> Result<R::IncomingResponse, Error> {
    R::IncomingResponse::try_from_http_response(Response::from_parts(head, body))
        .map_err(|error| Error::InvalidResponse(error.to_string().into()))
}

fn check_depth(body: &[u8]) -> Result<(), Error> {
    if is_too_deep(body) {
        let reason = format!("nested more than {MAX_DEPTH} levels deep");
        return Err(Error::InvalidResponse(reason.into()));
    }
    Ok(())
}

fn status_error(status: StatusCode, body: &[u8]) -> Error {
    // It is parsed on the one thread.
    let body = Some(body).filter(|body| body.len() <= MAX_ERROR_BYTES);
    let body = body.and_then(|body| serde_json::from_slice(body).ok());
    Error::Status(status, body.map(Box::new))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::{MAX_ERROR_BYTES, status_error};

    #[test]
    fn an_error_body_is_parsed_only_if_it_is_small() {
        let error = |len| {
            let message = "x".repeat(len);
            let body = format!(r#"{{"errcode":"M_FORBIDDEN","error":"{message}"}}"#);
            status_error(StatusCode::FORBIDDEN, body.as_bytes())
        };
        assert!(error(10).kind().is_some());
        assert!(error(MAX_ERROR_BYTES).kind().is_none());
    }
}
