//! From a `createRoom` request with its preset to a [`Blueprint`]. Does not use the store.
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
    rooms::{Error, Local, directory::aliases, event::state_event::StateEvent, room},
};

/// The most invites, and the most initial state events, of one request: all are made in one
/// transaction.
const MAX_EVENTS: usize = 100;

/// The power level of administrators, and of the creator in room versions in which creators have one.
pub(in crate::rooms) const ADMINISTRATOR: i32 = 100;
/// The power level for `m.room.tombstone` in room versions whose creators have no level.
const ABOVE_ADMINISTRATOR: i32 = 150;
const MODERATOR: i32 = 50;
const MEMBER: i32 = 0;

/// The room that `creator` requests, with `id` in room versions in which the server chooses it.
///
/// # Errors
/// Those of [`crate::rooms::room::rules_of_new`]; [`Error::BadContent`] for contents that are not canonical JSON;
/// [`Error::ThirdPartyInvite`] for invites by e-mail or phone number; [`Error::Invalid`] for other
/// invalid fields.
pub fn blueprint(
    local: &Local,
    creator: &UserId,
    request: &Request,
    id: OwnedRoomId,
) -> Result<Blueprint, Error> {
    let version = request.room_version.clone().unwrap_or(versions::DEFAULT);
    let rules = room::rules_of_new(&version)?;
    if !request.invite_3pid.is_empty() {
        return Err(Error::ThirdPartyInvite);
    }
    for (field, len) in [
        ("invite", request.invite.len()),
        ("initial_state", request.initial_state.len()),
    ] {
        if len > MAX_EVENTS {
            let reason = format!("{field}: expected at most {MAX_EVENTS} entries, found {len}");
            return Err(Error::invalid(reason));
        }
    }
    let listed = match &request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        other => {
            let reason = format!("visibility: expected public or private, found {other}");
            return Err(Error::invalid(reason));
        }
    };
    let options = Options {
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
        options.power_levels(optional(request.power_level_content_override.as_ref())?),
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
    state.extend(options.settings(request)?);
    let mut invite = options.invite.clone();
    merge_invites(&mut state, &mut invite, request.is_direct);
    Ok(Blueprint {
        id,
        create: options.create(optional(request.creation_content.as_ref())?, &version),
        version,
        alias,
        state,
        invite,
        is_direct: request.is_direct,
        listed,
    })
}

/// The preset; the default depends on the visibility.
fn preset(request: &Request) -> Result<Preset, Error> {
    match (&request.preset, &request.visibility) {
        (Some(RoomPreset::PrivateChat), _) => Ok(Preset::Private),
        (Some(RoomPreset::TrustedPrivateChat), _) => Ok(Preset::TrustedPrivate),
        (Some(RoomPreset::PublicChat), _) | (None, Visibility::Public) => Ok(Preset::Public),
        (None, _) => Ok(Preset::Private),
        (Some(other), _) => Err(Error::invalid(format!("preset: {other} is unknown"))),
    }
}

/// `invite` without the creator and without duplicates.
fn invitees(creator: &UserId, invite: &[OwnedUserId]) -> Vec<OwnedUserId> {
    let mut invitees: Vec<OwnedUserId> = Vec::new();
    for user in invite {
        if user != creator && !invitees.contains(user) {
            invitees.push(user.clone());
        }
    }
    invitees
}

/// Who is in `invite` and invited by `initial_state` gets one invitation.
fn merge_invites(state: &mut [StateEvent], invite: &mut Vec<OwnedUserId>, is_direct: bool) {
    for event in state.iter_mut().filter(|event| event.invites()) {
        let before = invite.len();
        invite.retain(|user| event.state_key != user.as_str());
        if invite.len() < before && is_direct {
            event.content.insert("is_direct".to_owned(), true.into());
        }
    }
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

/// What determines the room's events beside the contents that the client gives.
struct Options<'a> {
    creator: &'a UserId,
    preset: Preset,
    invite: Vec<OwnedUserId>,
    rules: &'a AuthorizationRules,
}

impl Options<'_> {
    /// The content of the create event: `creation_content` with the fields that the server sets.
    fn create(
        &self,
        mut content: CanonicalJsonObject,
        version: &RoomVersionId,
    ) -> CanonicalJsonObject {
        content.insert("room_version".to_owned(), version.as_str().into());
        // In room versions whose creator is the sender, the field does not exist.
        content.remove("creator");
        if !self.rules.use_room_create_sender {
            content.insert("creator".to_owned(), self.creator.as_str().into());
        }
        let trusted = self.preset == Preset::TrustedPrivate && !self.invite.is_empty();
        if trusted && self.rules.additional_room_creators {
            let creators = content
                .entry("additional_creators".to_owned())
                .or_insert_with(|| CanonicalJsonValue::Array(Vec::new()));
            // Another value stays, and the authorization rules reject it.
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

    /// The content of the power levels event; `overrides` replaces fields of it.
    fn power_levels(&self, overrides: CanonicalJsonObject) -> CanonicalJsonObject {
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
        content.extend(overrides);
        if privileged {
            raise_tombstone(&mut content);
        }
        content
    }

    /// The state events after power levels and alias: preset, initial state, name, topic.
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
        // Events that a later one would replace are not sent.
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

/// Raises the level for `m.room.tombstone` above `state_default`, as room versions require in which
/// creators have no level.
pub(in crate::rooms) fn raise_tombstone(content: &mut CanonicalJsonObject) {
    let state_default = content.get("state_default").and_then(level_in);
    let state_default = state_default.unwrap_or(Int::from(MODERATOR));
    let events = content
        .entry("events".to_owned())
        .or_insert_with(|| CanonicalJsonValue::Object(CanonicalJsonObject::new()));
    // Another value stays, and the authorization rules reject it.
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

/// The power level in `value`; older room versions allow strings.
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
