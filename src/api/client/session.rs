//! Login and logout (client-server API, "Login").

use std::borrow::Cow;

use ruma::api::{
    client::session::{
        get_login_token, get_login_types, login, logout, logout_all, refresh_token, sso_login,
        sso_login_with_provider,
    },
    client::uiaa::UserIdentifier,
    error::DeserializationError,
};
use ruma::serde::JsonObject;
use serde::de::Error as _;

use super::{
    password,
    uiaa::{self, Interactive},
};
use crate::{
    api::{Adapted, Api, Error, Quirk, Session, Unauthenticated},
    users::{AuthenticatedUser, NewLogin, PasswordClient},
};

/// `GET /_matrix/client/v3/login`
pub async fn get_login_types(
    _api: Api,
    _client: Unauthenticated,
    _request: get_login_types::v3::Request,
) -> Result<get_login_types::v3::Response, Error> {
    use get_login_types::v3::{LoginType, PasswordLoginType, Response, TokenLoginType};

    let mut token = TokenLoginType::new();
    token.get_login_token = true;
    Ok(Response::new(vec![
        LoginType::Password(PasswordLoginType::new()),
        LoginType::Token(token),
    ]))
}

const NO_SSO: &str = "this server has no single sign-on";

/// `GET /_matrix/client/v3/login/sso/redirect`
pub async fn sso_login(
    _api: Api,
    _client: Unauthenticated,
    _request: sso_login::v3::Request,
) -> Result<sso_login::v3::Response, Error> {
    Err(Error::not_found(NO_SSO))
}

/// `GET /_matrix/client/v3/login/sso/redirect/{idpId}`
pub async fn sso_login_with_provider(
    _api: Api,
    _client: Unauthenticated,
    _request: sso_login_with_provider::v3::Request,
) -> Result<sso_login_with_provider::v3::Response, Error> {
    Err(Error::not_found(NO_SSO))
}

/// ruma panics if `type` is missing.
#[derive(Debug)]
pub struct TypeRequired;

impl Quirk for TypeRequired {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let body: JsonObject = serde_json::from_slice(request.body())?;
        if body.contains_key("type") {
            Ok(Self)
        } else {
            Err(serde_json::Error::missing_field("type").into())
        }
    }
}

/// `POST /_matrix/client/v3/login`
pub async fn login(
    api: Api,
    client: Unauthenticated,
    Adapted { request, .. }: Adapted<login::v3::Request, TypeRequired>,
) -> Result<login::v3::Response, Error> {
    use login::v3::LoginInfo;

    let proof = match request.login_info {
        LoginInfo::Password(info) => authenticate_by_password(&api, client, info).await?,
        LoginInfo::Token(info) => api.users.authenticate_by_login_token(&info.token)?,
        LoginInfo::ApplicationService(_) => {
            return Err(Error::forbidden(
                "type must not be m.login.application_service: this server has no application services",
            ));
        }
        _ => {
            return Err(Error::unknown(
                "type must be m.login.password or m.login.token",
            ));
        }
    };
    let new = NewLogin {
        device_id: request.device_id,
        display_name: request.initial_device_display_name,
        refreshable: request.refresh_token,
    };
    let user = proof.user();
    let login = api.users.log_in(proof, new).await?;
    api.users.record_login_network(user, client.address).await;
    let access_token = login.access_token.into_string();
    let mut response = login::v3::Response::new(login.user_id, access_token, login.device_id);
    response.refresh_token = login.refresh_token.map(|token| token.into_string());
    response.expires_in = login.expires_in;
    Ok(response)
}

async fn authenticate_by_password(
    api: &Api,
    client: Unauthenticated,
    info: login::v3::Password,
) -> Result<AuthenticatedUser, Error> {
    #[expect(deprecated, reason = "older clients name the user only so")]
    let user = match (info.identifier, info.user) {
        (Some(UserIdentifier::Matrix(named)), _) => named.user,
        (None, Some(user)) => user,
        (Some(_), _) => return Err(Error::forbidden("identifier.type must be m.id.user")),
        (None, None) => return Err(Error::missing_param("identifier is missing")),
    };
    let client = PasswordClient::Network(client.address);
    password::authenticate(api, client, &user, info.password).await
}

/// `POST /_matrix/client/v1/login/get_token`
pub async fn get_login_token(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: operation,
    }: Interactive<get_login_token::v1::Request>,
) -> Result<get_login_token::v1::Response, Error> {
    uiaa::confirm_password(&api, &session, operation, request.auth.as_ref()).await?;
    let (token, lifetime) = api.users.login_token(session.user).await?;
    let token = token.into_string();
    Ok(get_login_token::v1::Response::new(lifetime, token))
}

/// `POST /_matrix/client/v3/refresh`
pub async fn refresh_token(
    api: Api,
    _client: Unauthenticated,
    request: refresh_token::v3::Request,
) -> Result<refresh_token::v3::Response, Error> {
    let login = api.users.refresh(&request.refresh_token).await?;
    let mut response = refresh_token::v3::Response::new(login.access_token.into_string());
    response.refresh_token = login.refresh_token.map(|token| token.into_string());
    response.expires_in_ms = login.expires_in;
    Ok(response)
}

/// `POST /_matrix/client/v3/logout`
pub async fn logout(
    api: Api,
    session: Session,
    _request: logout::v3::Request,
) -> Result<logout::v3::Response, Error> {
    let devices = vec![session.device_id];
    api.users.remove_devices(session.user, devices).await?;
    Ok(logout::v3::Response::new())
}

/// `POST /_matrix/client/v3/logout/all`
pub async fn logout_all(
    api: Api,
    session: Session,
    _request: logout_all::v3::Request,
) -> Result<logout_all::v3::Response, Error> {
    api.users.remove_all_devices(session.user).await?;
    Ok(logout_all::v3::Response::new())
}
