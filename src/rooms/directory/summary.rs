//! Room summaries: what users who are not in a room may see of it.

use ruma::{
    EventEncryptionAlgorithm, OwnedMxcUri, OwnedRoomAliasId, UInt,
    events::{
        StateEventType,
        room::{guest_access::GuestAccess, history_visibility::HistoryVisibility},
    },
    room::{JoinRule, JoinRuleSummary, RoomSummary, RoomType},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    rooms::{
        Error, room,
        state::{content, current::has_joined},
    },
    store::{Reader, RoomNum},
};

/// A page of summaries ends after so many bytes: names and topics may be as long as events, and anybody can
/// request many pages at once.
pub const MAX_PAGE_BYTES: usize = 256 * 1024;

/// A restricted room with more conditions counts as open.
const MAX_ALLOWED_ROOMS: usize = 10;

/// How many bytes a summary, or what has one, takes in a response.
pub fn size(summary: &impl Serialize) -> usize {
    serde_json::to_vec(summary).map_or(0, |json| json.len())
}

/// Source: client-server API, `GET /room_summary/{roomIdOrAlias}`.
pub fn of(r: &impl Reader, room: RoomNum) -> Result<RoomSummary, Error> {
    #[derive(Deserialize)]
    struct Name {
        name: Option<String>,
    }
    #[derive(Deserialize)]
    struct Topic {
        topic: Option<String>,
    }
    #[derive(Deserialize)]
    struct Avatar {
        url: Option<OwnedMxcUri>,
    }
    #[derive(Deserialize)]
    struct CanonicalAlias {
        alias: Option<OwnedRoomAliasId>,
    }
    #[derive(Deserialize)]
    struct Guests {
        guest_access: GuestAccess,
    }
    #[derive(Deserialize)]
    struct History {
        history_visibility: HistoryVisibility,
    }
    #[derive(Deserialize)]
    struct Encryption {
        algorithm: EventEncryptionAlgorithm,
    }
    let history: Option<History> = current(r, room, StateEventType::RoomHistoryVisibility)?;
    let guests: Option<Guests> = current(r, room, StateEventType::RoomGuestAccess)?;
    let mut summary = RoomSummary::new(
        room::id(r, room)?,
        join_rule(r, room)?,
        guests.is_some_and(|content| content.guest_access == GuestAccess::CanJoin),
        UInt::from(room::heads(r, room)?.joined),
        history
            .is_some_and(|content| content.history_visibility == HistoryVisibility::WorldReadable),
    );
    let some = |text: &String| !text.is_empty();
    let name: Option<Name> = current(r, room, StateEventType::RoomName)?;
    summary.name = name.and_then(|content| content.name).filter(some);
    let topic: Option<Topic> = current(r, room, StateEventType::RoomTopic)?;
    summary.topic = topic.and_then(|content| content.topic).filter(some);
    let avatar: Option<Avatar> = current(r, room, StateEventType::RoomAvatar)?;
    summary.avatar_url = avatar.and_then(|content| content.url);
    let alias: Option<CanonicalAlias> = current(r, room, StateEventType::RoomCanonicalAlias)?;
    summary.canonical_alias = alias.and_then(|content| content.alias);
    let encryption: Option<Encryption> = current(r, room, StateEventType::RoomEncryption)?;
    summary.encryption = encryption.map(|content| content.algorithm);
    summary.room_type = room_type(r, room)?;
    summary.room_version = Some(room::version(r, room)?);
    Ok(summary)
}

pub fn room_type(r: &impl Reader, room: RoomNum) -> Result<Option<RoomType>, Error> {
    #[derive(Deserialize)]
    struct Create {
        #[serde(rename = "type")]
        room_type: Option<RoomType>,
    }
    let create: Option<Create> = current(r, room, StateEventType::RoomCreate)?;
    Ok(create.and_then(|content| content.room_type))
}

/// The room's join rule. A missing or unknown one counts as `invite`, as the authorization rules have
/// it.
pub fn join_rule(r: &impl Reader, room: RoomNum) -> Result<JoinRuleSummary, Error> {
    let rule: Option<JoinRule> = current(r, room, StateEventType::RoomJoinRules)?;
    Ok(supported_join_rule(
        rule.map_or(JoinRuleSummary::Invite, Into::into),
    ))
}

/// Whether anybody may join the room, or a room whose members may join it. A room that is not here may be one.
pub fn is_open(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    let restricted = match join_rule(r, room)? {
        JoinRuleSummary::Public => return Ok(true),
        JoinRuleSummary::Restricted(rule) | JoinRuleSummary::KnockRestricted(rule) => rule,
        _ => return Ok(false),
    };
    if restricted.allowed_room_ids.len() > MAX_ALLOWED_ROOMS {
        return Ok(true);
    }
    for id in &restricted.allowed_room_ids {
        let is_closed = match room::num(r, id) {
            Ok(room) => {
                has_joined(r, room)? && !matches!(join_rule(r, room)?, JoinRuleSummary::Public)
            }
            Err(Error::UnknownRoom) => false,
            Err(error) => return Err(error),
        };
        if !is_closed {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The join rule, or `invite` if it is one that ruma does not know.
pub fn supported_join_rule(rule: JoinRuleSummary) -> JoinRuleSummary {
    match rule {
        JoinRuleSummary::Invite
        | JoinRuleSummary::Knock
        | JoinRuleSummary::Private
        | JoinRuleSummary::Restricted(_)
        | JoinRuleSummary::KnockRestricted(_)
        | JoinRuleSummary::Public => rule,
        _ => JoinRuleSummary::Invite,
    }
}

/// Source: client-server API, `m.room.create`, `m.federate`.
pub fn is_federated(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Create {
        #[serde(rename = "m.federate")]
        federate: Option<bool>,
    }
    let create: Option<Create> = current(r, room, StateEventType::RoomCreate)?;
    Ok(create.is_none_or(|content| content.federate != Some(false)))
}

fn current<T: DeserializeOwned>(
    r: &impl Reader,
    room: RoomNum,
    kind: StateEventType,
) -> Result<Option<T>, Error> {
    content::current(r, room, &kind, "")
}
