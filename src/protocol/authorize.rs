//! Whether the authorization rules of a room version allow an event.
//!
//! The caller's closures read events. An error in them is returned as [`AuthError::Read`]; it is
//! never taken for a verdict.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use ruma::{
    EventId, ID_MAX_BYTES, OwnedEventId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
    state_res::{
        auth_types_for_event, check_state_dependent_auth_rules, check_state_independent_auth_rules,
    },
};
use serde_json::value::{RawValue, to_raw_value};

use super::{build::EventDraft, first_error::FirstError, format::FormatError, pdu::Pdu};

/// Why an event is not known to be allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError<E> {
    /// The rules do not allow the event, for this reason.
    #[error("{0}")]
    Rejected(String),
    /// An event could not be read, so there is no verdict.
    #[error("{0}")]
    Read(E),
}

/// The (type, state key) pairs whose events in the state before an event are its `auth_events`.
///
/// Source: server-server API, "Auth events selection".
pub fn auth_types(
    draft: &EventDraft,
    rules: &RoomVersionRules,
) -> Result<Vec<(StateEventType, String)>, FormatError> {
    // Only the content of member events matters.
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

/// A (type, state key) that a check looked up in a state, and the event found there.
pub type StateRead = ((StateEventType, String), Option<Arc<Pdu>>);

/// Checks an event by its `auth_events`: they are the right ones, none is rejected, and as a state
/// they allow the event. If not, the event is rejected. Returns what the check read of that state:
/// any state with the same entries allows the event too.
///
/// `fetch` finds an event of the same room; `Ok(None)` if it is not here. The caller fetches
/// missing auth events first.
///
/// Source: server-server API, "Checks performed on receipt of a PDU", 4; room versions,
/// "Authorization rules".
pub fn check_by_auth_events<E>(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    fetch: impl Fn(&EventId) -> Result<Option<Arc<Pdu>>, E>,
) -> Result<Vec<StateRead>, AuthError<E>> {
    check_bytes(pdu).map_err(AuthError::Rejected)?;
    let first_error = FirstError::new();
    let fetch: &dyn Fn(&EventId) -> Option<Arc<Pdu>> = &|id| first_error.read(|| fetch(id));
    let reads = RefCell::default();
    let verdict =
        check_state_independent_auth_rules(&rules.authorization, pdu, fetch).and_then(|()| {
            let state = state_of_auth_events(pdu, rules, fetch);
            check_state_dependent(pdu, rules, &|kind, key| {
                let event = state.get(&(kind.clone(), key.to_owned())).cloned();
                record(&reads, kind, key, event)
            })
        });
    finish(first_error, verdict)?;
    Ok(reads.into_inner())
}

/// The limits of bytes that an event may exceed without being dropped: see [`check_received`].
///
/// [`check_received`]: super::format::check_received
fn check_bytes(pdu: &Pdu) -> Result<(), String> {
    let (kind, key) = (
        pdu.event_type().to_string(),
        pdu.state_key().unwrap_or_default(),
    );
    match kind.len().max(key.len()) > ID_MAX_BYTES {
        true => Err(format!(
            "type or state_key has more than {ID_MAX_BYTES} bytes"
        )),
        false => Ok(()),
    }
}

/// Checks an event by a state of its room: the state before it, and the room's current state.
/// Returns what the check read of the state.
///
/// `fetch_state` finds the event under a (type, state key); `Ok(None)` if there is none.
///
/// Source: server-server API, "Checks performed on receipt of a PDU", 5 and 6; room versions,
/// "Authorization rules".
pub fn check_by_state<E>(
    pdu: &Pdu,
    rules: &RoomVersionRules,
    fetch_state: impl Fn(&StateEventType, &str) -> Result<Option<Arc<Pdu>>, E>,
) -> Result<Vec<StateRead>, AuthError<E>> {
    let first_error = FirstError::new();
    let reads = RefCell::default();
    let verdict = check_state_dependent(pdu, rules, &|kind, key| {
        let event = first_error.read(|| fetch_state(kind, key));
        record(&reads, kind, key, event)
    });
    finish(first_error, verdict)?;
    Ok(reads.into_inner())
}

fn record(
    reads: &RefCell<Vec<StateRead>>,
    kind: &StateEventType,
    key: &str,
    event: Option<Arc<Pdu>>,
) -> Option<Arc<Pdu>> {
    let key = (kind.clone(), key.to_owned());
    reads.borrow_mut().push((key, event.clone()));
    event
}

/// The id of the room's create event, which since room version 12 is made of the room id. It
/// authorizes every event of the room although it is not among the auth events.
pub fn create_event(pdu: &Pdu, rules: &RoomVersionRules) -> Option<OwnedEventId> {
    rules
        .authorization
        .room_create_event_id_as_room_id
        .then(|| OwnedEventId::try_from(format!("${}", pdu.room_id().strip_sigil())).ok())?
}

/// The auth events as a state. Since room version 12 it includes the create event, which is not
/// among the auth events.
fn state_of_auth_events(
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

/// ruma's function is compiled once for each type of closure, so it gets one type.
fn check_state_dependent(
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
    fn an_event_without_the_create_event_in_auth_events_is_rejected_until_version_11() {
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
    fn an_event_is_checked_by_its_auth_events_and_by_the_state_before_it() {
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
    fn an_event_with_a_rejected_auth_event_is_rejected() {
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
    fn a_failed_read_is_returned_as_an_error() {
        let room = room(&V12);
        let pdu = &room.events.last().unwrap().pdu;
        let failed = check_by_state(pdu, room.rules, |_, _| Err("disk")).map(drop);
        assert_eq!(failed, Err(AuthError::Read("disk")));
        let failed = check_by_auth_events(pdu, room.rules, |_| Err("disk")).map(drop);
        assert_eq!(failed, Err(AuthError::Read("disk")));
    }

    #[test]
    fn auth_types_of_a_member_event_include_join_rules_and_target() {
        let types = |version: RoomVersionId, event_type: &str, content| {
            let draft = EventDraft {
                room_id: None,
                sender: ALICE.try_into().unwrap(),
                event_type: event_type.into(),
                state_key: Some(BOB.to_owned()),
                content: canonical_content(&content).unwrap(),
                text: None,
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
