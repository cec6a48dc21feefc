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

use super::{
    invited,
    uiaa::{self, Interactive, authenticate},
};
use crate::{
    api::{Adapted, Api, Error, Streamed, Unauthenticated},
    config::Registration,
    rates::Kind,
    store::UserNum,
    users::{
        Login, NewAccount, NewLogin, NewPassword, Operation, PasswordClient, PasswordHash,
        RegistrationFields, accounts::Registered,
    },
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

/// Whether `token` is a registration token. Guesses are rate-limited.
pub(super) fn check_token(api: &Api, client: Unauthenticated, token: &str) -> Result<bool, Error> {
    let valid = api.users.is_registration_token(token)?;
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
        mut request,
        quirk: operation,
    }: Interactive<register::v3::Request>,
) -> Result<Streamed, Error> {
    check_kind(&request)?;
    let session = request.auth.as_ref().and_then(|auth| auth.session());
    let (mut password_hash, mut registration_token) = (None, None);
    if let Some(session) = session.map(ToOwned::to_owned) {
        password_hash = fill(&mut request, api.users.uia.registration(&session));
        registration_token = api.users.uia.registration_token(&session);
        if let Some(user) = api.users.uia.registered(&session, operation) {
            return repeat(&api, user, &request).await;
        }
    }
    let flow = flow(&api)?;
    let user_id = match &request.username {
        Some(username) => api.users.check_username(username)?,
        None => api.users.generate_user_id(),
    };
    if let Some(password) = &request.password {
        api.users.check_password_strength(password, &user_id)?;
    }
    new_login(&request).check()?;
    let auth = request.auth.as_ref();
    if let Some(AuthData::RegistrationToken(stage)) = auth {
        check_token(&api, client, &stage.token)?;
    }
    let uiaa_client = uiaa::Client::Unauthenticated(client);
    // NOTSPEC: a client may begin with an empty body and say later what it registers, as with Synapse.
    let endpoint = Operation::new("POST", "register", &());
    let uia_session = match authenticate(&api, uiaa_client, endpoint, flow, auth).await {
        Ok(session) => session,
        Err(Error::Uiaa(info)) => {
            if let Some(session) = &info.session {
                remember(&api, client, session, request, password_hash).await?;
            }
            return Err(Error::Uiaa(info));
        }
        Err(error) => return Err(error),
    };
    let password = request.password.take().map(NewPassword::Clear);
    let password = password.or(password_hash.map(NewPassword::Hashed));
    let password = password.ok_or_else(|| Error::missing_param("password is missing"))?;
    api.rates
        .check_network(Kind::Register, client.address, ())?;
    let turn = PasswordClient::Network(client.address);
    let turn = api.users.password_turn(turn).await;
    let account = NewAccount {
        user_id: user_id.clone(),
        password: Some(password),
        admin: None,
        display_name: None,
        login: (!request.inhibit_login).then(|| new_login(&request)),
        registration_token,
    };
    let fields = RegistrationFields {
        device_id: request.device_id,
        initial_device_display_name: request.initial_device_display_name,
        inhibit_login: request.inhibit_login,
        refresh_token: request.refresh_token,
        ..RegistrationFields::default()
    };
    let Registered { user, login, token } = api.users.register(account).await?;
    drop(turn);
    api.users
        .uia
        .set_registered(uia_session, operation, uiaa_client.claimant(), user, fields);
    api.users.record_login_network(user, client.address).await;
    if let Some(token) = token {
        let (federation, user_id) = (api.federation.clone(), user_id.clone());
        let join = async move { invited::join_rooms(&api, user, &user_id, &token).await };
        // A repeated request does not join them.
        federation.run_to_completion(join).await;
    }
    response(user_id, login)
}

/// Fills what `request` lacks from the earlier requests of its session, and returns the hash of their
/// password. NOTSPEC: as in Synapse; clients send all at first and then `auth` alone.
fn fill(request: &mut Request, before: RegistrationFields) -> Option<PasswordHash> {
    let device_name = &mut request.initial_device_display_name;
    request.username = request.username.take().or(before.username);
    request.device_id = request.device_id.take().or(before.device_id);
    *device_name = device_name.take().or(before.initial_device_display_name);
    request.inhibit_login |= before.inhibit_login;
    request.refresh_token |= before.refresh_token;
    before.password
}

/// Keeps what `request` says for the next one of `session`. Of the password, only the hash of the first one
/// is kept: a final request that has the password is registered with that.
async fn remember(
    api: &Api,
    client: Unauthenticated,
    session: &str,
    request: Request,
    mut password: Option<PasswordHash>,
) -> Result<(), Error> {
    if password.is_none()
        && let Some(clear) = request.password
    {
        // A hash costs as much as that of a login.
        api.rates.check_network(Kind::Login, client.address, ())?;
        let turn = PasswordClient::Network(client.address);
        let _turn = api.users.password_turn(turn).await;
        password = Some(api.users.hash_password(clear).await?);
    }
    let fields = RegistrationFields {
        username: request.username,
        password,
        device_id: request.device_id,
        initial_device_display_name: request.initial_device_display_name,
        inhibit_login: request.inhibit_login,
        refresh_token: request.refresh_token,
    };
    api.users.uia.set_registration(session, fields);
    Ok(())
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
        // The owner can still invite people.
        Registration::Closed if api.users.has_registration_tokens()? => Ok(TOKEN_FLOW),
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
