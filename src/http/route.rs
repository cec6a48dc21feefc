//! One endpoint: its method and paths, the authentication it needs, and how its handler is called.

use std::{
    future::Future,
    marker::PhantomData,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Method, Request, header};
use ruma::api::{IncomingRequest, Metadata, OutgoingResponse, path_builder::PathBuilder};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    auth::{AuthRequirement, Credentials, Scheme},
    error::{encode, malformed},
    files::{self, ConditionalHeaders},
    lenience, limits,
    path::Template,
    refused_arguments,
    response_body::ResponseBody,
};
use crate::{
    api::{Api, Download, Error, Multipart, Session, Streamed, Upload},
    protocol::depth::{MAX_DEPTH, is_too_deep},
    rates::Kind,
    users,
};

/// The arguments of a handler, before ruma has parsed the request.
pub(super) struct Call {
    pub api: Api,
    pub credentials: Credentials,
    pub request: Request<Vec<u8>>,
    pub arguments: Vec<String>,
    /// The body, if the handler reads it as a stream.
    pub upload: Option<Upload>,
}

/// How the body of a request is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyMode {
    /// Whole, into memory; the maximum in bytes.
    Buffered(usize),
    /// By the handler, as a stream.
    Streamed,
}

type Response = http::Response<ResponseBody>;
type Handled = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;
type Handle = Box<dyn Fn(Call, &[&str]) -> Result<Handled, Error> + Send + Sync>;

/// A function that serves an endpoint: `async fn(Api, Caller, Request) -> Result<ResponseBody, Error>`, with
/// an [`Upload`] as the last argument if it reads the body itself. `M` is only there to tell the two
/// apart.
pub(super) trait Handler<M>: Send + Sync + 'static {
    type Request: IncomingRequest<Authentication: Scheme>;
    const BODY: BodyMode;

    fn handle(&self, call: Call, arguments: &[&str]) -> Result<Handled, Error>;
}

impl<F, R, C, Fut, T> Handler<(R, C, Fut)> for F
where
    F: Fn(Api, C, R) -> Fut + Send + Sync + 'static,
    R: IncomingRequest<Authentication: Scheme<Caller = C>> + 'static,
    Fut: Future<Output = Result<T, Error>> + Send + 'static,
    T: IntoHttpResponse<R> + 'static,
{
    type Request = R;
    const BODY: BodyMode = BodyMode::Buffered(limits::MAX_BODY_BYTES);

    fn handle(&self, call: Call, arguments: &[&str]) -> Result<Handled, Error> {
        let conditions = ConditionalHeaders::of(call.request.headers());
        let (api, caller, request) = parse::<R>(call, arguments)?;
        Ok(responding::<R, _, _>(
            self(api, caller, request),
            conditions,
        ))
    }
}

impl<F, R, C, Fut, T> Handler<(R, C, Upload, Fut)> for F
where
    F: Fn(Api, C, R, Upload) -> Fut + Send + Sync + 'static,
    R: IncomingRequest<Authentication: Scheme<Caller = C>> + 'static,
    Fut: Future<Output = Result<T, Error>> + Send + 'static,
    T: IntoHttpResponse<R> + 'static,
{
    type Request = R;
    const BODY: BodyMode = BodyMode::Streamed;

    fn handle(&self, mut call: Call, arguments: &[&str]) -> Result<Handled, Error> {
        let conditions = ConditionalHeaders::of(call.request.headers());
        let upload = call.upload.take();
        let upload = upload.ok_or(Error::Internal("an upload without a body"))?;
        let (api, caller, request) = parse::<R>(call, arguments)?;
        Ok(responding::<R, _, _>(
            self(api, caller, request, upload),
            conditions,
        ))
    }
}

/// What a handler of the request `R` may return.
pub(super) trait IntoHttpResponse<R>: Sized {
    fn into_http(self, conditions: &ConditionalHeaders) -> Response;
}

impl<R, T> IntoHttpResponse<R> for T
where
    R: IncomingRequest<OutgoingResponse = T>,
    T: OutgoingResponse,
{
    fn into_http(self, _: &ConditionalHeaders) -> Response {
        encode(self)
    }
}

impl<R> IntoHttpResponse<R> for Streamed {
    fn into_http(self, _: &ConditionalHeaders) -> Response {
        json(self)
    }
}

fn json(body: Streamed) -> Response {
    let mut response = Response::new(ResponseBody::from(body));
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

impl<R> IntoHttpResponse<R> for Download {
    fn into_http(self, conditions: &ConditionalHeaders) -> Response {
        files::file(self, conditions)
    }
}

impl<R> IntoHttpResponse<R> for Multipart {
    fn into_http(self, _: &ConditionalHeaders) -> Response {
        files::multipart(self.0)
    }
}

/// An endpoint: one method, and all paths of its stable and unstable versions.
pub(super) struct Route {
    pub method: Method,
    pub paths: Vec<&'static str>,
    pub open_end: bool,
    pub auth: AuthRequirement,
    pub rate: Option<Kind>,
    pub body: BodyMode,
    /// Whether the handler checks the depth of the parts of the body one by one.
    pub checks_depth: bool,
    /// Whether users whose accounts are locked or suspended are served.
    pub works_while_locked: bool,
    pub works_while_suspended: bool,
    handle: Handle,
}

impl Route {
    pub(super) fn new<M, H: Handler<M>>(handler: H) -> Self {
        Self {
            method: H::Request::METHOD,
            paths: H::Request::PATH_BUILDER.all_paths().collect(),
            open_end: false,
            auth: <H::Request as Metadata>::Authentication::REQUIREMENT,
            rate: H::Request::RATE_LIMITED.then_some(Kind::Other),
            body: H::BODY,
            checks_depth: false,
            works_while_locked: false,
            works_while_suspended: true,
            handle: Box::new(move |call, arguments| handler.handle(call, arguments)),
        }
    }

    /// An operation of the owner: JSON in, JSON out.
    pub(super) fn operation<R, F, Fut>(path: &'static str, handler: F) -> Self
    where
        R: DeserializeOwned,
        F: Fn(Api, R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Value, Error>> + Send + 'static,
    {
        Self {
            method: Method::POST,
            paths: vec![path],
            open_end: false,
            auth: AuthRequirement::None,
            rate: None,
            body: BodyMode::Buffered(limits::MAX_BODY_BYTES),
            checks_depth: false,
            works_while_locked: false,
            works_while_suspended: false,
            handle: Box::new(move |call, _| {
                let request = serde_json::from_slice(call.request.body());
                let request = request.map_err(|error| Error::bad_json(error.to_string()))?;
                let handled = handler(call.api, request);
                Ok(Box::pin(async move {
                    Ok(json(Streamed::json(&handled.await?)?))
                }))
            }),
        }
    }

    pub(super) fn templates(&self) -> impl Iterator<Item = Template> {
        let paths = self.paths.iter();
        paths.map(|path| Template::new(path, self.open_end))
    }

    /// Refuses what the user of `session` may not do while locked or suspended.
    ///
    /// Source: client-server API, "Account moderation".
    pub(super) fn check_moderation(&self, session: &Session) -> Result<(), Error> {
        if session.is_locked && !self.works_while_locked {
            return Err(users::Error::Locked.into());
        }
        if session.is_suspended && !self.works_while_suspended {
            return Err(Error::suspended());
        }
        Ok(())
    }

    /// Checks the depth of a body, before anything else reads it.
    pub(super) fn check_depth(&self, body: &[u8]) -> Result<(), Error> {
        if !self.checks_depth && is_too_deep(body) {
            return Err(Error::bad_json(format!(
                "the body is nested more than {MAX_DEPTH} levels deep"
            )));
        }
        Ok(())
    }

    /// Parses the request, whose depth is checked, and calls the handler.
    pub(super) fn call(&self, mut call: Call) -> Result<Handled, Error> {
        // serde also reads a struct from an array, field by field, which no endpoint allows.
        let is_array = call.request.body().trim_ascii_start().starts_with(b"[");
        // Most of ruma's requests read an empty body as an empty object, but not all that could.
        if call.request.body().is_empty() {
            *call.request.body_mut() = b"{}".to_vec();
        }
        lenience::drop_empty_arguments(call.request.uri_mut());
        if let Some(argument) = refused_arguments::find(call.request.uri()) {
            return Err(Error::UnsupportedArgument(argument));
        }
        let arguments = mem::take(&mut call.arguments);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        // Some of ruma's deserializers index without a check; the panic hook logs the panic.
        match catch_unwind(AssertUnwindSafe(|| (self.handle)(call, &arguments))) {
            Err(_) => Err(Error::bad_json("the request cannot be parsed")),
            Ok(Ok(_)) if is_array => Err(Error::bad_json("the body must be a JSON object")),
            Ok(handled) => handled,
        }
    }
}

/// What `http/routes.rs` adds to ruma's metadata.
impl Route {
    /// The last argument of the path may be empty, with or without the slash before it.
    pub(super) fn open_end(&mut self) -> &mut Self {
        self.open_end = true;
        self
    }

    /// The endpoint has another method than ruma's request.
    pub(super) fn method(&mut self, method: Method) -> &mut Self {
        self.method = method;
        self
    }

    /// The endpoint has another path than ruma's request, with the same arguments.
    pub(super) fn path(&mut self, path: &'static str) -> &mut Self {
        self.paths = vec![path];
        self
    }

    /// The endpoint has this path too.
    pub(super) fn also_path(&mut self, path: &'static str) -> &mut Self {
        self.paths.push(path);
        self
    }

    /// The rate limit instead of ruma's.
    pub(super) fn rate(&mut self, kind: Kind) -> &mut Self {
        self.rate = Some(kind);
        self
    }

    /// Locked users are served too.
    pub(super) fn while_locked(&mut self) -> &mut Self {
        self.works_while_locked = true;
        self
    }

    /// Suspended users are not served.
    pub(super) fn not_while_suspended(&mut self) -> &mut Self {
        self.works_while_suspended = false;
        self
    }

    /// A PDU or EDU in the body that is too deep must not stop the others.
    pub(super) fn checks_depth(&mut self) -> &mut Self {
        self.checks_depth = true;
        self
    }

    /// The maximum size of the body.
    pub(super) fn body(&mut self, max_bytes: usize) -> &mut Self {
        self.body = BodyMode::Buffered(max_bytes);
        self
    }
}

pin_project_lite::pin_project! {
    /// A running handler whose result becomes an HTTP response to the request `R`. (An `async` block
    /// around the handler would take twice the handler's memory.)
    struct Responding<R, F> {
        #[pin]
        handled: F,
        conditions: ConditionalHeaders,
        request: PhantomData<fn(R)>,
    }
}

impl<R, T, F> Future for Responding<R, F>
where
    F: Future<Output = Result<T, Error>>,
    T: IntoHttpResponse<R>,
{
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let handled = ready!(this.handled.poll(context));
        Poll::Ready(handled.map(|result| result.into_http(this.conditions)))
    }
}

fn responding<R, T, F>(handled: F, conditions: ConditionalHeaders) -> Handled
where
    R: 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
    T: IntoHttpResponse<R> + 'static,
{
    Box::pin(Responding {
        handled,
        conditions,
        request: PhantomData,
    })
}

fn parse<R>(
    call: Call,
    arguments: &[&str],
) -> Result<(Api, <R::Authentication as Scheme>::Caller, R), Error>
where
    R: IncomingRequest,
    R::Authentication: Scheme,
{
    // tide has chosen the route by the method.
    let (head, body) = call.request.into_parts();
    let request = Request::from_parts(head, &body[..]);
    let request = R::try_from_http_request_inner(request, arguments);
    let request = request.map_err(|error| malformed(&error))?;
    Ok((
        call.api,
        R::Authentication::caller(call.credentials)?,
        request,
    ))
}
