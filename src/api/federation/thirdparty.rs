//! Third-party invites (server-server API, "Third-party invites").

use ruma::api::federation::thirdparty::{bind_callback, exchange_invite};

use crate::api::{Api, Error, Origin, Unauthenticated};

const MAX_INVITES: usize = 20;

/// `PUT /_matrix/federation/v1/3pid/onbind`. Anybody may send this: an invite is believed only if it is
/// signed with a key that the `m.room.third_party_invite` event of the room names.
pub async fn bind_callback(
    api: Api,
    _client: Unauthenticated,
    request: bind_callback::v1::Request,
) -> Result<bind_callback::v1::Response, Error> {
    if !api.local.has(&request.mxid) {
        return Err(Error::not_found("mxid must be a user of this server"));
    }
    if request.invites.len() > MAX_INVITES {
        return Err(Error::invalid_param(format!(
            "invites may have at most {MAX_INVITES} entries, found {}",
            request.invites.len()
        )));
    }
    for invite in request.invites {
        if invite.mxid != request.mxid {
            return Err(Error::invalid_param(
                "mxid of an invite differs from mxid of the request",
            ));
        }
        let room = invite.room_id.clone();
        // One failure does not affect the others.
        if let Err(error) = api.federation.membership_client().bind_invite(invite).await {
            log::debug!("a third-party invite to {room} failed: {error}");
        }
    }
    Ok(bind_callback::v1::Response::new())
}

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
pub async fn exchange_invite(
    api: Api,
    origin: Origin,
    request: exchange_invite::v1::Request,
) -> Result<exchange_invite::v1::Response, Error> {
    api.federation
        .membership_client()
        .exchange_invite(&origin.server, &request)
        .await?;
    Ok(exchange_invite::v1::Response::new())
}
