//! One endpoint: where it is found, what it wants to know, and how it is called.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
};

use http::{Method, Request, Response, header};
use ruma::api::{
    IncomingRequest, IncomingRequestExt, Metadata, OutgoingResponse, error::FromHttpRequestError,
    path_builder::PathBuilder,
};

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
type Handle = Box<dyn Fn(Call<'_>) -> Result<Handled, Error> + Send + Sync>;

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
    {
        Self::of::<R>(Box::new(move |call| {
            let (api, caller, request) = parse::<R>(call)?;
            let answer = handler(api, caller, request);
            Ok(Box::pin(async move { Ok(encode(answer.await?)) }))
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
        Self::of::<R>(Box::new(move |call| {
            let (api, caller, request) = parse::<R>(call)?;
            let answer = handler(api, caller, request);
            Ok(Box::pin(async move {
                let mut response = Response::new(Answer::from(answer.await?));
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                Ok(response)
            }))
        }))
    }

    /// An endpoint that takes a file. ruma's request is without it.
    pub(super) fn upload<R, C, A, F, Fut>(handler: F) -> Self
    where
        R: IncomingRequest,
        R::Authentication: Scheme<Caller = C>,
        A: OutgoingResponse,
        F: Fn(Api, C, R, Upload) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, Error>> + Send + 'static,
    {
        let mut route = Self::of::<R>(Box::new(move |mut call| {
            let upload = call.upload.take();
            let upload = upload.ok_or(Error::Internal("an upload without a body"))?;
            let (api, caller, request) = parse::<R>(call)?;
            let answer = handler(api, caller, request, upload);
            Ok(Box::pin(async move { Ok(encode(answer.await?)) }))
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
        Self::of::<R>(Box::new(move |call| {
            let wants = Wants::of(call.request.headers());
            let (api, caller, request) = parse::<R>(call)?;
            let answer = handler(api, caller, request);
            Ok(Box::pin(
                async move { Ok(files::file(answer.await?, &wants)) },
            ))
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
        Self::of::<R>(Box::new(move |call| {
            let (api, caller, request) = parse::<R>(call)?;
            let answer = handler(api, caller, request);
            Ok(Box::pin(async move { Ok(files::multipart(answer.await?)) }))
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
    pub(super) fn call(&self, call: Call<'_>) -> Result<Handled, Error> {
        (self.handle)(call)
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

fn parse<R>(call: Call<'_>) -> Result<(Api, <R::Authentication as Scheme>::Caller, R), Error>
where
    R: IncomingRequest,
    R::Authentication: Scheme,
{
    let mut request = None;
    let (api, proof) = read(call, &mut |call, arguments| {
        request = Some(R::try_from_http_request(call, arguments)?);
        Ok(())
    })?;
    let caller = R::Authentication::caller(proof)?;
    let request = request.ok_or(Error::Internal("a request that was not read"))?;
    Ok((api, caller, request))
}

type Reads<'a> = dyn FnMut(Request<&[u8]>, &[&str]) -> Result<(), FromHttpRequestError> + 'a;

/// What is the same for every endpoint when ruma `reads` its request, and so is in the program once.
fn read(call: Call<'_>, reads: &mut Reads<'_>) -> Result<(Api, Proof), Error> {
    let arguments: Vec<&str> = call.arguments.iter().map(String::as_str).collect();
    // serde reads a struct from an array too, field by field, which no endpoint means.
    let is_array = call.request.body().trim_ascii_start().starts_with(b"[");
    // Most of ruma's requests read no body as an empty object, but not all that could.
    let request = call.request.map(|body| match body {
        [] => b"{}",
        body => body,
    });
    // Some of ruma's own deserializers index what may not be there; the panic hook logs it.
    match catch_unwind(AssertUnwindSafe(|| reads(request, &arguments))) {
        Err(_) => Err(Error::bad_json("this request makes no sense here")),
        Ok(Err(error)) => Err(malformed(&error)),
        Ok(Ok(())) if is_array => Err(Error::bad_json("the body must be a JSON object")),
        Ok(Ok(())) => Ok((call.api, call.proof)),
    }
}
