//! OpenID tokens (client-server API, "OpenID").

use ruma::{
    api::client::account::request_openid_token::v3::{Request, Response},
    authentication::TokenType,
};

use super::config::check_own;
use crate::api::{Api, Error, Session};

/// `POST /_matrix/client/v3/user/{userId}/openid/request_token`
pub async fn request_openid_token(
    api: Api,
    session: Session,
    request: Request,
) -> Result<Response, Error> {
    check_own(&session, &request.user_id)?;
    let (token, lifetime) = api.users.openid_token(session.device).await?;
    Ok(Response::new(
        token.into_string(),
        TokenType::Bearer,
        api.local.server_name().to_owned(),
        lifetime,
    ))
}
