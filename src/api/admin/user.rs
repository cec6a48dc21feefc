//! Accounts.

use std::{fmt, net::Ipv4Addr};

use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Nothing;
use crate::{
    api::{Api, Error, deactivation::deactivate_account},
    fair_semaphore::FairPermit,
    rooms::state::current,
    store::UserNum,
    users::{
        self, NewAccount, NewPassword, PasswordClient,
        accounts::{self, AccountSummary, Restriction},
        profiles,
    },
};

/// More are left out of a list.
const MAX_LISTED: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// A user id or a localpart.
    user: String,
}

impl Name {
    pub fn user(&self) -> &str {
        &self.user
    }
}

pub async fn list(api: Api, _: Nothing) -> Result<Value, Error> {
    let scan = |s: &_| Ok::<_, Error>(accounts::summaries(s, MAX_LISTED)?);
    let users = api.store.scan("accounts", scan).await?;
    let users: Vec<_> = users.iter().map(to_json).collect();
    Ok(json!({ "users": users }))
}

pub async fn show(api: Api, request: Name) -> Result<Value, Error> {
    let (user, _, account) = api.users.find(&request.user)?;
    let scan = move |s: &_| {
        let mut shown = to_json(&accounts::summary(s, user, account)?);
        shown["display_name"] = profiles::member_profile(s, user)?.display_name.into();
        shown["rooms"] = current::joined_rooms(s, user)?.len().into();
        Ok::<_, Error>(shown)
    };
    let mut shown = api.store.scan("an account", scan).await?;
    shown["backed_up_keys"] = backed_up_keys(&api, user)?.into();
    Ok(shown)
}

fn to_json(summary: &AccountSummary) -> Value {
    json!({
        "user_id": summary.user_id,
        "admin": summary.account.admin,
        "locked": summary.moderation.locked,
        "suspended": summary.moderation.suspended,
        "deactivated": summary.account.deactivated,
        "erased": summary.account.erased,
        "created_ts": summary.account.created_ts,
        "last_seen_ts": summary.last_seen_ts,
        "devices": summary.devices,
    })
}

/// How many room keys are in the user's key backup; `None` if there is no backup.
fn backed_up_keys(api: &Api, user: UserNum) -> Result<Option<u32>, Error> {
    match api.users.backup(user, None) {
        Ok((_, backup)) => Ok(Some(backup.count)),
        Err(users::Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    username: String,
    /// Without one, it is made up.
    password: Option<String>,
    display_name: Option<String>,
    #[serde(default)]
    admin: bool,
}

impl fmt::Debug for NewUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewUser(…)")
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewName {
    username: String,
}

/// Whether an account can have this name, before somebody thinks of a password for it.
pub async fn check(api: Api, request: NewName) -> Result<Value, Error> {
    Ok(json!({ "user_id": new_user_id(&api, &request.username)? }))
}

/// The password is in the response if it was made up.
pub async fn add(api: Api, request: NewUser) -> Result<Value, Error> {
    let user_id = new_user_id(&api, &request.username)?;
    let (password, made_up) = choose(request.password);
    let _turn = password_turn(&api).await;
    let account = NewAccount {
        user_id: user_id.clone(),
        password: Some(NewPassword::Clear(password)),
        // The first account is an administrator anyway.
        admin: request.admin.then_some(true),
        display_name: request.display_name,
        login: None,
        registration_token: None,
    };
    api.users.register(account).await?;
    log::info!("{user_id} was added by the owner");
    Ok(json!({ "user_id": user_id, "password": made_up }))
}

/// The id of a new user. `name` is a localpart or a user id of this server, as for [`users::Users::find`].
fn new_user_id(api: &Api, name: &str) -> Result<OwnedUserId, Error> {
    let server = &api.config.server_name;
    let name = name.strip_prefix('@').unwrap_or(name);
    let (localpart, of_server) = name.split_once(':').unwrap_or((name, server.as_str()));
    if of_server != server.as_str() {
        return Err(Error::invalid_param(format!(
            "this server is {server} and has no accounts of {of_server}"
        )));
    }
    Ok(api.users.check_username(localpart)?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPassword {
    user: String,
    /// Without one, it is made up.
    password: Option<String>,
    /// Whether all devices are logged out.
    #[serde(default)]
    logout: bool,
}

impl fmt::Debug for SetPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SetPassword(…)")
    }
}

/// The password is in the response if it was made up.
pub async fn password(api: Api, request: SetPassword) -> Result<Value, Error> {
    let (_, user_id) = find_active(&api, &request.user)?;
    let made_up = set_password(&api, &user_id, request.password, request.logout).await?;
    Ok(json!({ "user_id": user_id, "password": made_up }))
}

/// A new password for somebody who has lost the old one, and what they can get back with it.
pub async fn rescue(api: Api, request: Name) -> Result<Value, Error> {
    let (user, user_id) = find_active(&api, &request.user)?;
    let made_up = set_password(&api, &user_id, None, false).await?;
    Ok(json!({
        "user_id": user_id,
        "password": made_up,
        "devices": api.users.sessions(user)?.len(),
        "backed_up_keys": backed_up_keys(&api, user)?,
    }))
}

async fn set_password(
    api: &Api,
    user_id: &UserId,
    password: Option<String>,
    logout: bool,
) -> Result<Option<String>, Error> {
    let (password, made_up) = choose(password);
    let _turn = password_turn(api).await;
    let set = api.users.set_password(user_id, password, None, logout);
    set.await?;
    log::info!("the password of {user_id} was set by the owner");
    Ok(made_up)
}

/// The password to set, and that password again if it was made up.
fn choose(password: Option<String>) -> (String, Option<String>) {
    match password {
        Some(password) => (password, None),
        None => {
            let made_up = accounts::generate_password();
            (made_up.clone(), Some(made_up))
        }
    }
}

async fn password_turn(api: &Api) -> FairPermit<PasswordClient> {
    let client = PasswordClient::Network(Ipv4Addr::LOCALHOST.into());
    api.users.password_turn(client).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    user: String,
    is_set: bool,
}

pub async fn lock(api: Api, request: Switch) -> Result<Value, Error> {
    restrict(&api, request, Restriction::Locked, "locked").await
}

pub async fn suspend(api: Api, request: Switch) -> Result<Value, Error> {
    restrict(&api, request, Restriction::Suspended, "suspended").await
}

async fn restrict(
    api: &Api,
    Switch { user, is_set }: Switch,
    restriction: Restriction,
    name: &'static str,
) -> Result<Value, Error> {
    let (user, user_id) = find_active(api, &user)?;
    let restrict = api.users.restrict_as_owner(user, restriction, is_set);
    restrict.await?;
    log_switch(&user_id, name, is_set);
    Ok(json!({ "user_id": user_id, name: is_set }))
}

pub async fn set_admin(api: Api, Switch { user, is_set }: Switch) -> Result<Value, Error> {
    let (_, user_id) = find_active(&api, &user)?;
    api.users.set_admin(user_id.clone(), is_set).await?;
    log_switch(&user_id, "an administrator", is_set);
    Ok(json!({ "user_id": user_id, "admin": is_set }))
}

/// An account that can be changed.
fn find_active(api: &Api, name: &str) -> Result<(UserNum, OwnedUserId), Error> {
    let (user, user_id, account) = api.users.find(name)?;
    match account.deactivated {
        true => Err(deactivated(&user_id)),
        false => Ok((user, user_id)),
    }
}

fn deactivated(user_id: &UserId) -> Error {
    Error::forbidden(format!("{user_id} is deactivated, for ever"))
}

fn log_switch(user_id: &UserId, what: &str, is_set: bool) {
    let change = if is_set { "is" } else { "is no longer" };
    log::info!("{user_id} {change} {what} by the owner");
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deactivation {
    user: String,
    /// Whether the profile, account data and uploads are removed, and the messages hidden from those who join
    /// later.
    #[serde(default)]
    erase: bool,
}

pub async fn deactivate(api: Api, request: Deactivation) -> Result<Value, Error> {
    let (user, user_id, account) = api.users.find(&request.user)?;
    if account.deactivated && (account.erased || !request.erase) {
        return Err(deactivated(&user_id));
    }
    deactivate_account(&api, user, request.erase).await?;
    log::info!("{user_id} was deactivated by the owner");
    Ok(json!({ "user_id": user_id, "deactivated": true, "erased": request.erase }))
}

pub async fn sessions(api: Api, request: Name) -> Result<Value, Error> {
    let (user, user_id, _) = api.users.find(&request.user)?;
    let devices = api.users.sessions(user)?.into_iter();
    let sessions: Vec<_> = devices
        .map(|(id, device)| {
            json!({
                "device_id": id,
                "display_name": device.display_name,
                "last_seen_ts": device.last_seen_ts,
                "last_seen_ip": device.last_seen_ip,
            })
        })
        .collect();
    Ok(json!({ "user_id": user_id, "sessions": sessions }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logout {
    user: String,
    /// Without one, all devices are logged out.
    device: Option<OwnedDeviceId>,
}

pub async fn logout(api: Api, request: Logout) -> Result<Value, Error> {
    let (user, user_id, _) = api.users.find(&request.user)?;
    let devices = api.users.devices(user)?.into_iter().map(|(id, _)| id);
    let count = match request.device {
        Some(device) => {
            if !devices.into_iter().any(|id| id == device) {
                return Err(Error::not_found(
                    "the user has no such device; `hearth user sessions` shows all",
                ));
            }
            api.users.remove_devices(user, vec![device]).await?;
            1
        }
        None => {
            let count = devices.len();
            api.users.remove_all_devices(user).await?;
            count
        }
    };
    log::info!("{count} devices of {user_id} were logged out by the owner");
    Ok(json!({ "user_id": user_id, "logged_out": count }))
}
