//! The way of a request through the edge, from its head to its response.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv4Addr},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use http::{Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use ruma::OwnedServerName;
use smol::future::FutureExt;
use tide::http as http_types;

use super::{
    auth::{self, Credentials},
    connection_slots::Slot,
    cors,
    error::Rejection,
    files, lenience,
    limits::{MAX_LARGE_RESPONSE_BYTES, MAX_TRANSACTION_BYTES, Timeouts},
    path::{Template, routing_path},
    peer::ClientAddresses,
    request_body::{BodySlot, RequestBody},
    response_body::ResponseBody,
    route::{BodyMode, Call, Route},
    routes,
    sender::Sender,
};
use crate::{
    api::{Api, Error, Session},
    body_budget::{BodyBudget, BodyOwner as _, BufferedBody},
    cache::Cache,
    gauges,
    pool::Kind,
    rates::{Rates, site},
    request_counts::RequestKind,
};

/// How long, and of how many servers, the edge remembers from where their requests came.
const ORIGIN_TTL: Duration = Duration::from_hours(24);
const MAX_ORIGINS: usize = 4096;
/// Larger bodies are parsed on the pool.
const MAX_BYTES_PARSED_IN_PLACE: usize = 64 * 1024;

/// Answers requests. Clones are the same edge.
#[derive(Clone)]
pub struct Edge {
    app: tide::Server<Arc<State>>,
    /// Whether pages of other sites may read the responses, as those of clients in a browser have to.
    has_cors: bool,
}

struct State {
    api: Api,
    body_budget: BodyBudget<Sender>,
    response_budget: BodyBudget<Sender>,
    timeouts: Timeouts,
    addresses: ClientAddresses,
    /// Servers that share a room with this one, and networks from which they have sent signed requests.
    origins: Cache<(OwnedServerName, IpAddr), ()>,
}

/// Where a request comes from.
pub(super) struct Source {
    /// Of the client.
    pub address: IpAddr,
    /// None without a connection.
    pub slot: Option<Arc<Slot>>,
}

/// A request. It passes through tide as an extension of tide's request.
struct Exchange {
    head: Parts,
    body: BodySlot,
    source: Source,
}

pub(super) struct Outcome {
    pub(super) response: Response<ResponseBody>,
    /// The rest of the request's body, if the client may still send some.
    pub(super) unread_body: Option<RequestBody>,
}

impl Outcome {
    /// The response to a request that does not come to the edge.
    pub(super) fn rejected(rejection: Rejection, request: Request<RequestBody>) -> Self {
        let mut response = rejection.response();
        cors::allow(response.headers_mut());
        Self {
            response,
            unread_body: Some(request.into_body()),
        }
    }
}

/// The response. It passes through tide as an extension, which must be `Sync`; a stream is not.
struct FinishedResponse(Mutex<Response<ResponseBody>>);

impl State {
    fn sender(
        &self,
        session: Option<&Session>,
        origin: Option<&OwnedServerName>,
        address: IpAddr,
    ) -> Sender {
        if let Some(session) = session {
            return Sender::User(session.user);
        }
        let network = site(address);
        match origin.map(|origin| (origin.clone(), network)) {
            Some(origin) if self.origins.get(&origin).is_some() => Sender::Server(origin.0),
            _ => Sender::Network(network),
        }
    }

    /// Remembers that `server` has signed a request that came from `address`.
    fn verified(&self, server: &OwnedServerName, address: IpAddr) {
        if self.api.federation.shares_room(server).unwrap_or(false) {
            let origin = (server.clone(), site(address));
            self.origins.insert(origin, (), ORIGIN_TTL);
        }
    }
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").finish_non_exhaustive()
    }
}

impl Edge {
    /// Serves clients and other servers.
    pub fn new(api: Api) -> Self {
        let edge = Self::with(routes::all(), api, Timeouts::default());
        let state = edge.app.state();
        for (name, budget) in [
            ("bodies of requests", &state.body_budget),
            ("bodies of responses", &state.response_budget),
        ] {
            let budget = budget.clone();
            let usage = move || budget.usage();
            state.api.gauges.add(gauges::Kind::Memory, name, usage);
        }
        edge
    }

    /// Serves the owner of the server, without authentication.
    pub fn admin(api: Api) -> Self {
        Self {
            has_cors: false,
            ..Self::with(routes::admin(), api, Timeouts::default())
        }
    }

    /// Serves monitoring.
    pub fn metrics(api: Api) -> Self {
        Self {
            has_cors: false,
            ..Self::with(routes::metrics(), api, Timeouts::default())
        }
    }

    pub(super) fn with(routes: Vec<Route>, api: Api, timeouts: Timeouts) -> Self {
        let mut app = tide::with_state(Arc::new(State {
            // The largest transaction has room: other servers repeat a rejected one for ever.
            body_budget: BodyBudget::new(api.config.memory.bodies(), MAX_TRANSACTION_BYTES),
            response_budget: BodyBudget::new(api.config.memory.unsent(), MAX_LARGE_RESPONSE_BYTES),
            origins: Cache::new(&api.clock, MAX_ORIGINS),
            addresses: ClientAddresses::new(api.config.trusted_proxies.clone()),
            api,
            timeouts,
        }));
        let mut seen = HashSet::new();
        for route in routes {
            let method = to_tide(&route.method);
            let route = Arc::new(route);
            for template in route.templates() {
                for pattern in template.patterns() {
                    let is_new = seen.insert((method, pattern.clone()));
                    assert!(is_new, "two endpoints have {method} {pattern}");
                    let route = route.clone();
                    app.at(&pattern).method(method, move |request| {
                        serve(route.clone(), template, request)
                    });
                }
            }
        }
        Self {
            app,
            has_cors: true,
        }
    }

    /// Answers a request that did not come over a connection, as if it came from this machine.
    pub async fn respond(&self, request: Request<Vec<u8>>) -> Response<Vec<u8>> {
        let addresses = &self.app.state().addresses;
        let source = Source {
            address: addresses.of(Ipv4Addr::LOCALHOST.into(), request.headers()),
            slot: None,
        };
        let outcome = self.answer(request.map(RequestBody::Whole), source).await;
        let (head, body) = outcome.response.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes().to_vec(),
            Err(_) => Vec::new(),
        };
        Response::from_parts(head, body)
    }

    pub(super) async fn answer(&self, request: Request<RequestBody>, source: Source) -> Outcome {
        let start = Instant::now();
        let (head, body) = request.into_parts();
        // Without the query, which may hold a token.
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let body = Arc::new(Mutex::new(Some(body)));
        // A client that waits for "100 Continue" does not send a body that was rejected.
        let expects_continue = head.headers.contains_key(header::EXPECT);
        let mut response = if head.method == Method::OPTIONS {
            preflight()
        } else {
            let exchange = Exchange {
                head,
                body: body.clone(),
                source,
            };
            let routed = AssertUnwindSafe(self.route(exchange)).catch_unwind().await;
            routed.unwrap_or_else(|_| Rejection::Panicked.response())
        };
        let unread = lock(&body).take();
        let unread_body = unread.filter(|unread| !expects_continue && !unread.is_empty());
        if self.has_cors {
            cors::allow(response.headers_mut());
        }
        let status = response.status().as_u16();
        log::debug!("{method} {path}: {status} after {:?}", start.elapsed());
        Outcome {
            response,
            unread_body,
        }
    }

    async fn route(&self, exchange: Exchange) -> Response<ResponseBody> {
        let mut url = base_url().clone();
        url.set_path(&routing_path(exchange.head.uri.path()));
        let method = method_name(&exchange.head.method);
        let mut request = http_types::Request::new(to_tide(&exchange.head.method), url);
        request.ext_mut().insert(exchange);
        let result: http_types::Result<http_types::Response> = self.app.respond(request).await;
        let mut response = match result {
            Ok(response) => response,
            Err(error) => http_types::Response::new(error.status()),
        };
        match response.ext_mut().remove::<FinishedResponse>() {
            Some(FinishedResponse(response)) => response
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
            None => {
                let rejection = match response.status() {
                    http_types::StatusCode::MethodNotAllowed => Rejection::WrongMethod,
                    _ => Rejection::UnknownPath,
                };
                let response = rejection.response();
                self.app.state().api.requests.add(RequestKind {
                    method,
                    endpoint: "unknown",
                    status: response.status().as_u16(),
                });
                response
            }
        }
    }
}

/// The endpoint that tide calls.
async fn serve(
    route: Arc<Route>,
    template: Template,
    mut request: tide::Request<Arc<State>>,
) -> tide::Result {
    let state = request.state().clone();
    let exchange: &mut http_types::Request = request.as_mut();
    let exchange = exchange
        .ext_mut()
        .remove::<Exchange>()
        .expect("`Edge::route` has put it there");
    let finished = handle(&route, template, &state, exchange)
        .await
        .unwrap_or_else(Rejection::response);
    state.api.requests.add(RequestKind {
        method: method_name(&route.method),
        endpoint: template.path(),
        status: finished.status().as_u16(),
    });
    let mut response = http_types::Response::new(http_types::StatusCode::Ok);
    response
        .ext_mut()
        .insert(FinishedResponse(Mutex::new(finished)));
    Ok(response.into())
}

/// A request that a server has signed. What waits for the server is sent when this is dropped.
struct VerifiedRequest {
    api: Api,
    origin: OwnedServerName,
}

impl Drop for VerifiedRequest {
    fn drop(&mut self) {
        self.api.federation.handled_request_of(&self.origin);
    }
}

async fn handle(
    route: &Arc<Route>,
    template: Template,
    state: &State,
    exchange: Exchange,
) -> Result<Response<ResponseBody>, Rejection> {
    let Exchange {
        head,
        body,
        source: Source { address, slot },
    } = exchange;
    let authenticated = || slot.iter().for_each(|slot| slot.authenticated());
    let mut request = Request::from_parts(head, ());
    lenience::normalize_authorization(request.headers_mut());
    let session = auth::session(route.auth, &request, address, &state.api.users).await?;
    if let Some(session) = &session {
        authenticated();
        route.check_moderation(session)?;
    }
    check_rate(route, &state.api.rates, session.as_ref(), address)?;
    let federation = &state.api.federation;
    let signature = auth::signature(route.auth, &request, federation)?;
    let arguments = template.arguments(request.uri().path())?;
    if route.method == Method::GET {
        template.check_event_id(&arguments)?;
    }
    if let Some(signature) = &signature {
        auth::check_key(signature, address, federation).await?;
    }
    let origin = signature.as_ref().map(|signature| &signature.origin);
    let sender = state.sender(session.as_ref(), origin, address);
    let owner = sender.clone();
    let (mut read, upload) = match route.body {
        BodyMode::Buffered(max_bytes) => {
            // A request without a body must not close a connection whose body is being received.
            let is_empty = lock(&body).as_ref().is_none_or(RequestBody::is_empty);
            let unknown = slot.as_ref().filter(|_| !sender.is_known() && !is_empty);
            unknown.inspect(|slot| slot.begin_body());
            // The rest of a rejected one is drained: still a body that is received.
            let body = read_body(&body, max_bytes, sender, state).await?;
            unknown.inspect(|slot| slot.end_body());
            (Some(body), None)
        }
        BodyMode::Streamed => (None, Some(files::upload(&body, state.timeouts)?)),
    };
    let mut body = read.as_mut().map_or_else(Vec::new, BufferedBody::take);
    route.check_depth(&body)?;
    if let Some(signature) = &signature {
        let unverified = request.clone().map(|()| body);
        let signed = auth::verify(signature, unverified, federation).await?;
        authenticated();
        state.verified(&signature.origin, address);
        body = signed.into_body();
    }
    let is_large = body.len() > MAX_BYTES_PARSED_IN_PLACE;
    let origin = signature.map(|signature| signature.origin);
    let _handled = origin.clone().map(|origin| VerifiedRequest {
        api: state.api.clone(),
        origin,
    });
    let call = Call {
        api: state.api.clone(),
        credentials: Credentials {
            session,
            server: origin.clone(),
            address,
        },
        request: request.map(|()| body),
        arguments,
        upload,
    };
    let response = if is_large {
        let (pool, route) = (&state.api.pool, Arc::clone(route));
        let parse = move || route.call(call);
        pool.run(Kind::Parse, parse).await.map_err(Error::from)??
    } else {
        route.call(call)?
    };
    drop(read);
    let (head, body) = response.await?.into_parts();
    let body = body.counted(&state.response_budget, owner).await?;
    Ok(Response::from_parts(head, body))
}

fn check_rate(
    route: &Route,
    rates: &Rates,
    session: Option<&Session>,
    address: IpAddr,
) -> Result<(), Error> {
    match (route.rate, session) {
        (None, _) => Ok(()),
        (Some(kind), Some(session)) if !kind.is_per_network() => {
            Ok(rates.check(kind, session.user)?)
        }
        (Some(kind), _) => Ok(rates.check_network(kind, address, ())?),
    }
}

/// Reads the body, or puts the rest of a rejected one back into `slot`.
async fn read_body(
    slot: &BodySlot,
    max_bytes: usize,
    sender: Sender,
    state: &State,
) -> Result<BufferedBody<Sender>, Rejection> {
    let mut unread = lock(slot).take().ok_or(Rejection::BodyIncomplete)?;
    let body = state.body_budget.begin(sender);
    let read = unread.read(max_bytes, body, &state.timeouts).await;
    if read.is_err() {
        *lock(slot) = Some(unread);
    }
    read
}

fn lock(slot: &BodySlot) -> std::sync::MutexGuard<'_, Option<RequestBody>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

fn preflight() -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(Vec::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    cors::preflight(response.headers_mut());
    response
}

/// What endpoints have; whoever sends another method does not make the counts grow.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// tide's name for a method. Methods without endpoints become one without endpoints, so that tide
/// still distinguishes a wrong method from an unknown path.
fn to_tide(method: &Method) -> http_types::Method {
    match *method {
        Method::GET => http_types::Method::Get,
        Method::HEAD => http_types::Method::Head,
        Method::POST => http_types::Method::Post,
        Method::PUT => http_types::Method::Put,
        Method::DELETE => http_types::Method::Delete,
        _ => http_types::Method::Trace,
    }
}

fn base_url() -> &'static http_types::Url {
    static BASE: OnceLock<http_types::Url> = OnceLock::new();
    BASE.get_or_init(|| "http://hearth/".parse().expect("this is a URL"))
}
