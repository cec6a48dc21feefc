//! One endpoint: where it is found, what it wants to know, and how it is called.

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

use super::{
    auth::{Demand, Proof, Scheme},
    body::Answer,
    error::{encode, malformed},
    files::{self, Wants},
    limits,
    path::Template,
};
use crate::{
    api::{Api, Download, Error, Multipart, Streamed, Upload},
    rates::Kind,
};

/// What a handler is called with, before ruma has made a request of it.
pub(super) struct Call<'a> {
    pub api: Api,
    pub proof: Proof,
    pub request: Request<&'a [u8]>,
    pub arguments: Vec<String>,
    /// The body, where the handler takes it as it comes.
    pub upload: Option<Upload>,
}

/// How the body of a request is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyMode {
    /// Into memory, at most so many bytes.
    Buffered(usize),
    /// By the handler, piece by piece.
    Streamed,
}

type Response = http::Response<Answer>;
type Handled = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;
type Handle = Box<dyn Fn(Call<'_>, &[&str]) -> Result<Handled, Error> + Send + Sync>;

/// A function that serves an endpoint: `async fn(Api, Caller, Request) -> Result<Answer, Error>`, with
/// an [`Upload`] as the last argument if it reads the body itself. `M` is only there to tell the two
/// apart.
pub(super) trait Handler<M>: Send + Sync + 'static {
    type Request: IncomingRequest<Authentication: Scheme>;
    const BODY: BodyMode;

    fn handle(&self, call: Call<'_>, arguments: &[&str]) -> Result<Handled, Error>;
}

impl<F, R, C, Fut, T> Handler<(R, C, Fut)> for F
where
    F: Fn(Api, C, R) -> Fut + Send + Sync + 'static,
    R: IncomingRequest<Authentication: Scheme<Caller = C>> + 'static,
    Fut: Future<Output = Result<T, Error>> + Send + 'static,
    T: AnswerTo<R> + 'static,
{
    type Request = R;
    const BODY: BodyMode = BodyMode::Buffered(limits::BODY);

    fn handle(&self, call: Call<'_>, arguments: &[&str]) -> Result<Handled, Error> {
        let wants = Wants::of(call.request.headers());
        let (api, caller, request) = parse::<R>(call, arguments)?;
        Ok(answered::<R, _, _>(self(api, caller, request), wants))
    }
}

impl<F, R, C, Fut, T> Handler<(R, C, Upload, Fut)> for F
where
    F: Fn(Api, C, R, Upload) -> Fut + Send + Sync + 'static,
    R: IncomingRequest<Authentication: Scheme<Caller = C>> + 'static,
    Fut: Future<Output = Result<T, Error>> + Send + 'static,
    T: AnswerTo<R> + 'static,
{
    type Request = R;
    const BODY: BodyMode = BodyMode::Streamed;

    fn handle(&self, mut call: Call<'_>, arguments: &[&str]) -> Result<Handled, Error> {
        let wants = Wants::of(call.request.headers());
        let upload = call.upload.take();
        let upload = upload.ok_or(Error::Internal("an upload without a body"))?;
        let (api, caller, request) = parse::<R>(call, arguments)?;
        Ok(answered::<R, _, _>(
            self(api, caller, request, upload),
            wants,
        ))
    }
}

/// What a handler of the request `R` may return.
pub(super) trait AnswerTo<R>: Sized {
    fn answer(self, wants: &Wants) -> Response;
}

impl<R, T> AnswerTo<R> for T
where
    R: IncomingRequest<OutgoingResponse = T>,
    T: OutgoingResponse,
{
    fn answer(self, _: &Wants) -> Response {
        encode(self)
    }
}

impl<R> AnswerTo<R> for Streamed {
    fn answer(self, _: &Wants) -> Response {
        let mut response = Response::new(Answer::from(self));
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }
}

impl<R> AnswerTo<R> for Download {
    fn answer(self, wants: &Wants) -> Response {
        files::file(self, wants)
    }
}

impl<R> AnswerTo<R> for Multipart {
    fn answer(self, _: &Wants) -> Response {
        files::multipart(self.0)
    }
}

/// An endpoint of one method and all the paths it ever had.
pub(super) struct Route {
    pub method: Method,
    pub paths: Vec<&'static str>,
    pub open_end: bool,
    pub demand: Demand,
    pub rate: Option<Kind>,
    pub body: BodyMode,
    handle: Handle,
}

impl Route {
    pub(super) fn new<M, H: Handler<M>>(handler: H) -> Self {
        Self {
            method: H::Request::METHOD,
            paths: H::Request::PATH_BUILDER.all_paths().collect(),
            open_end: false,
            demand: <H::Request as Metadata>::Authentication::DEMAND,
            rate: H::Request::RATE_LIMITED.then_some(Kind::Other),
            body: H::BODY,
            handle: Box::new(move |call, arguments| handler.handle(call, arguments)),
        }
    }

    pub(super) fn templates(&self) -> impl Iterator<Item = Template> {
        let paths = self.paths.iter();
        paths.map(|path| Template::new(path, self.open_end))
    }

    /// Makes ruma's request and calls the handler with it. The body is not needed any more once
    /// this returns.
    pub(super) fn call(&self, mut call: Call<'_>) -> Result<Handled, Error> {
        // serde reads a struct from an array too, field by field, which no endpoint means.
        let is_array = call.request.body().trim_ascii_start().starts_with(b"[");
        // Most of ruma's requests read no body as an empty object, but not all that could.
        if call.request.body().is_empty() {
            *call.request.body_mut() = b"{}";
        }
        let arguments = mem::take(&mut call.arguments);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        // Some of ruma's own deserializers index what may not be there; the panic hook logs it.
        match catch_unwind(AssertUnwindSafe(|| (self.handle)(call, &arguments))) {
            Err(_) => Err(Error::bad_json("this request makes no sense here")),
            Ok(Ok(_)) if is_array => Err(Error::bad_json("the body must be a JSON object")),
            Ok(handled) => handled,
        }
    }
}

/// What `http/routes.rs` says of an endpoint that ruma does not.
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

    /// The rate limit, in place of ruma's.
    pub(super) fn rate(&mut self, kind: Kind) -> &mut Self {
        self.rate = Some(kind);
        self
    }

    /// The most bytes that the body may have.
    pub(super) fn body(&mut self, max: usize) -> &mut Self {
        self.body = BodyMode::Buffered(max);
        self
    }
}

pin_project_lite::pin_project! {
    /// A running handler whose result becomes an answer to the request `R`. (An `async` block around
    /// the handler would take twice the handler's memory.)
    struct Answered<R, F> {
        #[pin]
        handled: F,
        wants: Wants,
        request: PhantomData<fn(R)>,
    }
}

impl<R, T, F> Future for Answered<R, F>
where
    F: Future<Output = Result<T, Error>>,
    T: AnswerTo<R>,
{
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let handled = ready!(this.handled.poll(context));
        Poll::Ready(handled.map(|result| result.answer(this.wants)))
    }
}

fn answered<R, T, F>(handled: F, wants: Wants) -> Handled
where
    R: 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
    T: AnswerTo<R> + 'static,
{
    Box::pin(Answered {
        handled,
        wants,
        request: PhantomData,
    })
}

fn parse<R>(
    call: Call<'_>,
    arguments: &[&str],
) -> Result<(Api, <R::Authentication as Scheme>::Caller, R), Error>
where
    R: IncomingRequest,
    R::Authentication: Scheme,
{
    // tide has chosen the route by the method.
    let request = R::try_from_http_request_inner(call.request, arguments);
    let request = request.map_err(|error| malformed(&error))?;
    Ok((call.api, R::Authentication::caller(call.proof)?, request))
}
