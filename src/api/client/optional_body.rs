//! A request whose body may be left out.

use ruma::api::{IncomingRequest, Metadata, error::DeserializationError};

/// A request that nothing need be said in: no body is an empty object. Most of ruma's requests are
/// like that by themselves.
#[derive(Debug)]
pub struct OptionalBody<R>(pub R);

impl<R: Metadata> Metadata for OptionalBody<R> {
    const METHOD: http::Method = R::METHOD;
    const RATE_LIMITED: bool = R::RATE_LIMITED;
    type Authentication = R::Authentication;
    type PathBuilder = R::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = R::PATH_BUILDER;
}

impl<R: IncomingRequest> IncomingRequest for OptionalBody<R> {
    type EndpointError = R::EndpointError;
    type OutgoingResponse = R::OutgoingResponse;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let request = request.map(|body| if body.is_empty() { b"{}" } else { body });
        R::try_from_http_request_inner(request, path_args).map(Self)
    }
}
