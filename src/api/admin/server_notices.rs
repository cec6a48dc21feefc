//! Server notices: `/_synapse/admin/v1/send_server_notice`, as in Synapse's admin API, and an endpoint of
//! hearth's own that sends one to all users.

use ruma::{OwnedEventId, OwnedUserId, events::TimelineEventType, serde::JsonObject};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{Api, Error, Session},
    protocol::build::canonical_content,
    rooms::{
        self,
        event::send::ClientTransaction,
        server_notices::{self, ServerNotice},
    },
    store::Tx,
};

/// `POST /_synapse/admin/v1/send_server_notice`
pub async fn send_server_notice(
    api: Api,
    session: Session,
    request: send_server_notice::Request,
) -> Result<send_server_notice::Response, Error> {
    let event_id = send(&api, &session, request.0, None).await?;
    Ok(send_server_notice::Response { event_id })
}

/// `PUT /_synapse/admin/v1/send_server_notice/{txnId}`
pub async fn send_server_notice_once(
    api: Api,
    session: Session,
    request: send_server_notice_once::Request,
) -> Result<send_server_notice::Response, Error> {
    let transaction = ClientTransaction {
        device: session.device,
        scope: format!("send_server_notice {}", request.notice.user_id),
        id: request.txn_id,
    };
    let event_id = send(&api, &session, request.notice, Some(transaction)).await?;
    Ok(send_server_notice::Response { event_id })
}

async fn send(
    api: &Api,
    session: &Session,
    request: send_server_notice::Notice,
    transaction: Option<ClientTransaction>,
) -> Result<OwnedEventId, Error> {
    api.users.check_admin(session.user)?;
    let notice = ServerNotice {
        event_type: request.event_type,
        state_key: request.state_key,
        content: canonical_content(&request.content).map_err(rooms::Error::from)?,
    };
    let (local, sender) = (api.local.clone(), api.config.notices_user.clone());
    let (now, target) = (api.clock.timestamp(), request.user_id);
    let send = move |tx: &Tx| {
        let (sender, transaction) = ((&*sender, now), transaction.as_ref());
        server_notices::send(tx, &local, sender, &target, &notice, transaction)
    };
    Ok(api.store.write(send).await?)
}

/// `PUT /_hearth/admin/v1/announcement/{txnId}`
pub async fn announce(
    api: Api,
    session: Session,
    request: announce::Request,
) -> Result<announce::Response, Error> {
    api.users.check_admin(session.user)?;
    announce_to_all(&api, request.txn_id, request.body).await?;
    log::info!("a server notice for all users by {}", session.user_id);
    Ok(announce::Response {})
}

/// An announcement of the owner.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announcement {
    body: String,
}

pub async fn announce_as_owner(api: Api, request: Announcement) -> Result<Value, Error> {
    let id = format!("owner {:016x}", rand::random::<u64>());
    announce_to_all(&api, id, request.body).await?;
    log::info!("a server notice for all users by the owner");
    Ok(json!({ "announced": true }))
}

async fn announce_to_all(api: &Api, id: String, body: String) -> Result<(), Error> {
    let (sender, now) = (api.config.notices_user.clone(), api.clock.timestamp());
    let announce = move |tx: &Tx| server_notices::announce(tx, &id, (&*sender, now), &body);
    Ok(api.store.write(announce).await?)
}

pub mod send_server_notice {
    //! `POST /_synapse/admin/v1/send_server_notice`

    use ruma::api::{
        IncomingRequest, OutgoingBodyJson, OutgoingResponse,
        auth_scheme::AccessToken,
        error::{DeserializationError, Error as MatrixError, IntoHttpError},
        metadata,
    };
    use serde::{Deserialize, Serialize};

    use super::{JsonObject, OwnedEventId, OwnedUserId, TimelineEventType};

    #[derive(Clone, Debug, Deserialize)]
    pub struct Notice {
        pub user_id: OwnedUserId,
        #[serde(rename = "type", default = "message")]
        pub event_type: TimelineEventType,
        pub state_key: Option<String>,
        pub content: JsonObject,
    }

    fn message() -> TimelineEventType {
        TimelineEventType::RoomMessage
    }

    #[derive(Clone, Debug)]
    pub struct Request(pub Notice);

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: AccessToken,
        path: "/_synapse/admin/v1/send_server_notice",
    }

    #[derive(Clone, Debug, Serialize, OutgoingBodyJson)]
    pub struct Response {
        pub event_id: OwnedEventId,
    }

    impl IncomingRequest for Request {
        type EndpointError = MatrixError;
        type OutgoingResponse = Response;

        fn try_from_http_request_inner(
            request: http::Request<&[u8]>,
            _path_arguments: &[&str],
        ) -> Result<Self, DeserializationError> {
            Ok(Self(serde_json::from_slice(request.body())?))
        }
    }

    impl OutgoingResponse for Response {
        type Body = Self;

        fn try_into_http_response_inner(self) -> Result<http::Response<Self>, IntoHttpError> {
            Ok(http::Response::new(self))
        }
    }
}

pub mod send_server_notice_once {
    //! `PUT /_synapse/admin/v1/send_server_notice/{txnId}`

    use ruma::api::{
        IncomingRequest,
        auth_scheme::AccessToken,
        error::{DeserializationError, Error as MatrixError},
        metadata,
    };

    use super::send_server_notice::{Notice, Response};

    #[derive(Clone, Debug)]
    pub struct Request {
        pub txn_id: String,
        pub notice: Notice,
    }

    metadata! {
        method: PUT,
        rate_limited: true,
        authentication: AccessToken,
        path: "/_synapse/admin/v1/send_server_notice/{txn_id}",
    }

    impl IncomingRequest for Request {
        type EndpointError = MatrixError;
        type OutgoingResponse = Response;

        fn try_from_http_request_inner(
            request: http::Request<&[u8]>,
            path_arguments: &[&str],
        ) -> Result<Self, DeserializationError> {
            Ok(Self {
                txn_id: path_arguments.concat(),
                notice: serde_json::from_slice(request.body())?,
            })
        }
    }
}

pub mod announce {
    //! `PUT /_hearth/admin/v1/announcement/{txnId}`

    use ruma::api::{
        IncomingRequest, OutgoingBodyJson, OutgoingResponse,
        auth_scheme::AccessToken,
        error::{DeserializationError, Error as MatrixError, IntoHttpError},
        metadata,
    };
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Debug)]
    pub struct Request {
        pub txn_id: String,
        pub body: String,
    }

    metadata! {
        method: PUT,
        rate_limited: true,
        authentication: AccessToken,
        path: "/_hearth/admin/v1/announcement/{txn_id}",
    }

    #[derive(Clone, Copy, Debug, Serialize, OutgoingBodyJson)]
    pub struct Response {}

    impl IncomingRequest for Request {
        type EndpointError = MatrixError;
        type OutgoingResponse = Response;

        fn try_from_http_request_inner(
            request: http::Request<&[u8]>,
            path_arguments: &[&str],
        ) -> Result<Self, DeserializationError> {
            #[derive(Deserialize)]
            struct Body {
                body: String,
            }
            let Body { body } = serde_json::from_slice(request.body())?;
            Ok(Self {
                txn_id: path_arguments.concat(),
                body,
            })
        }
    }

    impl OutgoingResponse for Response {
        type Body = Self;

        fn try_into_http_response_inner(self) -> Result<http::Response<Self>, IntoHttpError> {
            Ok(http::Response::new(self))
        }
    }
}
