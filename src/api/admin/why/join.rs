//! Why a user could, or could not, join a room.

use std::time::Duration;

use ruma::{
    CanonicalJsonObject, OwnedRoomOrAliasId, OwnedServerName, RoomId, UserId,
    events::StateEventType,
};
use serde::Deserialize;
use serde_json::Value;

use super::Story;
use crate::{
    api::{Api, Error},
    rooms::{
        self, blocked_rooms,
        directory::{aliases, summary},
        membership::out_of_band,
        room,
        state::{content, current},
    },
    store::{Reader, RoomNum, Rows, Snapshot, UserNum, records::Membership},
    users,
};

/// How many rooms that let others in are named.
const MAX_ALLOWED: usize = 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    user: String,
    /// Its id or alias.
    room: String,
}

pub async fn join(api: Api, Join { user, room }: Join) -> Result<Value, Error> {
    let (num, user_id, account) = api.users.find(&user)?;
    let named = OwnedRoomOrAliasId::try_from(room.as_str())
        .map_err(|_| Error::invalid_param("a room is given by its id (`!…`) or an alias (`#…`)"))?;
    let of_job = api.clone();
    let scan = move |s: &Snapshot| {
        let mut story = Story::default();
        if account.deactivated {
            story.add(format!("No: the account of {user_id} is deactivated."));
        }
        let moderation = users::accounts::moderation(s, num)?;
        if moderation.locked {
            story.add(format!("No: the account of {user_id} is locked."));
        }
        if moderation.suspended {
            story.add(format!(
                "No: the account of {user_id} is suspended, so it can join no room."
            ));
        }
        add_room(&of_job, s, &mut story, (num, &user_id), &named)?;
        Ok::<_, Error>(story.finish())
    };
    api.store.scan("the story of a join", scan).await
}

fn add_room(
    api: &Api,
    s: &Snapshot,
    story: &mut Story,
    user: (UserNum, &UserId),
    named: &OwnedRoomOrAliasId,
) -> Result<(), Error> {
    let found = match aliases::find(s, named) {
        Ok(room) => Some(room),
        Err(rooms::Error::UnknownRoom | rooms::Error::NotFound(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let id = match found {
        Some(room) => Some(room::id(s, room)?),
        None => RoomId::parse(named.as_str()).ok(),
    };
    if let Some(id) = &id
        && blocked_rooms::is_blocked(s, id)?
    {
        story.add(format!(
            "No: the owner of this server has blocked {id}; `hearth room unblock` ends that."
        ));
    }
    let invite = match found {
        Some(room) => out_of_band::load(s, user.0, room)?,
        None => None,
    };
    let names = [Some(named.as_str()), id.as_deref().map(RoomId::as_str)];
    let refused = names.into_iter().flatten();
    let refused = refused.filter_map(|name| api.refused_joins.last(user.0, name));
    if let Some(refused) = refused.max_by_key(|refused| refused.ts) {
        let ago = Duration::from_millis(api.clock.now_ms().saturating_sub(refused.ts));
        story.add(format!(
            "The last try failed {} ago: {}.",
            humantime::format_duration(Duration::from_secs(ago.as_secs())),
            refused.reason.trim_end_matches('.')
        ));
    }
    match found {
        Some(room) if s.room_heads()?.has(room)? && current::has_joined(s, room)? => {
            add_known(s, story, user, room)
        }
        _ => {
            story.add(
                "This server is not in the room, so a join goes through another server that is.",
            );
            let mut servers: Vec<OwnedServerName> = Vec::new();
            if let Some(invite) = invite {
                story.add(format!(
                    "{} is invited, or knocks, through {}.",
                    user.1, invite.server
                ));
                servers.extend(OwnedServerName::try_from(invite.server));
            }
            servers.extend(named.server_name().map(ToOwned::to_owned));
            servers.dedup();
            if servers.is_empty() {
                story.add("The id of the room names no server: the app has to give one, as with an alias or link.");
            }
            servers
                .iter()
                .try_for_each(|server| add_server(api, story, server))
        }
    }
}

/// What is known of a server through which the join would go.
fn add_server(api: &Api, story: &mut Story, server: &OwnedServerName) -> Result<(), Error> {
    if *server == *api.local.server_name() {
        story.add(
            "No: the room was on this server, and nobody is in it any more, or it never existed.",
        );
        return Ok(());
    }
    if !api.federation.allows(server) {
        story.add(format!(
            "No: the setting `federation` does not allow {server}."
        ));
        return Ok(());
    }
    let Some(destination) = api.federation.destination(server)? else {
        story.add(format!("This server never had to do with {server}."));
        return Ok(());
    };
    match (&destination.backoff, &destination.contact.failure) {
        (Some(_), Some((_, error))) => story.add(format!("{server} does not answer: {error}.")),
        (Some(_), None) => story.add(format!("{server} did not answer lately.")),
        (None, _) => story.add(format!("{server} is not known to fail.")),
    }
    Ok(())
}

/// What the room says.
fn add_known(
    s: &Snapshot,
    story: &mut Story,
    (num, user_id): (UserNum, &UserId),
    room: RoomNum,
) -> Result<(), Error> {
    let row = current::local_membership(s, num, room)?;
    let kind = StateEventType::RoomMember;
    let content = content::current::<CanonicalJsonObject>(s, room, &kind, user_id.as_str())?;
    let reason = content.and_then(|content| Some(content.get("reason")?.as_str()?.to_owned()));
    let reason = reason.map_or_else(String::new, |reason| {
        format!(" (the reason given: {reason})")
    });
    match row.map(|row| row.membership) {
        Some(Membership::Join) => {
            story.add(format!("{user_id} is in the room."));
            return Ok(());
        }
        Some(Membership::Ban) => story.add(format!("No: {user_id} is banned{reason}.")),
        Some(Membership::Invite) => story.add(format!("Yes: {user_id} is invited.")),
        Some(Membership::Knock) => {
            story.add(format!("{user_id} knocks, and nobody has answered yet."));
        }
        Some(Membership::Leave) => {
            story.add(format!(
                "{user_id} was in the room or invited, and is not any more{reason}."
            ));
        }
        None => story.add(format!("{user_id} never was in the room.")),
    }
    let summary = summary::of(s, room)?;
    story.add(match summary.join_rule.as_str() {
        "public" => "The room lets everybody join who is not banned.".to_owned(),
        "invite" => "The room lets only those join who are invited.".to_owned(),
        "knock" => "The room lets those join who are invited; others can knock.".to_owned(),
        "restricted" | "knock_restricted" => {
            "The room lets those join who are invited, or in one of these rooms:".to_owned()
        }
        other => format!("The room lets only some join, by the join rule {other:?}."),
    });
    add_allowed_rooms(s, story, num, room)
}

/// The rooms whose members may join a restricted room.
fn add_allowed_rooms(
    s: &Snapshot,
    story: &mut Story,
    user: UserNum,
    room: RoomNum,
) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct JoinRules {
        #[serde(default)]
        allow: Vec<Allow>,
    }
    #[derive(Deserialize)]
    struct Allow {
        room_id: Option<String>,
    }
    let rules = content::current::<JoinRules>(s, room, &StateEventType::RoomJoinRules, "")?;
    let allowed = rules.into_iter().flat_map(|rules| rules.allow);
    for id in allowed.filter_map(|allow| allow.room_id).take(MAX_ALLOWED) {
        let Ok(parsed) = RoomId::parse(&id) else {
            continue;
        };
        story.add(match room::num(s, &parsed) {
            Err(rooms::Error::UnknownRoom) => {
                format!("{id}: this server is not in it, so only a server that is can tell.")
            }
            Err(error) => return Err(error.into()),
            Ok(num) => {
                let row = current::local_membership(s, user, num)?;
                match row.is_some_and(|row| row.membership == Membership::Join) {
                    true => format!("{id}: the user is in it."),
                    false => format!("{id}: the user is not in it."),
                }
            }
        });
    }
    Ok(())
}
