//! Older forms of requests, of which ruma has only the newer.

use ruma::api::{
    IncomingRequest, Metadata,
    error::DeserializationError,
    federation::membership::{create_join_event, create_leave_event},
    path_builder::SinglePath,
};

/// A request under another path, which has the same body and arguments.
macro_rules! older {
    ($(#[$doc:meta])+ $name:ident is $newer:path, $path:literal) => {
        $(#[$doc])+
        #[derive(Debug)]
        pub struct $name(pub $newer);

        impl Metadata for $name {
            const METHOD: http::Method = <$newer>::METHOD;
            const RATE_LIMITED: bool = <$newer>::RATE_LIMITED;
            type Authentication = <$newer as Metadata>::Authentication;
            type PathBuilder = SinglePath;
            const PATH_BUILDER: SinglePath = SinglePath::new($path);
        }

        impl IncomingRequest for $name {
            type EndpointError = <$newer as IncomingRequest>::EndpointError;
            type OutgoingResponse = <$newer as IncomingRequest>::OutgoingResponse;

            fn try_from_http_request_inner(
                request: http::Request<&[u8]>,
                path_args: &[&str],
            ) -> Result<Self, DeserializationError> {
                <$newer>::try_from_http_request_inner(request, path_args).map(Self)
            }
        }
    };
}

older! {
    /// `PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}`
    SendJoin is create_join_event::v2::Request,
    "/_matrix/federation/v1/send_join/{room_id}/{event_id}"
}

older! {
    /// `PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}`
    SendLeave is create_leave_event::v2::Request,
    "/_matrix/federation/v1/send_leave/{room_id}/{event_id}"
}
