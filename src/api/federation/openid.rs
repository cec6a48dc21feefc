//! Who somebody is, for other services. It needs no federation: whoever asks need be no server.

use ruma::api::federation::openid::get_openid_userinfo::v1::{Request, Response};

use crate::api::{Api, Error, Unauthenticated};

/// `GET /_matrix/federation/v1/openid/userinfo`
pub async fn get_openid_userinfo(
    api: Api,
    _who: Unauthenticated,
    request: Request,
) -> Result<Response, Error> {
    Ok(Response::new(api.users.openid_user(&request.access_token)?))
}
