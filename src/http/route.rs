//! One endpoint: where it is found, what it wants to know, and how it is called.

use std::{
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Method, Request, Response, header};
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
    api::{Api, Download, Error, Streamed, Upload},
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

/// How a handler takes the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// Read to its end, and with at most so many bytes.
    Whole(usize),
    /// As it comes.
    Pieces,
}

type Handled = Pin<Box<dyn Future<Output = Result<Response<Answer>, Error>> + Send>>;
type Handle = Box<dyn Fn(Call<'_>, &[&str]) -> Result<Handled, Error> + Send + Sync>;

/// An endpoint of one method and all the paths it ever had.
pub(super) struct Route {
    pub method: Method,
    pub paths: Vec<&'static str>,
    pub open_end: bool,
    pub demand: Demand,
    pub rate: Option<Kind>,
    pub body: Takes,
    handle: Handle,
}

impl Route {
    /// An endpoint whose answer is one of ruma's responses.
    pub(super) fn new<R, C, F, Fut>(handler: F) -> Self
    where
        R: IncomingRequest,
        R::Authentication: Scheme<Caller = C>,
        F: Fn(Api, C, R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R::OutgoingResponse, Error>> + Send + 'static,
        R::OutgoingResponse: 'static,
    {
        Self::of::<R>(Box::new(move |call, arguments| {
            let (api, caller, request) = parse::<R>(call, arguments)?;
            let answer = handler(api, caller, request);
            Ok(answered(answer, encode))
        }))
    }

    /// An endpoint whose answer comes in pieces.
    pub(super) fn streamed<R, C, F, Fut>(handler: F) -> Self
    where
        R: IncomingRequest,
        R::Authentication: Scheme<Caller = C>,
        F: Fn(Api, C, R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Streamed, Error>> + Send + 'static,
    {
        Self::of::<R>(Box::new(move |call, arguments| {
            let (api, caller, request) = parse::<R>(call, arguments)?;
            let answer = handler(api, caller, request);
            Ok(answered(answer, pieces))
        }))
    }

    /// An endpoint that takes a file. ruma's request is without it.
    pub(super) fn upload<R, C, A, F, Fut>(handler: F) -> Self
    where
        R: IncomingRequest,
        R::Authentication: Scheme<Caller = C>,
        A: OutgoingResponse + 'static,
        F: Fn(Api, C, R, Upload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, Error>> + Send + 'static,
    {
        let mut route = Self::of::<R>(Box::new(move |mut call, arguments| {
            let upload = call.upload.take();
            let upload = upload.ok_or(Error::Internal("an upload without a body"))?;
            let (api, caller, request) = parse::<R>(call, arguments)?;
            let answer = handler(api, caller, request, upload);
            Ok(answered(answer, encode))
        }));
        route.body = Takes::Pieces;
        route
    }

    /// An endpoint that gives a file.
    pub(super) fn file<R, C, F, Fut>(handler: F) -> Self
    where
        R: IncomingRequest,
        R::Authentication: Scheme<Caller = C>,
        F: Fn(Api, C, R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Download, Error>> + Send + 'static,
    {
        Self::of::<R>(Box::new(move |call, arguments| {
            let wants = Wants::of(call.request.headers());
            let (api, caller, request) = parse::<R>(call, arguments)?;
            let answer = handler(api, caller, request);
            Ok(answered(answer, move |file| files::file(file, &wants)))
        }))
    }

    /// An endpoint that gives a file to another server.
    pub(super) fn multipart<R, C, F, Fut>(handler: F) -> Self
    where
        R: IncomingRequest,
        R::Authentication: Scheme<Caller = C>,
        F: Fn(Api, C, R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Download, Error>> + Send + 'static,
    {
        Self::of::<R>(Box::new(move |call, arguments| {
            let (api, caller, request) = parse::<R>(call, arguments)?;
            let answer = handler(api, caller, request);
            Ok(answered(answer, files::multipart))
        }))
    }

    fn of<R>(handle: Handle) -> Self
    where
        R: Metadata,
        R::Authentication: Scheme,
    {
        Self {
            method: R::METHOD,
            paths: R::PATH_BUILDER.all_paths().collect(),
            open_end: false,
            demand: R::Authentication::DEMAND,
            rate: R::RATE_LIMITED.then_some(Kind::Other),
            body: Takes::Whole(limits::BODY),
            handle,
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

    /// How often this may be asked, whatever ruma says.
    pub(super) fn rate(&mut self, kind: Kind) -> &mut Self {
        self.rate = Some(kind);
        self
    }

    /// How many bytes the body may have.
    pub(super) fn body(&mut self, most: usize) -> &mut Self {
        self.body = Takes::Whole(most);
        self
    }
}

pin_project_lite::pin_project! {
    /// A handler at work, and what makes an answer of what it returns. (An `async` block around the
    /// handler would take twice the handler's memory.)
    struct Answered<F, M> {
        #[pin]
        handled: F,
        answer: M,
    }
}

impl<T, F, M> Future for Answered<F, M>
where
    F: Future<Output = Result<T, Error>>,
    M: Fn(T) -> Response<Answer>,
{
    type Output = Result<Response<Answer>, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let handled = ready!(this.handled.poll(context));
        Poll::Ready(handled.map(&*this.answer))
    }
}

fn answered<T, F, M>(handled: F, answer: M) -> Handled
where
    F: Future<Output = Result<T, Error>> + Send + 'static,
    M: Fn(T) -> Response<Answer> + Send + 'static,
{
    Box::pin(Answered { handled, answer })
}

fn pieces(streamed: Streamed) -> Response<Answer> {
    let mut response = Response::new(Answer::from(streamed));
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
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
