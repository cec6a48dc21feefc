//! Spaces: their children, and who may see which room of a hierarchy.
//!
//! Source: [client-server API, "Spaces"](https://spec.matrix.org/v1.19/client-server-api/#spaces).

use ruma::{
    OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    events::space::child::HierarchySpaceChildEvent,
    room::{JoinRuleSummary, RoomSummary, RoomType},
    serde::Raw,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::summary;
use crate::{
    rooms::{Error, event, room, servers, servers::server_acl::ServerAcls, state::current},
    store::{Reader, RoomNum, Snapshot, UserNum, records::Membership},
};

/// The most children of one space, and the size of their events together and of one.
const MAX_CHILDREN: usize = 500;
const MAX_CHILDREN_BYTES: usize = 256 * 1024;
const MAX_CHILD_BYTES: usize = 4 * 1024;

#[derive(Clone, Debug)]
pub struct Child {
    pub room_id: OwnedRoomId,
    /// Servers that are likely to be in it.
    pub via: Vec<OwnedServerName>,
    /// The `m.space.child` event.
    pub event: Raw<HierarchySpaceChildEvent>,
}

/// The children of a space, sorted, or only the suggested ones. Events without `via` are skipped: those
/// children were removed.
///
/// Source: "Ordering of children within a space".
pub fn in_order(events: Vec<Raw<HierarchySpaceChildEvent>>, suggested_only: bool) -> Vec<Child> {
    let parsed = events.into_iter().filter_map(|raw| {
        let event = raw.deserialize().ok()?;
        Some((event, raw))
    });
    let is_wanted = |(event, _): &(HierarchySpaceChildEvent, _)| {
        !event.content.via.is_empty() && (event.content.suggested || !suggested_only)
    };
    let mut wanted: Vec<_> = parsed.filter(is_wanted).collect();
    wanted.sort_by(|(a, _), (b, _)| a.cmp(b));
    let children = wanted.into_iter().map(|(event, raw)| Child {
        room_id: event.state_key,
        via: event.content.via,
        event: raw,
    });
    let mut bytes = 0;
    let fitting = children.take(MAX_CHILDREN).take_while(|child| {
        bytes += child.event.json().get().len();
        bytes <= MAX_CHILDREN_BYTES
    });
    fitting.collect()
}

/// The children of `room`, sorted, or only the suggested ones; none if it is not a space. Very large events
/// are skipped. Reads every child: to be called on the pool.
pub fn children(r: &impl Reader, room: RoomNum, suggested_only: bool) -> Result<Vec<Child>, Error> {
    /// Stripped state with `origin_server_ts`.
    #[derive(Deserialize, Serialize)]
    struct Stripped {
        #[serde(rename = "type")]
        kind: String,
        state_key: String,
        content: Box<RawValue>,
        sender: String,
        origin_server_ts: u64,
    }
    if summary::room_type(r, room)? != Some(RoomType::Space) {
        return Ok(Vec::new());
    }
    let mut events = Vec::new();
    for (_, num) in current::of_type(r, room, "m.space.child")? {
        let stripped = event::load(r, num)?.parse::<Stripped>();
        let raw = stripped.ok().and_then(|stripped| Raw::new(&stripped).ok());
        let raw = raw.filter(|raw| raw.json().get().len() <= MAX_CHILD_BYTES);
        events.extend(raw.map(Raw::cast_unchecked));
    }
    Ok(in_order(events, suggested_only))
}

/// The number of the room `id`, if this server is in it and so knows its current state.
pub fn joined_room(r: &impl Reader, id: &RoomId) -> Result<Option<RoomNum>, Error> {
    match room::num(r, id) {
        Err(Error::UnknownRoom) => Ok(None),
        room => {
            let room = room?;
            Ok(current::has_joined(r, room)?.then_some(room))
        }
    }
}

/// Whether the local user `user`, or an unauthenticated client, may see the summary of a room.
///
/// Source: client-server API, `GET /rooms/{roomId}/hierarchy`.
pub fn is_accessible(
    r: &impl Reader,
    room: &RoomSummary,
    user: Option<UserNum>,
) -> Result<bool, Error> {
    let membership = match user {
        Some(user) => membership(r, &room.room_id, user)?,
        None => Membership::Leave,
    };
    if room.world_readable || matches!(membership, Membership::Join | Membership::Invite) {
        return Ok(true);
    }
    if membership == Membership::Ban {
        return Ok(false);
    }
    may_join_or_knock(room, |allowed| match user {
        Some(user) => Ok(self::membership(r, allowed, user)? == Membership::Join),
        None => Ok(false),
    })
}

/// Whether users of `server` may see the summary of a room that this server is in. Reads all members
/// of a private room: to be called on the pool.
///
/// Source: server-server API, `GET /hierarchy/{roomId}`.
pub fn is_accessible_to_server(
    s: &Snapshot,
    server_acls: &ServerAcls,
    room: RoomNum,
    summary: &RoomSummary,
    server: &ServerName,
) -> Result<bool, Error> {
    if !server_acls.allow(s, room, server)? || !summary::is_federated(s, room)? {
        return Ok(false);
    }
    if summary.world_readable || servers::is_in(s, room, server)? {
        return Ok(true);
    }
    let may_join = may_join_or_knock(summary, |allowed| match room::num(s, allowed) {
        Err(Error::UnknownRoom) => Ok(false),
        room => servers::is_in(s, room?, server),
    });
    Ok(may_join? || has_invited(s, room, server)?)
}

/// Whether the join rule lets a user join or knock without an invite. `is_in` says whether the user is
/// in an allowed room of a restricted join rule.
fn may_join_or_knock(
    room: &RoomSummary,
    is_in: impl Fn(&RoomId) -> Result<bool, Error>,
) -> Result<bool, Error> {
    let rules = room.room_version.as_ref();
    let rules = rules
        .and_then(|version| version.rules())
        .map(|rules| rules.authorization);
    let allowed = match &room.join_rule {
        JoinRuleSummary::Public => return Ok(true),
        JoinRuleSummary::Knock => return Ok(rules.is_none_or(|rules| rules.knocking)),
        JoinRuleSummary::KnockRestricted(_) => {
            return Ok(rules.is_none_or(|rules| rules.knock_restricted_join_rule));
        }
        JoinRuleSummary::Restricted(restricted)
            if rules.is_none_or(|rules| rules.restricted_join_rule) =>
        {
            &restricted.allowed_room_ids
        }
        _ => return Ok(false),
    };
    for room in allowed {
        if is_in(room)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The membership of a local user in a room that this server need not know.
pub fn membership(r: &impl Reader, room: &RoomId, user: UserNum) -> Result<Membership, Error> {
    let room = match room::num(r, room) {
        Err(Error::UnknownRoom) => return Ok(Membership::Leave),
        room => room?,
    };
    let row = current::local_membership(r, user, room)?;
    Ok(row.map_or(Membership::Leave, |row| row.membership))
}

fn has_invited(r: &impl Reader, room: RoomNum, server: &ServerName) -> Result<bool, Error> {
    if room::heads(r, room)?.invited == 0 {
        return Ok(false);
    }
    for (user, event) in current::of_type(r, room, "m.room.member")? {
        let is_of_server =
            <&UserId>::try_from(user.as_str()).is_ok_and(|user| user.server_name() == server);
        if is_of_server && current::membership_of(r, event)? == Membership::Invite {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use ruma::{events::space::child::HierarchySpaceChildEvent, serde::Raw};
    use serde_json::{Value, json};

    use super::{MAX_CHILDREN, MAX_CHILDREN_BYTES, in_order};

    fn child(number: usize, content: Value) -> Raw<HierarchySpaceChildEvent> {
        let event = json!({
            "type": "m.space.child", "state_key": format!("!{number}:a.example"),
            "sender": "@a:a.example", "content": content, "origin_server_ts": 1,
        });
        Raw::new(&event).expect("JSON").cast_unchecked()
    }

    #[test]
    fn the_children_of_a_space_have_servers_and_are_limited_in_number_and_size() {
        let via = json!({ "via": ["a.example"] });
        let removed = child(0, json!({ "via": [] }));
        let children = in_order(vec![removed, child(1, via.clone())], false);
        assert_eq!(children.len(), 1);
        assert_eq!(children[0].room_id, "!1:a.example");
        let many = (0..MAX_CHILDREN + 100).map(|number| child(number, via.clone()));
        assert_eq!(in_order(many.collect(), false).len(), MAX_CHILDREN);
        let large = json!({ "via": ["a.example"], "more": "x".repeat(3000) });
        let large = (0..200).map(|number| child(number, large.clone()));
        let large = in_order(large.collect(), false);
        let bytes: usize = large
            .iter()
            .map(|child| child.event.json().get().len())
            .sum();
        assert!(bytes <= MAX_CHILDREN_BYTES && large.len() > 50, "{bytes}");
    }
}
