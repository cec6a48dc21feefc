//! What a client's wish for a room comes to: from a `createRoom` request to a [`Blueprint`].
//! Nothing here reads or writes.
//!
//! Source: [createRoom](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3createroom).

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, Int, OwnedRoomId, OwnedUserId, RoomVersionId, UserId,
    api::client::room::{
        Visibility,
        create_room::v3::{Request, RoomPreset},
    },
    events::{
        StateEventType,
        room::{
            guest_access::{GuestAccess, RoomGuestAccessEventContent},
            history_visibility::{HistoryVisibility, RoomHistoryVisibilityEventContent},
            join_rules::RoomJoinRulesEventContent,
            name::RoomNameEventContent,
            topic::RoomTopicEventContent,
        },
    },
    room::JoinRule,
    room_version_rules::AuthorizationRules,
    serde::Raw,
};
use serde::Deserialize;

use super::Blueprint;
use crate::{
    protocol::{build::canonical_content, versions},
    rooms::{Error, Local, directory::aliases, room, state::content::StateEvent},
};

/// The most invites and initial state events that one request brings: they are all made at once.
const MOST: usize = 100;

/// The level of a room's administrators, and of its creator where that is a level.
pub(in crate::rooms) const ADMINISTRATOR: i32 = 100;
/// The level that a room's tombstone takes where its creators stand above all levels.
const ABOVE_ADMINISTRATOR: i32 = 150;
/// The level of moderators.
const MODERATOR: i32 = 50;
/// The level of everyone else.
const MEMBER: i32 = 0;

/// The room that `creator` gets for `request`, with `id` in versions that let the server choose it.
///
/// # Errors
/// [`Error::UnsupportedVersion`] for a version that is not spoken here, [`Error::BadContent`] for
/// contents that no event can hold, [`Error::ThirdPartyInvite`] for invites by e-mail or phone
/// number, [`Error::Invalid`] for whatever else makes no sense.
pub fn blueprint(
    local: &Local,
    creator: &UserId,
    request: &Request,
    id: OwnedRoomId,
) -> Result<Blueprint, Error> {
    let version = request.room_version.clone().unwrap_or(versions::DEFAULT);
    let rules = room::rules_of(&version)?;
    if !request.invite_3pid.is_empty() {
        return Err(Error::ThirdPartyInvite);
    }
    if request.invite.len() > MOST || request.initial_state.len() > MOST {
        return Err(Error::invalid(format!(
            "at most {MOST} invites and initial state events"
        )));
    }
    let listed = match &request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(Error::invalid("a visibility is public or private")),
    };
    let wish = Wish {
        creator,
        preset: preset(request)?,
        invite: invitees(creator, &request.invite),
        rules: &rules.authorization,
    };
    let alias = request.room_alias_name.as_deref();
    let alias = alias
        .map(|name| aliases::from_localpart(local, name))
        .transpose()?;
    let mut state = vec![StateEvent::new(
        StateEventType::RoomPowerLevels,
        wish.power_levels(optional(request.power_level_content_override.as_ref())?),
    )];
    if let Some(alias) = &alias {
        let content = [(
            "alias".to_owned(),
            CanonicalJsonValue::String(alias.to_string()),
        )];
        state.push(StateEvent::new(
            StateEventType::RoomCanonicalAlias,
            content.into(),
        ));
    }
    state.extend(wish.settings(request)?);
    Ok(Blueprint {
        id,
        create: wish.create(optional(request.creation_content.as_ref())?, &version),
        version,
        alias,
        state,
        invite: wish.invite,
        is_direct: request.is_direct,
        listed,
    })
}

/// The preset, which follows from the visibility if none is named.
fn preset(request: &Request) -> Result<Preset, Error> {
    match (&request.preset, &request.visibility) {
        (Some(RoomPreset::PrivateChat), _) => Ok(Preset::Private),
        (Some(RoomPreset::TrustedPrivateChat), _) => Ok(Preset::TrustedPrivate),
        (Some(RoomPreset::PublicChat), _) | (None, Visibility::Public) => Ok(Preset::Public),
        (None, _) => Ok(Preset::Private),
        (Some(_), _) => Err(Error::invalid("there is no such preset")),
    }
}

/// Everyone who is invited, once each; the creator needs no invite.
fn invitees(creator: &UserId, invite: &[OwnedUserId]) -> Vec<OwnedUserId> {
    let mut invitees: Vec<OwnedUserId> = Vec::new();
    for user in invite {
        if user != creator && !invitees.contains(user) {
            invitees.push(user.clone());
        }
    }
    invitees
}

fn optional<T>(raw: Option<&Raw<T>>) -> Result<CanonicalJsonObject, Error> {
    raw.map_or_else(|| Ok(CanonicalJsonObject::new()), object)
}

fn object<T>(raw: &Raw<T>) -> Result<CanonicalJsonObject, Error> {
    serde_json::from_str(raw.json().get())
        .map_err(|error| Error::BadContent(error.to_string().into()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preset {
    Private,
    TrustedPrivate,
    Public,
}

impl Preset {
    /// Join rule, history visibility and guest access.
    fn state(self) -> Result<Vec<StateEvent>, Error> {
        let (join_rule, guest_access) = match self {
            Self::Private | Self::TrustedPrivate => (JoinRule::Invite, GuestAccess::CanJoin),
            Self::Public => (JoinRule::Public, GuestAccess::Forbidden),
        };
        let visibility = RoomHistoryVisibilityEventContent::new(HistoryVisibility::Shared);
        Ok(vec![
            StateEvent::new(
                StateEventType::RoomJoinRules,
                canonical_content(&RoomJoinRulesEventContent::new(join_rule))?,
            ),
            StateEvent::new(
                StateEventType::RoomHistoryVisibility,
                canonical_content(&visibility)?,
            ),
            StateEvent::new(
                StateEventType::RoomGuestAccess,
                canonical_content(&RoomGuestAccessEventContent::new(guest_access))?,
            ),
        ])
    }
}

/// A state event as a request lists it.
#[derive(Deserialize)]
struct InitialState {
    #[serde(rename = "type")]
    kind: StateEventType,
    #[serde(default)]
    state_key: String,
    content: CanonicalJsonObject,
}

/// What a room is made from beside the contents that the client gave.
struct Wish<'a> {
    creator: &'a UserId,
    preset: Preset,
    invite: Vec<OwnedUserId>,
    rules: &'a AuthorizationRules,
}

impl Wish<'_> {
    /// The content of the create event, from what the client wants in it.
    fn create(
        &self,
        mut content: CanonicalJsonObject,
        version: &RoomVersionId,
    ) -> CanonicalJsonObject {
        content.insert("room_version".to_owned(), version.as_str().into());
        // Where the sender is the creator there is no such field.
        content.remove("creator");
        if !self.rules.use_room_create_sender {
            content.insert("creator".to_owned(), self.creator.as_str().into());
        }
        let trusted = self.preset == Preset::TrustedPrivate && !self.invite.is_empty();
        if trusted && self.rules.additional_room_creators {
            let creators = content
                .entry("additional_creators".to_owned())
                .or_insert_with(|| CanonicalJsonValue::Array(Vec::new()));
            // What is no list stays as it is, for the authorization rules to refuse.
            if let CanonicalJsonValue::Array(creators) = creators {
                for user in &self.invite {
                    let user = user.as_str().into();
                    if !creators.contains(&user) {
                        creators.push(user);
                    }
                }
            }
        }
        content
    }

    /// The content of the power levels event, with the client's fields laid over it.
    fn power_levels(&self, over: CanonicalJsonObject) -> CanonicalJsonObject {
        let privileged = self.rules.explicitly_privilege_room_creators;
        let mut users = CanonicalJsonObject::new();
        if !privileged {
            users.insert(self.creator.to_string(), level(ADMINISTRATOR));
            if self.preset == Preset::TrustedPrivate {
                let invitees = self.invite.iter();
                users.extend(invitees.map(|user| (user.to_string(), level(ADMINISTRATOR))));
            }
        }
        let tombstone = if privileged {
            ABOVE_ADMINISTRATOR
        } else {
            ADMINISTRATOR
        };
        let invite = if self.preset == Preset::Public {
            MODERATOR
        } else {
            MEMBER
        };
        let mut content = levels([
            ("ban", MODERATOR),
            ("events_default", MEMBER),
            ("invite", invite),
            ("kick", MODERATOR),
            ("redact", MODERATOR),
            ("state_default", MODERATOR),
            ("users_default", MEMBER),
        ]);
        let events = levels([
            ("m.room.encryption", ADMINISTRATOR),
            ("m.room.history_visibility", ADMINISTRATOR),
            ("m.room.power_levels", ADMINISTRATOR),
            ("m.room.server_acl", ADMINISTRATOR),
            ("m.room.tombstone", tombstone),
        ]);
        content.insert("events".to_owned(), CanonicalJsonValue::Object(events));
        content.insert("users".to_owned(), CanonicalJsonValue::Object(users));
        content.extend(over);
        if privileged {
            raise_tombstone(&mut content);
        }
        content
    }

    /// The state events that follow power levels and alias.
    fn settings(&self, request: &Request) -> Result<Vec<StateEvent>, Error> {
        let mut initial = Vec::with_capacity(request.initial_state.len());
        for raw in &request.initial_state {
            let event: InitialState = serde_json::from_str(raw.json().get())
                .map_err(|error| Error::BadContent(error.to_string().into()))?;
            let InitialState {
                kind,
                state_key,
                content,
            } = event;
            initial.push(StateEvent {
                kind,
                state_key,
                content,
            });
        }
        let mut last = Vec::new();
        if let Some(name) = &request.name {
            let content = canonical_content(&RoomNameEventContent::new(name.clone()))?;
            last.push(StateEvent::new(StateEventType::RoomName, content));
        }
        if let Some(topic) = &request.topic {
            let content = canonical_content(&RoomTopicEventContent::new(topic.clone()))?;
            last.push(StateEvent::new(StateEventType::RoomTopic, content));
        }
        let mut state = self.preset.state()?;
        // What would be replaced at once is not sent.
        state.retain(|event| !initial.iter().any(|other| same_key(event, other)));
        initial.retain(|event| !last.iter().any(|other| same_key(event, other)));
        state.extend(initial);
        state.extend(last);
        Ok(state)
    }
}

fn same_key(left: &StateEvent, right: &StateEvent) -> bool {
    left.kind == right.kind && left.state_key == right.state_key
}

/// Gives the tombstone a level above the one for other state, unless it has one: where creators
/// stand above all levels it must.
pub(in crate::rooms) fn raise_tombstone(content: &mut CanonicalJsonObject) {
    let state_default = content.get("state_default").and_then(level_in);
    let state_default = state_default.unwrap_or(Int::from(MODERATOR));
    let events = content
        .entry("events".to_owned())
        .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    // What is no list of levels stays as it is, for the authorization rules to refuse.
    let CanonicalJsonValue::Object(events) = events else {
        return;
    };
    let level = events.get("m.room.tombstone").and_then(level_in);
    if level.is_none_or(|level| level <= state_default) {
        let above = state_default.saturating_add(Int::from(1));
        let level = Int::from(ABOVE_ADMINISTRATOR).max(above);
        events.insert("m.room.tombstone".to_owned(), level.into());
    }
}

/// The level that `value` stands for: older versions allow levels that are texts.
pub(in crate::rooms) fn level_in(value: &CanonicalJsonValue) -> Option<Int> {
    match value {
        CanonicalJsonValue::Integer(level) => Some(*level),
        CanonicalJsonValue::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn levels<const N: usize>(levels: [(&str, i32); N]) -> CanonicalJsonObject {
    levels
        .into_iter()
        .map(|(name, value)| (name.to_owned(), level(value)))
        .collect()
}

pub(in crate::rooms) fn level(level: i32) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(level.into())
}
