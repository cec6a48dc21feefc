//! Invitations to make accounts: registration tokens.

use std::time::Duration;

use ruma::{OwnedRoomId, room::JoinRuleSummary};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Nothing, room::find};
use crate::{
    api::{Api, Error},
    clock::as_ms,
    rooms::{directory::summary, room},
    store::{Reader, Records, Snapshot, records::RegistrationToken},
    users::accounts::{self, NewRegistrationToken, TokenState},
};

const MAX_ROOMS: usize = 50;
const MIN_LIFETIME: Duration = Duration::from_mins(1);
const MAX_LIFETIME: Duration = Duration::from_hours(24 * 36_525);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewInvite {
    /// Whom or what it is for.
    name: Option<String>,
    /// How many accounts can be made; `None`: any number.
    uses: Option<u32>,
    /// How long, in milliseconds; `None`: until it is revoked.
    lifetime_ms: Option<u64>,
    /// Ids or aliases of rooms that the new users join.
    #[serde(default)]
    rooms: Vec<String>,
    /// The user in whose name they are invited to rooms that they cannot join otherwise.
    by: Option<String>,
}

pub async fn new(api: Api, request: NewInvite) -> Result<Value, Error> {
    if request.uses == Some(0) {
        return Err(Error::invalid_param("an invitation has at least one use"));
    }
    if request.rooms.len() > MAX_ROOMS {
        return Err(Error::invalid_param("an invitation has at most 50 rooms"));
    }
    let lifetime = request.lifetime_ms.map(Duration::from_millis);
    if lifetime.is_some_and(|lifetime| !(MIN_LIFETIME..=MAX_LIFETIME).contains(&lifetime)) {
        return Err(Error::invalid_param(
            "an invitation lasts a minute at least, and 100 years at most; `--for ever` has no end",
        ));
    }
    let inviter = request.by.map(|by| api.users.find(&by)).transpose()?;
    let inviter = inviter.map(|(user, ..)| user);
    let rooms = request.rooms.iter();
    let rooms = rooms.map(|room| api.store.read(|s| check_room(s, room, inviter.is_some())));
    let rooms = rooms.collect::<Result<Vec<_>, _>>()?;
    let now = Duration::from_millis(api.clock.now_ms());
    let new = NewRegistrationToken {
        name: request.name,
        expires_ts: lifetime.map(|lifetime| as_ms(now.saturating_add(lifetime))),
        max_uses: request.uses,
        rooms,
        inviter,
    };
    let token = api.users.create_registration_token(new).await?;
    log::info!("the owner made an invitation");
    let row = api
        .store
        .read(|s| s.registration_tokens()?.load(&*token))?
        .ok_or(Error::Internal("an invitation is gone"))?;
    let mut invite = to_json(&api, &token, &row);
    invite["homeserver"] = api.config.client_url().into();
    Ok(invite)
}

/// The id of a room into which new users can be let.
fn check_room(r: &Snapshot, room: &str, has_inviter: bool) -> Result<OwnedRoomId, Error> {
    let num = find(r, room)?;
    if !has_inviter && summary::join_rule(r, num)? != JoinRuleSummary::Public {
        return Err(Error::invalid_param(format!(
            "nobody can join {room} without an invitation: add `--by` and a user who may invite to it"
        )));
    }
    Ok(room::id(r, num)?)
}

pub async fn list(api: Api, _: Nothing) -> Result<Value, Error> {
    let invites = api.store.read(accounts::registration_tokens)?;
    let invites = invites.iter().map(|(token, row)| to_json(&api, token, row));
    Ok(json!({ "invites": invites.collect::<Vec<_>>() }))
}

fn to_json(api: &Api, token: &str, row: &RegistrationToken) -> Value {
    let state = match row.state(api.clock.now_ms()) {
        TokenState::Usable => "usable",
        TokenState::UsedUp => "used up",
        TokenState::Expired => "expired",
    };
    json!({
        "token": token,
        "name": row.name,
        "created_ts": row.created_ts,
        "expires_ts": row.expires_ts,
        "uses": row.uses,
        "max_uses": row.max_uses,
        "rooms": row.rooms,
        "state": state,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    token: String,
}

pub async fn revoke(api: Api, request: Revocation) -> Result<Value, Error> {
    api.users.revoke_registration_token(&request.token).await?;
    log::info!("the owner revoked an invitation");
    Ok(json!({ "revoked": true }))
}
