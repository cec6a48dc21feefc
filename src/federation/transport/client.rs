//! Asking other servers.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, StatusCode, header};
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
use smol::lock::Semaphore;

use super::{
    address::is_public,
    connect::{
        Answer, Connection, Connector, Limits, REFUSAL, Target, download, exchange, in_time, open,
    },
    tls::{Authorities, TlsError},
    web::{self, Place, Reach},
};
use crate::{
    clock::Clock,
    config::{Config, Federation},
    executor::Executor,
    federation::{
        Error,
        discovery::{
            dns::{Dns, Files},
            resolver::{Ports, Resolver, Search},
        },
    },
    pool::Pool,
    rooms::Local,
    store::Store,
};

/// How many requests are under way at once.
const AT_ONCE: usize = 64;
/// How many connections are kept that nobody uses, of all servers and of one.
const IDLE: usize = 64;
const IDLE_OF_ONE: usize = 2;
/// How long one is kept.
const IDLE_TIME: Duration = Duration::from_secs(50);
/// How long it may take to find a server and to connect to it, before the request's own time.
const FINDING: Duration = Duration::from_secs(25);
/// What most requests need.
const USUAL: Limits = Limits {
    time: Duration::from_secs(30),
    size: 16 * 1024 * 1024,
};

/// Whether requests of an authentication scheme are signed.
pub trait Signed: AuthScheme {
    /// Whether they are.
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

/// A connection that nobody uses, and since when.
struct Idle {
    connection: Connection,
    target: Target,
    since: Instant,
}

/// Asks other servers, in this server's name. Clones are the same.
#[derive(Clone)]
pub struct Client(Arc<Parts>);

struct Parts {
    local: Local,
    federation: Federation,
    connector: Connector,
    resolver: Resolver,
    idle: Mutex<HashMap<OwnedServerName, Vec<Idle>>>,
    slots: Semaphore,
    /// Where what is on the web may be.
    web: Reach,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client that speaks for `local`. Reads a file.
    ///
    /// # Errors
    /// If the authorities of the settings cannot be read.
    pub fn new(
        config: &Config,
        (store, local): (&Store, &Local),
        (clock, pool): (&Clock, &Pool),
        executor: &Executor,
    ) -> Result<Self, TlsError> {
        let authorities = Authorities::load(config.extra_ca.as_deref())?;
        let private = config.allow_private_addresses;
        let connector = Connector::new(authorities, private, pool, executor);
        let search = Search::new(
            &connector,
            Dns::new(Files::default(), pool),
            Ports::default(),
        );
        Ok(Self(Arc::new(Parts {
            local: local.clone(),
            federation: config.federation.clone(),
            resolver: Resolver::new(search, store, clock, executor),
            connector,
            idle: Mutex::default(),
            slots: Semaphore::new(AT_ONCE),
            // On a server that is known to its own machine alone there are no strangers.
            web: if private && config.is_local() {
                Reach::AsServers
            } else {
                Reach::Only(is_public)
            },
        })))
    }

    /// Whether this server has to do with `server`, and is another.
    pub fn may_contact(&self, server: &ServerName) -> bool {
        self.0.federation.allows(server) && server != self.0.local.server_name()
    }

    /// Asks `server`, and waits for the answer.
    pub async fn send<R>(
        &self,
        server: &ServerName,
        request: R,
    ) -> Result<R::IncomingResponse, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
    {
        self.send_within(server, request, USUAL).await
    }

    /// Asks `server`, and waits for an answer within `limits`.
    pub async fn send_within<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<R::IncomingResponse, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
    {
        let (head, body) = self.answer(server, request, limits).await?.into_parts();
        R::IncomingResponse::try_from_http_response(Response::from_parts(head, &*body))
            .map_err(|error| Error::Nonsense(error.to_string().into()))
    }

    /// The same, for a good answer as it came.
    pub async fn answer<R>(
        &self,
        server: &ServerName,
        request: R,
        limits: Limits,
    ) -> Result<Response<Bytes>, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
    {
        if !self.may_contact(server) {
            return Err(Error::NotAllowed);
        }
        let request = self.request(server, request)?;
        let _slot = self.0.slots.acquire().await;
        let answer = self.exchange(server, request, limits).await?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(refused(answer.status(), answer.body()))
        }
    }

    /// Asks `server` for what may be more than is to be in memory: the answer is in `file` then.
    pub async fn download<R>(
        &self,
        server: &ServerName,
        request: R,
        (file, limits): (File, Limits),
    ) -> Result<File, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
    {
        if !self.may_contact(server) {
            return Err(Error::NotAllowed);
        }
        let request = self.request(server, request)?.map(Full::new);
        let _slot = self.0.slots.acquire().await;
        let (mut connection, target) = self.connect(server).await?;
        let answer = download(&mut connection, &target, request, (file, limits)).await?;
        answer.map_err(|refusal| refused(refusal.status(), refusal.body()))
    }

    /// Asks `server` for what may be more than is to be in memory: the answer comes as it is taken.
    pub async fn open<R>(&self, server: &ServerName, request: R) -> Result<Answer, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
    {
        self.open_as_it_is(server, self.request(server, request)?)
            .await
    }

    /// The same with a request that ruma does not make.
    pub async fn open_as_it_is(
        &self,
        server: &ServerName,
        request: Request<Bytes>,
    ) -> Result<Answer, Error> {
        if !self.may_contact(server) {
            return Err(Error::NotAllowed);
        }
        let (connection, target) = self.connect(server).await?;
        let answer = open(connection, &target, request.map(Full::new)).await?;
        let status = answer.head.status;
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.whole(REFUSAL).await?;
        let said = serde_json::from_slice(&body).ok();
        Err(Error::Status(status, said.map(Box::new)))
    }

    /// Asks for what is on the web, by `https`: the answer comes as it is taken.
    /// Where it was in the end is returned too.
    pub async fn open_on_the_web(&self, place: Place) -> Result<(Place, Answer), Error> {
        web::get(self.0.resolver.searcher(), place, self.0.web).await
    }

    /// The request as it goes over the wire, signed if it is to be.
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
    ) -> Result<HeaderValue, serde_json::Error> {
        let local = &self.0.local;
        let object = XMatrix::request_object(request, local.server_name(), server)?;
        let signature = local.key().sign(&serde_json::to_vec(&object)?);
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
    ) -> Result<Response<Bytes>, Error> {
        let copy = || request.clone().map(Full::new);
        // The other end may close a connection just when it is to be used again.
        while let Some(mut idle) = self.idle(server) {
            match exchange(&mut idle.connection, &idle.target, copy(), limits).await {
                Err(Error::Unreachable(_)) => {}
                result => {
                    self.keep(server, idle, &result);
                    return result;
                }
            }
        }
        let (connection, target) = self.connect(server).await?;
        let mut idle = Idle {
            connection,
            target,
            since: Instant::now(),
        };
        let result = exchange(&mut idle.connection, &idle.target, copy(), limits).await;
        self.keep(server, idle, &result);
        result
    }

    /// A new connection to `server`: where it was last, or where it is found if it is not there.
    async fn connect(&self, server: &ServerName) -> Result<(Connection, Target), Error> {
        // It is rare and large, and would make every request as large.
        in_time(FINDING, Box::pin(self.find(server))).await?
    }

    async fn find(&self, server: &ServerName) -> Result<(Connection, Target), Error> {
        let connector = &self.0.connector;
        let target = self.0.resolver.resolve(server).await?;
        let failure = match connector.connect(&target).await {
            Ok(connection) => return Ok((connection, target)),
            Err(error) => error,
        };
        let elsewhere = self.0.resolver.resolve_again(server).await;
        let elsewhere = elsewhere.ok_or(failure)?;
        Ok((connector.connect(&elsewhere).await?, elsewhere))
    }

    /// A connection to `server` that nobody uses.
    fn idle(&self, server: &ServerName) -> Option<Idle> {
        let mut all = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let of_server = all.get_mut(server)?;
        of_server.retain(Idle::is_open);
        of_server.pop()
    }

    /// Keeps a connection for the next request, if it went well.
    fn keep<T>(&self, server: &ServerName, idle: Idle, result: &Result<T, Error>) {
        if result.is_err() || idle.connection.is_closed() {
            return;
        }
        let mut all = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        for of_server in all.values_mut() {
            of_server.retain(Idle::is_open);
        }
        all.retain(|_, of_server| !of_server.is_empty());
        let of_server = all.get(server).map_or(0, Vec::len);
        if of_server < IDLE_OF_ONE && all.values().map(Vec::len).sum::<usize>() < IDLE {
            let idle = Idle {
                since: Instant::now(),
                ..idle
            };
            all.entry(server.to_owned()).or_default().push(idle);
        }
    }
}

/// What a server says that does not do as it is asked.
fn refused(status: StatusCode, body: &[u8]) -> Error {
    let said = serde_json::from_slice(body).ok();
    Error::Status(status, said.map(Box::new))
}

impl Idle {
    fn is_open(&self) -> bool {
        self.since.elapsed() < IDLE_TIME && !self.connection.is_closed()
    }
}
