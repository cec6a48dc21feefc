//! Whether an event is allowed.
//!
//! Reads are the caller's closures; what fails in them comes back as [`AuthError::Read`], never as
//! a verdict.

use std::{collections::HashMap, sync::Arc};

use ruma::{
    EventId, OwnedEventId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res::{
        auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
    },
};
use serde_json::value::{RawValue, to_raw_value};

use super::{build::EventDraft, first_error::FirstError, format::FormatError, pdu::Pdu};

/// Why there is no permission.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError<E> {
    /// The rules do not allow the event, for this reason.
    #[error("{0}")]
    Rejected(String),
    /// The state could not be read; nothing is known about the event.
    #[error("{0}")]
    Read(E),
}

/// The keys of the state that an event rests on: those of them that are set in the room before it
/// are its `auth_events`.
///
/// Source: server-server API, "Auth events selection".
pub fn auth_types(
    draft: &EventDraft,
    rules: &RoomVersionRules,
) -> Result<Vec<(StateEventType, String)>, FormatError> {
    // Of the content only that of a membership is looked at.
    let content = if draft.event_type == TimelineEventType::RoomMember {
        to_raw_value(&draft.content).map_err(super::format::not_canonical)?
    } else {
        RawValue::NULL.to_owned()
    };
    auth_types_for_event(
        &draft.event_type,
        &draft.sender,
        draft.state_key.as_deref(),
        &content,
        &rules.authorization,
    )
    .map_err(FormatError::Malformed)
}

/// Checks a received event by the events that it names as its authority: they are the right ones,
/// none is rejected, and as a state they allow it. A failure means that the event is rejected.
///
/// `fetch` finds an event of the same room; `Ok(None)` if it is not here. The caller fetches what
/// is missing before it asks.
///
/// Source: server-server API, "Checks performed on receipt of a PDU", 4; room versions,
/// "Authorization rules".
pub fn check_by_auth_events<E>(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    fetch: impl Fn(&EventId) -> Result<Option<Arc<Pdu>>, E>,
) -> Result<(), AuthError<E>> {
    let first_error = FirstError::new();
    let fetch: &dyn Fn(&EventId) -> Option<Arc<Pdu>> = &|id| first_error.read(|| fetch(id));
    let verdict =
        check_state_independent_auth_rules(&rules.authorization, pdu, fetch).and_then(|()| {
            let state = authorities(pdu, rules, fetch);
            check_by(pdu, rules, &|kind, key| {
                state.get(&(kind.clone(), key.to_owned())).cloned()
            })
        });
    finish(first_error, verdict)
}

/// Checks an event by a state of its room: the state before it, and the room's current state.
///
/// `fetch_state` finds what is set under a key; `Ok(None)` if nothing is.
///
/// Source: server-server API, "Checks performed on receipt of a PDU", 5 and 6; room versions,
/// "Authorization rules".
pub fn check_by_state<E>(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    fetch_state: impl Fn(&StateEventType, &str) -> Result<Option<Arc<Pdu>>, E>,
) -> Result<(), AuthError<E>> {
    let first_error = FirstError::new();
    let verdict = check_by(pdu, rules, &|kind, key| {
        first_error.read(|| fetch_state(kind, key))
    });
    finish(first_error, verdict)
}

/// The id of the create event that a room's id is made of, since room version 12: it authorizes
/// every event of the room without being named.
pub fn create_event(pdu: &Pdu, rules: &RoomVersionRules) -> Option<OwnedEventId> {
    rules
        .authorization
        .room_create_event_id_as_room_id
        .then(|| OwnedEventId::try_from(format!("${}", pdu.room_id().strip_sigil())).ok())?
}

/// The auth events as a state. Since room version 12 the create event is one without being named.
fn authorities(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    fetch: &dyn Fn(&EventId) -> Option<Arc<Pdu>>,
) -> HashMap<(StateEventType, String), Arc<Pdu>> {
    let create = create_event(pdu, rules);
    let ids = pdu.auth_events().iter().chain(create.as_ref());
    ids.filter_map(|id| {
        let event = fetch(id)?;
        let (kind, key) = event.state_pair()?;
        Some(((kind, key.to_owned()), event.clone()))
    })
    .collect()
}

/// The rules that depend on a state. ruma's code for them is in the program once for each type of
/// closure, so it gets one type.
fn check_by(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    fetch_state: &dyn Fn(&StateEventType, &str) -> Option<Arc<Pdu>>,
) -> Result<(), String> {
    check_state_dependent_auth_rules(&rules.authorization, pdu, fetch_state)
}

fn finish<E>(first_error: FirstError<E>, verdict: Result<(), String>) -> Result<(), AuthError<E>> {
    first_error.check().map_err(AuthError::Read)?;
    verdict.map_err(AuthError::Rejected)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ruma::{
        RoomVersionId::{self, *},
        events::StateEventType,
    };
    use serde_json::json;

    use super::{AuthError, auth_types, check_by_auth_events, check_by_state};
    use crate::protocol::{
        build::{EventDraft, canonical_content},
        history::{Action, History, State},
        versions,
    };

    const ALICE: &str = "@alice:a.example";
    const BOB: &str = "@bob:b.example";

    /// A public room with Alice, who made it, and Bob.
    fn room(version: &RoomVersionId) -> History {
        let mut room = History::public(version, ALICE);
        room.then(Action::join(BOB));
        room
    }

    fn last_state(room: &History) -> Arc<State> {
        room.events.last().unwrap().state_after.clone()
    }

    fn refusal(room: &mut History, action: Action) -> String {
        let state = last_state(room);
        let built = room.build(&[room.events.len() - 1], &state, action);
        match room.allows(&built.pdu, &state) {
            Err(AuthError::Rejected(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_banned_user_cannot_join() {
        for version in versions::SUPPORTED {
            let mut room = room(&version);
            room.then(Action::member(ALICE, BOB, "ban"));
            assert!(
                refusal(&mut room, Action::join(BOB)).contains("banned"),
                "{version}"
            );
        }
    }

    #[test]
    fn a_user_without_power_cannot_kick() {
        for version in versions::SUPPORTED {
            let mut room = room(&version);
            let reason = refusal(&mut room, Action::member(BOB, ALICE, "leave"));
            assert!(reason.contains("power"), "{version}: {reason}");
        }
    }

    #[test]
    fn since_version_7_users_can_knock() {
        let knock = |version| {
            let mut room = History::public(&version, ALICE);
            let rule = json!({ "join_rule": "knock" });
            room.then(Action::state(ALICE, "m.room.join_rules", "", rule));
            let index = room.append(&[room.events.len() - 1], Action::member(BOB, BOB, "knock"));
            !room.events[index].pdu.rejected()
        };
        assert!(!knock(V6));
        assert!(knock(V7) && knock(V12));
    }

    #[test]
    fn since_version_12_a_creator_cannot_be_given_a_level() {
        let mut room = room(&V12);
        let levels = json!({ "users": { ALICE: 100 } });
        let action = Action::state(ALICE, "m.room.power_levels", "", levels);
        assert!(refusal(&mut room, action).contains("creator"));
    }

    #[test]
    fn an_event_without_the_create_event_among_its_authorities_is_rejected_until_version_11() {
        for version in versions::SUPPORTED {
            let mut room = room(&version);
            let mut cited = (*last_state(&room)).clone();
            cited.remove(&(StateEventType::RoomCreate, String::new()));
            let action = Action::message(BOB, "m.room.message", json!({}));
            let built = room.build(&[room.events.len() - 1], &cited, action);
            let verdict =
                check_by_auth_events(&built.pdu, room.rules, |id| Ok::<_, ()>(room.pdu(id)));
            assert_eq!(verdict.is_ok(), version == V12, "{version}");
        }
    }

    #[test]
    fn an_event_is_checked_by_what_it_cites_and_by_the_state_before_it() {
        let mut room = room(&V12);
        let before_ban = last_state(&room);
        room.then(Action::member(ALICE, BOB, "ban"));
        let action = Action::message(BOB, "m.room.message", json!({}));
        let built = room.build(&[room.events.len() - 1], &before_ban, action);
        check_by_auth_events(&built.pdu, room.rules, |id| Ok::<_, ()>(room.pdu(id))).unwrap();
        let state = last_state(&room);
        assert!(matches!(
            room.allows(&built.pdu, &state),
            Err(AuthError::Rejected(_))
        ));
    }

    #[test]
    fn a_rejected_event_authorizes_nothing() {
        let mut room = room(&V12);
        let before = last_state(&room);
        let levels = json!({ "users": { BOB: 100 } });
        let action = Action::state(BOB, "m.room.power_levels", "", levels);
        let rejected = room.append(&[room.events.len() - 1], action);
        let mut cited = (*before).clone();
        cited.insert((StateEventType::RoomPowerLevels, String::new()), rejected);
        let built = room.build(&[rejected], &cited, Action::member(BOB, ALICE, "ban"));
        let verdict = room.allows(&built.pdu, &before);
        assert!(
            matches!(&verdict, Err(AuthError::Rejected(reason)) if reason.contains("rejected")),
            "{verdict:?}"
        );
    }

    #[test]
    fn a_failed_read_is_no_verdict() {
        let room = room(&V12);
        let pdu = &room.events.last().unwrap().pdu;
        let failed = check_by_state(pdu, room.rules, |_, _| Err("disk"));
        assert_eq!(failed, Err(AuthError::Read("disk")));
        let failed = check_by_auth_events(pdu, room.rules, |_| Err("disk"));
        assert_eq!(failed, Err(AuthError::Read("disk")));
    }

    #[test]
    fn a_membership_rests_on_more_than_a_message() {
        let types = |version: RoomVersionId, event_type: &str, content| {
            let draft = EventDraft {
                room_id: None,
                sender: ALICE.try_into().unwrap(),
                event_type: event_type.into(),
                state_key: Some(BOB.to_owned()),
                content: canonical_content(&content).unwrap(),
                redacts: None,
            };
            let mut keys: Vec<String> = auth_types(&draft, versions::rules(&version).unwrap())
                .unwrap()
                .iter()
                .map(|(kind, key)| format!("{kind} {key}"))
                .collect();
            keys.sort();
            keys
        };
        let (alice, bob) = (
            format!("m.room.member {ALICE}"),
            format!("m.room.member {BOB}"),
        );
        let message = ["m.room.create ", &alice, "m.room.power_levels "];
        assert_eq!(types(V11, "m.room.message", json!({})), message);
        assert_eq!(types(V12, "m.room.message", json!({})), message[1..]);
        let invite = json!({ "membership": "invite" });
        let expected = ["m.room.join_rules ", &alice, &bob, "m.room.power_levels "];
        assert_eq!(types(V12, "m.room.member", invite), expected);
    }
}
