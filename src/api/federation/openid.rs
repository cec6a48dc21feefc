//! OpenID user information, for other services. It is served without federation too.

use ruma::api::federation::openid::get_openid_userinfo::v1::{Request, Response};

use crate::api::{Api, Error, Unauthenticated};

/// `GET /_matrix/federation/v1/openid/userinfo`
pub async fn get_openid_userinfo(
    api: Api,
    _client: Unauthenticated,
    request: Request,
) -> Result<Response, Error> {
    Ok(Response::new(api.users.openid_user(&request.access_token)?))
}
