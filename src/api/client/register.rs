//! Account registration (client-server API, "Account registration").

use ruma::{
    OwnedUserId,
    api::{
        client::{
            account::{
                check_registration_token_validity, get_username_availability,
                register::{
                    self, LoginType, RegistrationKind,
                    v3::{Request, Response},
                },
                request_registration_token_via_email, request_registration_token_via_msisdn,
            },
            uiaa::{AuthData, AuthType},
        },
        error::ErrorKind,
    },
};

use super::uiaa::{self, Interactive, authenticate};
use crate::{
    api::{Adapted, Api, Error, Streamed, Unauthenticated},
    config::Registration,
    rates::Kind,
    store::UserNum,
    users::{Login, NewAccount, NewLogin, Operation, PasswordClient},
};

const OPEN_FLOW: &[AuthType] = &[AuthType::Dummy];
/// matrix-nio expects a stage after the registration token.
const TOKEN_FLOW: &[AuthType] = &[AuthType::RegistrationToken, AuthType::Dummy];

/// `GET /_matrix/client/v3/register/available`
pub async fn get_username_availability(
    api: Api,
    _client: Unauthenticated,
    request: get_username_availability::v3::Request,
) -> Result<get_username_availability::v3::Response, Error> {
    flow(&api)?;
    api.users.check_username(&request.username)?;
    Ok(get_username_availability::v3::Response::new(true))
}

/// `GET /_matrix/client/v1/register/m.login.registration_token/validity`
pub async fn check_registration_token_validity(
    api: Api,
    client: Unauthenticated,
    request: check_registration_token_validity::v1::Request,
) -> Result<check_registration_token_validity::v1::Response, Error> {
    flow(&api)?;
    let valid = check_token(&api, client, &request.token)?;
    Ok(check_registration_token_validity::v1::Response::new(valid))
}

/// Whether `token` is the registration token. Guesses are rate-limited.
pub(super) fn check_token(api: &Api, client: Unauthenticated, token: &str) -> Result<bool, Error> {
    let valid = api.users.is_registration_token(token);
    if !valid {
        api.rates
            .check_network(Kind::Register, client.address, ())?;
    }
    Ok(valid)
}

/// `POST /_matrix/client/v3/register/email/requestToken`
pub async fn request_registration_token_via_email(
    _api: Api,
    _client: Unauthenticated,
    _request: request_registration_token_via_email::v3::Request,
) -> Result<request_registration_token_via_email::v3::Response, Error> {
    Err(no_third_party_ids())
}

/// `POST /_matrix/client/v3/register/msisdn/requestToken`
pub async fn request_registration_token_via_msisdn(
    _api: Api,
    _client: Unauthenticated,
    _request: request_registration_token_via_msisdn::v3::Request,
) -> Result<request_registration_token_via_msisdn::v3::Response, Error> {
    Err(no_third_party_ids())
}

fn no_third_party_ids() -> Error {
    Error::new(
        ErrorKind::ThreepidDenied,
        "this server supports neither e-mail addresses nor phone numbers",
    )
}

/// `POST /_matrix/client/v3/register`
pub async fn register(
    api: Api,
    client: Unauthenticated,
    Adapted {
        request,
        quirk: operation,
    }: Interactive<register::v3::Request>,
) -> Result<Streamed, Error> {
    check_kind(&request)?;
    let flow = flow(&api)?;
    let auth = request.auth.as_ref();
    if let Some(session) = auth.and_then(|auth| auth.session())
        && let Some(user) = api.users.uia.registered(session, operation)
    {
        return repeat(&api, user, &request).await;
    }
    let user_id = match &request.username {
        Some(username) => api.users.check_username(username)?,
        None => api.users.generate_user_id(),
    };
    if let Some(password) = &request.password {
        api.users.check_password_strength(password, &user_id)?;
    }
    if let Some(AuthData::RegistrationToken(stage)) = auth {
        check_token(&api, client, &stage.token)?;
    }
    let uiaa_client = uiaa::Client::Unauthenticated(client);
    // NOTSPEC: a client may begin with an empty body and say later what it registers, as with Synapse.
    let endpoint = Operation::new("POST", "register", &());
    let uia_session = authenticate(&api, uiaa_client, endpoint, flow, auth).await?;
    api.rates
        .check_network(Kind::Register, client.address, ())?;
    let turn = PasswordClient::Network(client.address);
    let _turn = api.users.password_turn(turn).await;
    let account = NewAccount {
        user_id: user_id.clone(),
        password: request.password.clone(),
        admin: None,
        display_name: None,
        login: (!request.inhibit_login).then(|| new_login(&request)),
    };
    let (user, login) = api.users.register(account).await?;
    api.users
        .uia
        .set_registered(uia_session, operation, uiaa_client.claimant(), user);
    api.users.record_login_network(user, client.address).await;
    response(user_id, login)
}

/// Repeats a registration whose response was lost: the user exists and is logged in again.
async fn repeat(api: &Api, user: UserNum, request: &Request) -> Result<Streamed, Error> {
    let proof = api.users.authenticate_by_registration(user)?;
    let user_id = proof.user_id().to_owned();
    if request.inhibit_login {
        return response(user_id, None);
    }
    let login = api.users.log_in(proof, new_login(request)).await?;
    response(user_id, Some(login))
}

fn check_kind(request: &Request) -> Result<(), Error> {
    if matches!(request.login_type, Some(LoginType::ApplicationService)) {
        return Err(Error::forbidden("this server has no application services"));
    }
    match request.kind {
        RegistrationKind::User => Ok(()),
        RegistrationKind::Guest => Err(Error::forbidden(
            "kind must be user: this server has no guest accounts",
        )),
        _ => Err(Error::invalid_param("kind must be user")),
    }
}

/// The stages of a registration.
pub(super) fn flow(api: &Api) -> Result<&'static [AuthType], Error> {
    match api.users.registration() {
        Registration::Closed => Err(Error::forbidden("registration is closed on this server")),
        Registration::Token(_) => Ok(TOKEN_FLOW),
        Registration::Open => Ok(OPEN_FLOW),
    }
}

fn new_login(request: &Request) -> NewLogin {
    NewLogin {
        device_id: request.device_id.clone(),
        display_name: request.initial_device_display_name.clone(),
        refreshable: request.refresh_token,
    }
}

fn response(user_id: OwnedUserId, login: Option<Login>) -> Result<Streamed, Error> {
    let mut response = Response::new(user_id);
    if let Some(login) = login {
        response.access_token = Some(login.access_token.into_string());
        response.device_id = Some(login.device_id);
        response.refresh_token = login.refresh_token.map(|token| token.into_string());
        response.expires_in = login.expires_in;
    }
    Streamed::edited(response, |_| {})
}
