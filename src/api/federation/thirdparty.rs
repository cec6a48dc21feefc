//! Invitations by address that come true (server-server API, "Third-party invites").

use ruma::api::federation::thirdparty::{bind_callback, exchange_invite};

use crate::api::{Api, Error, Origin, Unauthenticated};

/// How many invitations an identity server may tell of at once.
const INVITES: usize = 20;

/// `PUT /_matrix/federation/v1/3pid/onbind`. Who is an identity server is not known here: what it
/// says is believed only where a room names the key with which it is signed.
pub async fn bind_callback(
    api: Api,
    _who: Unauthenticated,
    request: bind_callback::v1::Request,
) -> Result<bind_callback::v1::Response, Error> {
    if !api.local.has(&request.mxid) {
        return Err(Error::not_found("there is no such user on this server"));
    }
    if request.invites.len() > INVITES {
        return Err(Error::invalid_param(
            "that are too many invitations at once",
        ));
    }
    for invite in request.invites {
        if invite.mxid != request.mxid {
            return Err(Error::invalid_param("an invitation is for somebody else"));
        }
        let room = invite.room_id.clone();
        // One that comes to nothing leaves the others as they are.
        if let Err(error) = api.federation.membership_client().bind_invite(invite).await {
            log::debug!("an invitation to {room} by address came to nothing: {error}");
        }
    }
    Ok(bind_callback::v1::Response::new())
}

/// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`
pub async fn exchange_invite(
    api: Api,
    who: Origin,
    request: exchange_invite::v1::Request,
) -> Result<exchange_invite::v1::Response, Error> {
    api.federation
        .membership_client()
        .exchange_invite(&who.server, &request)
        .await?;
    Ok(exchange_invite::v1::Response::new())
}
