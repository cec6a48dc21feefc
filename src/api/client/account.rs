//! Account management (client-server API, "Account management").

use ruma::api::{
    client::account::{
        ThirdPartyIdRemovalStatus, add_3pid, bind_3pid, change_password, deactivate, delete_3pid,
        get_3pids, request_3pid_management_token_via_email,
        request_3pid_management_token_via_msisdn, request_password_change_token_via_email,
        request_password_change_token_via_msisdn, unbind_3pid, whoami,
    },
    error::ErrorKind,
};

use super::uiaa::{self, Interactive};
use crate::api::{Adapted, Api, Error, Session, Unauthenticated, deactivation::deactivate_account};

/// `GET /_matrix/client/v3/account/whoami`
pub async fn whoami(
    _api: Api,
    session: Session,
    _request: whoami::v3::Request,
) -> Result<whoami::v3::Response, Error> {
    let mut response = whoami::v3::Response::new(session.user_id, false);
    response.device_id = Some(session.device_id);
    Ok(response)
}

/// `POST /_matrix/client/v3/account/password`
pub async fn change_password(
    api: Api,
    session: Option<Session>,
    Adapted {
        request,
        quirk: operation,
    }: Interactive<change_password::v3::Request>,
) -> Result<change_password::v3::Response, Error> {
    let session = session.ok_or_else(no_session)?;
    let password = request.new_password;
    api.users
        .check_password_strength(&password, &session.user_id)?;
    uiaa::confirm_password(&api, &session, operation, request.auth.as_ref()).await?;
    let keep = Some(session.device);
    let change = api
        .users
        .set_password(&session.user_id, password, keep, request.logout_devices);
    change.await?;
    Ok(change_password::v3::Response::new())
}

/// `POST /_matrix/client/v3/account/deactivate`
pub async fn deactivate(
    api: Api,
    session: Option<Session>,
    Adapted {
        request,
        quirk: operation,
    }: Interactive<deactivate::v3::Request>,
) -> Result<deactivate::v3::Response, Error> {
    let session = session.ok_or_else(no_session)?;
    uiaa::confirm_password(&api, &session, operation, request.auth.as_ref()).await?;
    deactivate_account(&api, session.user, request.erase).await?;
    // Accounts have no third-party ids to unbind.
    let result = ThirdPartyIdRemovalStatus::Success;
    Ok(deactivate::v3::Response::new(result))
}

/// The specification allows these requests without a session if the user authenticates by e-mail.
fn no_session() -> Error {
    Error::missing_token("an access token is required: this server has no authentication by e-mail")
}

/// `GET /_matrix/client/v3/account/3pid`: accounts have no third-party ids.
pub async fn get_3pids(
    _api: Api,
    _session: Session,
    _request: get_3pids::v3::Request,
) -> Result<get_3pids::v3::Response, Error> {
    Ok(get_3pids::v3::Response::new(Vec::new()))
}

/// `POST /_matrix/client/v3/account/3pid` (deprecated), whose body is not read.
pub async fn add_3pid_deprecated(
    _api: Api,
    _session: Session,
    _request: get_3pids::v3::Request,
) -> Result<get_3pids::v3::Response, Error> {
    Err(no_3pid_changes())
}

/// `POST /_matrix/client/v3/account/3pid/add`
pub async fn add_3pid(
    _api: Api,
    _session: Session,
    _request: add_3pid::v3::Request,
) -> Result<add_3pid::v3::Response, Error> {
    Err(no_3pid_changes())
}

/// `POST /_matrix/client/v3/account/3pid/bind`
pub async fn bind_3pid(
    _api: Api,
    _session: Session,
    _request: bind_3pid::v3::Request,
) -> Result<bind_3pid::v3::Response, Error> {
    Err(no_3pid_changes())
}

/// `POST /_matrix/client/v3/account/3pid/delete`
pub async fn delete_3pid(
    _api: Api,
    _session: Session,
    _request: delete_3pid::v3::Request,
) -> Result<delete_3pid::v3::Response, Error> {
    Err(no_3pid_changes())
}

/// `POST /_matrix/client/v3/account/3pid/unbind`
pub async fn unbind_3pid(
    _api: Api,
    _session: Session,
    _request: unbind_3pid::v3::Request,
) -> Result<unbind_3pid::v3::Response, Error> {
    // Nothing was bound through this server.
    let result = ThirdPartyIdRemovalStatus::NoSupport;
    Ok(unbind_3pid::v3::Response::new(result))
}

/// As the capability `m.3pid_changes` says, and as Synapse answers with `enable_3pid_changes: false`.
fn no_3pid_changes() -> Error {
    Error::forbidden("accounts of this server have no e-mail addresses or phone numbers")
}

/// `POST /_matrix/client/v3/account/3pid/email/requestToken`
pub async fn request_3pid_management_token_via_email(
    _api: Api,
    _client: Unauthenticated,
    _request: request_3pid_management_token_via_email::v3::Request,
) -> Result<request_3pid_management_token_via_email::v3::Response, Error> {
    Err(medium_not_supported())
}

/// `POST /_matrix/client/v3/account/3pid/msisdn/requestToken`
pub async fn request_3pid_management_token_via_msisdn(
    _api: Api,
    _client: Unauthenticated,
    _request: request_3pid_management_token_via_msisdn::v3::Request,
) -> Result<request_3pid_management_token_via_msisdn::v3::Response, Error> {
    Err(medium_not_supported())
}

fn medium_not_supported() -> Error {
    Error::new(
        ErrorKind::ThreepidMediumNotSupported,
        "this server supports neither e-mail addresses nor phone numbers",
    )
}

/// `POST /_matrix/client/v3/account/password/email/requestToken`
pub async fn request_password_change_token_via_email(
    _api: Api,
    _client: Unauthenticated,
    _request: request_password_change_token_via_email::v3::Request,
) -> Result<request_password_change_token_via_email::v3::Response, Error> {
    Err(unknown_address())
}

/// `POST /_matrix/client/v3/account/password/msisdn/requestToken`
pub async fn request_password_change_token_via_msisdn(
    _api: Api,
    _client: Unauthenticated,
    _request: request_password_change_token_via_msisdn::v3::Request,
) -> Result<request_password_change_token_via_msisdn::v3::Response, Error> {
    Err(unknown_address())
}

fn unknown_address() -> Error {
    Error::new(
        ErrorKind::ThreepidNotFound,
        "no account has this e-mail address or phone number: this server supports neither",
    )
}
