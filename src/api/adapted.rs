//! Requests that ruma's types read differently than clients send them.

use std::borrow::Cow;

use ruma::{
    api::{IncomingRequest, Metadata, error::DeserializationError},
    serde::JsonObject,
};
use serde::de::Error as _;

use super::Error;

/// ruma's request `R`, read with a [`Quirk`].
#[derive(Debug)]
pub struct Adapted<R, Q> {
    /// ruma's request.
    pub request: R,
    /// What the quirk has read.
    pub quirk: Q,
}

/// A difference between what clients send and what ruma's type reads.
pub trait Quirk: Sized {
    /// Changes the request to what ruma's type reads, and returns what that type has no field for.
    ///
    /// # Errors
    /// If the request is malformed; the client gets a 400.
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        path_arguments: &[&str],
    ) -> Result<Self, DeserializationError>;
}

impl<R: Metadata, Q> Metadata for Adapted<R, Q> {
    const METHOD: http::Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest, Q: Quirk> IncomingRequest for Adapted<R, Q> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let mut request = request.map(Cow::Borrowed);
        let quirk = Q::apply(&mut request, path_arguments)?;
        let (head, body) = request.into_parts();
        let request = http::Request::from_parts(head, &*body);
        let request = R::try_from_http_request_inner(request, path_arguments)?;
        Ok(Self { request, quirk })
    }
}

/// The body as the client sent it. ruma's types drop properties that they do not know; what a client
/// stores comes back with them.
#[derive(Debug)]
pub struct AsSent(pub JsonObject);

impl Quirk for AsSent {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        Ok(Self(serde_json::from_slice(request.body())?))
    }
}

impl AsSent {
    /// Refuses properties that change what the request means, of features that hearth does not have, unless
    /// they are `null` or `false`.
    ///
    /// # Errors
    /// [`Error::UnsupportedArgument`].
    pub fn refuse(&self, names: &[&'static str]) -> Result<(), Error> {
        let is_used = |name: &&&str| {
            let value = self.0.get(**name);
            value.is_some_and(|value| !value.is_null() && *value != false)
        };
        let used = names.iter().find(is_used);
        used.map_or(Ok(()), |name| Err(Error::UnsupportedArgument(name)))
    }
}

/// The body as the client sent it, of which ruma's type reads nothing: it refuses what other servers store.
#[derive(Debug)]
pub struct Unread(pub JsonObject);

impl Quirk for Unread {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let AsSent(body) = AsSent::apply(request, path_arguments)?;
        *request.body_mut() = Cow::Borrowed(b"{}");
        Ok(Self(body))
    }
}

/// Drops `name` from the query: ruma's type reads it in another way.
///
/// # Errors
/// If the rest is no URI.
pub(super) fn drop_argument(
    request: &mut http::Request<Cow<'_, [u8]>>,
    name: &str,
) -> Result<(), DeserializationError> {
    let arguments = request.uri().query().unwrap_or_default().split('&');
    let others = arguments.filter(|argument| argument.split('=').next() != Some(name));
    let others = others.collect::<Vec<_>>().join("&");
    let uri = format!("{}?{others}", request.uri().path());
    *request.uri_mut() = uri.parse().map_err(serde_json::Error::custom)?;
    Ok(())
}

/// Changes the JSON object in the body of `request`.
///
/// # Errors
/// If the body is not a JSON object.
pub(super) fn edit_body(
    request: &mut http::Request<Cow<'_, [u8]>>,
    edit: impl FnOnce(&mut JsonObject),
) -> Result<(), DeserializationError> {
    let mut body: JsonObject = serde_json::from_slice(request.body())?;
    edit(&mut body);
    *request.body_mut() = Cow::Owned(serde_json::to_vec(&body)?);
    Ok(())
}
