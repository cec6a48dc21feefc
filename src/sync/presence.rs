//! Presence in a response.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    request::{Request, SyncRange},
    rooms::{Candidate, Section},
};
use crate::{
    rooms::{Error, room, servers::shared_rooms, state::current, timeline::filter},
    store::{Reader, UserNum, records::Membership},
    users::{
        self,
        presence::{Presence, UserPresence},
    },
};

/// The presence events of users who share a room with the user: of those whose presence changed, and of
/// local users who share one only now.
pub fn events(
    r: &impl Reader,
    presence: &Presence,
    mut changed: Vec<(UserNum, UserPresence)>,
    request: &Request,
    range: SyncRange,
    candidates: &[Candidate],
) -> Result<Vec<Value>, Error> {
    let wanted = &request.filter.presence;
    for user in newly_sharing(r, range, candidates)? {
        if !changed.iter().any(|(other, _)| *other == user) {
            changed.extend(presence.get(user).map(|presence| (user, presence)));
        }
    }
    if changed.is_empty() || !filter::accepts_type(&wanted.types, &wanted.not_types, "m.presence") {
        return Ok(Vec::new());
    }
    let local_sharing = shared_rooms::local_users_sharing(r, request.user)?;
    let rooms = current::joined_rooms(r, request.user)?;
    let mut events = Vec::new();
    for (user, presence) in changed {
        let sender = users::id_of(r, user)?;
        let is_local = sender.server_name() == request.user_id.server_name();
        let is_visible = user == request.user
            || local_sharing.contains(&user)
            || !is_local && shared_rooms::is_joined_to_any(r, &rooms, &sender)?;
        let is_wanted = !wanted.not_senders.contains(&sender)
            && wanted
                .senders
                .as_ref()
                .is_none_or(|senders| senders.contains(&sender));
        if !is_visible || !is_wanted {
            continue;
        }
        let mut content = json!({
            "presence": presence.state,
            "last_active_ago": range.now_ms.saturating_sub(presence.last_active_ts),
            "currently_active": presence.currently_active(range.now_ms),
        });
        if let Some(status_msg) = presence.status_msg {
            content["status_msg"] = status_msg.into();
        }
        events.push(json!({ "type": "m.presence", "sender": sender, "content": content }));
    }
    Ok(events)
}

/// The local members of rooms that they or the user joined in the range.
fn newly_sharing(
    r: &impl Reader,
    range: SyncRange,
    candidates: &[Candidate],
) -> Result<BTreeSet<UserNum>, Error> {
    let mut users = BTreeSet::new();
    let Some(since) = range.since else {
        return Ok(users);
    };
    for candidate in candidates {
        let room = candidate.room;
        if candidate.section != Section::Join
            || room::heads(r, room)?.state_position <= since.position
        {
            continue;
        }
        for (user, membership) in current::local_members(r, room)? {
            let is_new = candidate.member.position > since.position
                || current::local_membership(r, user, room)?
                    .is_some_and(|member| member.position > since.position);
            if membership == Membership::Join && is_new {
                users.insert(user);
            }
        }
    }
    Ok(users)
}
