//! The way of a request through the edge, from its head to its answer.

use std::{
    collections::HashSet,
    fmt,
    net::{IpAddr, Ipv4Addr},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Instant,
};

use http::{Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use smol::future::FutureExt;
use tide::http as http_types;

use super::{
    auth::{self, Proof},
    body::{Answer, Read, Room, Unread},
    cors,
    error::Refusal,
    files,
    limits::Times,
    path::{Template, stand_in},
    peer,
    route::{BodyMode, Call, Route},
    routes,
};
use crate::{
    api::{Api, Error, Session},
    rates::{Rates, household},
};

/// Answers requests. Clones are the same edge.
#[derive(Clone)]
pub struct Edge {
    app: tide::Server<Arc<State>>,
}

struct State {
    api: Api,
    room: Room,
    times: Times,
}

/// A request, on its way through tide as an extension of tide's own.
struct Exchange {
    head: Parts,
    body: Slot,
    address: IpAddr,
}

/// Holds the body for as long as nobody has read it.
pub(super) type Slot = Arc<Mutex<Option<Unread>>>;

/// What a request comes to.
pub(super) struct Outcome {
    pub(super) answer: Response<Answer>,
    /// What is left of the request's body, if anything may still come of it.
    pub(super) unread: Option<Unread>,
}

/// The answer, on its way back. An extension must be `Sync`, which a stream is not.
struct Done(Mutex<Response<Answer>>);

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").finish_non_exhaustive()
    }
}

impl Edge {
    /// Serves what `http/routes.rs` lists.
    pub fn new(api: Api) -> Self {
        Self::with(routes::all(), api, Times::default())
    }

    pub(super) fn with(routes: Vec<Route>, api: Api, times: Times) -> Self {
        let room = Room::new(api.config.memory.bodies());
        let mut app = tide::with_state(Arc::new(State { api, room, times }));
        let mut seen = HashSet::new();
        for route in routes {
            let method = to_tide(&route.method);
            let route = Arc::new(route);
            for template in route.templates() {
                for pattern in template.patterns() {
                    let is_new = seen.insert((method, pattern.clone()));
                    assert!(is_new, "two endpoints at {method} {pattern}");
                    let route = route.clone();
                    app.at(&pattern).method(method, move |request| {
                        serve(route.clone(), template, request)
                    });
                }
            }
        }
        Self { app }
    }

    /// Answers a request that did not come over a connection, as if it came from this machine.
    /// For tests.
    pub async fn respond(&self, request: Request<Vec<u8>>) -> Response<Vec<u8>> {
        let outcome = self
            .answer(request.map(Unread::Whole), Ipv4Addr::LOCALHOST.into())
            .await;
        let (head, body) = outcome.answer.into_parts();
        let body = match body.collect().await {
            Ok(body) => body.to_bytes().to_vec(),
            Err(_) => Vec::new(),
        };
        Response::from_parts(head, body)
    }

    /// Answers a request of a connection from `connection`.
    pub(super) async fn answer(&self, request: Request<Unread>, connection: IpAddr) -> Outcome {
        let start = Instant::now();
        let (head, body) = request.into_parts();
        // Not the query, which may hold a token.
        let asked = (head.method.clone(), head.uri.path().to_owned());
        let body = Arc::new(Mutex::new(Some(body)));
        // Who waits for leave to send the body need not send what nobody wants.
        let waits = head.headers.contains_key(header::EXPECT);
        let mut answer = if head.method == Method::OPTIONS {
            preflight()
        } else {
            let exchange = Exchange {
                address: peer::address(connection, &head.headers),
                head,
                body: body.clone(),
            };
            let routed = AssertUnwindSafe(self.route(exchange)).catch_unwind().await;
            routed.unwrap_or_else(|_| Refusal::Panicked.answer())
        };
        let unread = lock(&body).take();
        let unread = unread.filter(|unread| !waits && !unread.is_empty());
        cors::allow(answer.headers_mut());
        let ((method, path), status) = (asked, answer.status().as_u16());
        log::debug!("{method} {path}: {status} after {:?}", start.elapsed());
        Outcome { answer, unread }
    }

    async fn route(&self, exchange: Exchange) -> Response<Answer> {
        let mut url = base_url().clone();
        url.set_path(&stand_in(exchange.head.uri.path()));
        let mut request = http_types::Request::new(to_tide(&exchange.head.method), url);
        request.ext_mut().insert(exchange);
        let result: http_types::Result<http_types::Response> = self.app.respond(request).await;
        let mut response = match result {
            Ok(response) => response,
            Err(error) => http_types::Response::new(error.status()),
        };
        match response.ext_mut().remove::<Done>() {
            Some(Done(answer)) => answer.into_inner().unwrap_or_else(PoisonError::into_inner),
            None if response.status() == http_types::StatusCode::MethodNotAllowed => {
                Refusal::WrongMethod.answer()
            }
            None => Refusal::NoSuchPath.answer(),
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
        .expect("every request is an exchange");
    let answer = handle(&route, template, &state, exchange)
        .await
        .unwrap_or_else(Refusal::answer);
    let mut response = http_types::Response::new(http_types::StatusCode::Ok);
    response.ext_mut().insert(Done(Mutex::new(answer)));
    Ok(response.into())
}

async fn handle(
    route: &Route,
    template: Template,
    state: &State,
    exchange: Exchange,
) -> Result<Response<Answer>, Refusal> {
    let Exchange {
        head,
        body,
        address,
    } = exchange;
    let request = Request::from_parts(head, ());
    let session = auth::session(route.demand, &request, address, &state.api.users).await?;
    check_rate(route, &state.api.rates, session.as_ref(), address)?;
    let federation = &state.api.federation;
    let signed = auth::signature(route.demand, &request, federation)?;
    let arguments = template.arguments(request.uri().path())?;
    let (read, upload) = match route.body {
        BodyMode::Buffered(most) => (Some(read_body(&body, most, state).await?), None),
        BodyMode::Streamed => (None, Some(files::upload(&body, state.times)?)),
    };
    let request = request.map(|()| read.as_ref().map_or(&[][..], Read::bytes));
    let server = match signed {
        Some(signed) => Some(auth::server(signed, &request, federation).await?),
        None => None,
    };
    let handled = route.call(Call {
        api: state.api.clone(),
        proof: Proof {
            session,
            server,
            address,
        },
        request,
        arguments,
        upload,
    })?;
    drop(read);
    Ok(handled.await?)
}

fn check_rate(
    route: &Route,
    rates: &Rates,
    session: Option<&Session>,
    address: IpAddr,
) -> Result<(), Error> {
    match (route.rate, session) {
        (None, _) => Ok(()),
        (Some(kind), Some(session)) if !kind.is_per_address() => {
            Ok(rates.check(kind, session.user)?)
        }
        (Some(kind), _) => Ok(rates.check(kind, household(address))?),
    }
}

/// Reads the body, or puts back what is left of one that is refused.
async fn read_body<'a>(slot: &Slot, most: usize, state: &'a State) -> Result<Read<'a>, Refusal> {
    let mut unread = lock(slot).take().ok_or(Refusal::BrokenOff)?;
    let read = unread.read(most, &state.room, &state.times).await;
    if read.is_err() {
        *lock(slot) = Some(unread);
    }
    read
}

fn lock(slot: &Slot) -> std::sync::MutexGuard<'_, Option<Unread>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answer to a browser that asks whether it may ask.
fn preflight() -> Response<Answer> {
    let mut response = Response::new(Answer::from(Vec::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    cors::preflight(response.headers_mut());
    response
}

/// tide's name for a method. One that no endpoint has becomes one that no endpoint has either, so
/// that tide still tells a wrong method from an unknown path.
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
