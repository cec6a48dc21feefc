//! Which users an event notifies: evaluating push rules before the event is stored.
//!
//! The default rules are evaluated once for all users. The rules of a local member are evaluated only
//! if an override, a mention, an invite or an ignored sender may change the result, and equal rule
//! sets are evaluated once. The sender is never notified.
//!
//! Source: client-server API, "Push Rules", "Receiving notifications".

use std::{
    collections::{BTreeSet, HashMap},
    pin::pin,
    sync::LazyLock,
    task::{Context, Poll, Waker},
};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, RoomId, UInt, UserId,
    events::TimelineEventType,
    push::{
        Action, AnyPushRuleRef, FlattenedJson, PredefinedOverrideRuleId, PushConditionRoomCtx,
        Ruleset,
    },
    serde::Raw,
    user_id,
};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::to_raw_value};

use crate::{
    protocol::build::EventDraft,
    rooms::{
        Error, Local,
        event::insert::{Notify, Verdict},
        room,
        state::{content, current, power_levels},
    },
    store::{Reader, RoomNum, Rows, Store, UserNum, records::Membership},
    users::{
        self,
        account_data::{ignored_users, invite_permissions, push_rules},
    },
};

/// Rooms with more local members are evaluated on the pool.
const MAX_MEMBERS_IN_PLACE: usize = 64;
/// Rooms whose local members have more bytes of own rules and ignored users, or rules with wildcards, are
/// evaluated on the pool: one wildcard pattern can take 20 ms.
const MAX_RULE_BYTES_IN_PLACE: usize = 4 * 1024;

/// The most properties of an event that rules see.
///
/// NOTSPEC: the specification has no such limits. But ruma writes every property with its whole path,
/// which is quadratic in the size of a hostile event, and each rule searches it again.
const MAX_PROPERTIES: usize = 1000;
/// The longest path of a property, before dots in keys are escaped.
const MAX_PATH_BYTES: usize = 255;
/// Of `content.body`, rules see this much.
const MAX_BODY_BYTES: usize = 8 * 1024;
/// Of any other string, rules see this much.
const MAX_TEXT_BYTES: usize = 1024;

/// For the default rules: a user that no event mentions or is from.
fn nobody() -> &'static UserId {
    user_id!("@nobody:invalid")
}

/// Whom `draft` notifies. Evaluates in place in small rooms, else on the pool.
pub async fn evaluate(store: &Store, local: &Local, draft: &EventDraft) -> Result<Notify, Error> {
    let room_id = draft.room_id.as_deref();
    let room = match room_id.map(|id| store.read(|s| room::num(s, id))) {
        Some(Ok(room)) => room,
        // Sending the draft reports that error.
        None | Some(Err(Error::UnknownRoom)) => return Ok(Notify::default()),
        Some(Err(error)) => return Err(error),
    };
    if store.read(|s| is_small(s, room))? {
        return store.read(|s| evaluate_in(s, local, room, draft));
    }
    let (local, draft) = (local.clone(), draft.clone());
    store
        .scan("push rules", move |s| evaluate_in(s, &local, room, &draft))
        .await
}

/// Whether evaluating the rules of the room's local members is fast.
fn is_small(r: &impl Reader, room: RoomNum) -> Result<bool, Error> {
    let members = r.local_members()?;
    let mut bytes = 0;
    for (evaluated, row) in members.prefix(room)?.enumerate() {
        let user = row?.0.value().1;
        if let Some(rules) = push_rules::stored(r, user)? {
            if rules.content.contains(['*', '?']) {
                return Ok(false);
            }
            bytes += rules.content.len();
        }
        bytes += ignored_users::size(r, user)?;
        if evaluated >= MAX_MEMBERS_IN_PLACE || bytes > MAX_RULE_BYTES_IN_PLACE {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whom `draft` notifies in `room`, for state events that are made inside a transaction. Reads all local
/// members.
pub fn evaluate_in(
    r: &impl Reader,
    local: &Local,
    room: RoomNum,
    draft: &EventDraft,
) -> Result<Notify, Error> {
    let mut evaluator = Evaluator::new(r, room, draft)?;
    let mut notify = Notify {
        default: evaluator.verdict(&DEFAULT_RULES, nobody(), ""),
        exceptions: Vec::new(),
    };
    let mut cache = HashMap::new();
    for (user, id) in audience(r, local, room, draft)? {
        let verdict = evaluator.for_member(r, user, &id, &mut cache)?;
        if verdict != notify.default {
            notify.exceptions.push((user, verdict));
        }
    }
    Ok(notify)
}

/// Whether evaluating the rules of `user` is fast.
pub fn is_fast_for(r: &impl Reader, user: UserNum) -> Result<bool, Error> {
    let rules = push_rules::stored(r, user)?.map_or_else(String::new, |rules| rules.content);
    let bytes = rules.len() + ignored_users::size(r, user)?;
    Ok(bytes <= MAX_RULE_BYTES_IN_PLACE && !rules.contains(['*', '?']))
}

/// The actions of the rule of `user` that now applies to an event in `room`; none if no rule does.
pub fn actions(
    r: &impl Reader,
    room: RoomNum,
    draft: &EventDraft,
    user: UserNum,
    id: &UserId,
) -> Result<Vec<Action>, Error> {
    let mut evaluator = Evaluator::new(r, room, draft)?;
    let own = push_rules::stored(r, user)?.map_or_else(String::new, |rules| rules.content);
    let rules = rules_of(&own, id);
    let name = content::display_name(r, room, id)?.unwrap_or_default();
    Ok(evaluator.actions(&rules, id, &name))
}

/// The rules of the user `id`, of which `own` is the stored part.
fn rules_of(own: &str, id: &UserId) -> Ruleset {
    if own.is_empty() {
        return Ruleset::server_default(id);
    }
    // One corrupt row must not prevent messages to the room.
    push_rules::with_server_defaults(own, id).unwrap_or_else(|error| {
        log::error!("push rules of {id}: {error}; using the default rules");
        Ruleset::server_default(id)
    })
}

/// The default rules without those about a particular user. Every event is evaluated by them.
static DEFAULT_RULES: LazyLock<Ruleset> = LazyLock::new(|| {
    let mut rules = Ruleset::server_default(nobody());
    for id in [
        PredefinedOverrideRuleId::InviteForMe,
        PredefinedOverrideRuleId::IsUserMention,
    ] {
        rules.override_.shift_remove(id.as_str());
    }
    rules
});

/// The local users whom an event can notify: joined members and the invited user, not the sender.
fn audience(
    r: &impl Reader,
    local: &Local,
    room: RoomNum,
    draft: &EventDraft,
) -> Result<Vec<(UserNum, OwnedUserId)>, Error> {
    let mut audience = Vec::new();
    for (user, membership) in current::local_members(r, room)? {
        if membership == Membership::Join {
            audience.push((user, users::id_of(r, user)?));
        }
    }
    if let Some(target) = draft.state_key.as_deref()
        && draft.event_type == TimelineEventType::RoomMember
        && let Ok(target) = UserId::parse(target)
        && local.has(&target)
        && let Some(user) = users::num_of(r, &target)?
        && !audience.iter().any(|(member, _)| *member == user)
    {
        audience.push((user, target));
    }
    audience.retain(|(_, id)| *id != draft.sender);
    Ok(audience)
}

/// Evaluates push rules for one event.
struct Evaluator<'a> {
    room: RoomNum,
    draft: &'a EventDraft,
    event: FlattenedJson,
    context: PushConditionRoomCtx,
    mentions: BTreeSet<String>,
}

impl<'a> Evaluator<'a> {
    fn new(r: &impl Reader, room: RoomNum, draft: &'a EventDraft) -> Result<Self, Error> {
        #[derive(Default, Deserialize)]
        struct Mentions {
            #[serde(default)]
            user_ids: BTreeSet<String>,
        }
        let room_id = room::id(r, room)?;
        let mentions = draft.content.get("m.mentions").cloned();
        let mentions = mentions.map(|mentions| serde_json::from_value(mentions.into()));
        let mentions: Mentions = mentions.and_then(Result::ok).unwrap_or_default();
        let rules = room::rules(r, room)?;
        let joined = UInt::from(room::heads(r, room)?.joined);
        let mut context =
            PushConditionRoomCtx::new(room_id.clone(), joined, nobody().to_owned(), String::new());
        // An invite may be to a room of which nothing else is here.
        if current::get(r, room, "m.room.create", "")?.is_some() {
            let levels = power_levels::levels(r, room, rules)?;
            context = context.with_power_levels(levels.into());
        }
        Ok(Self {
            room,
            event: flattened(draft, &room_id)?,
            draft,
            context,
            mentions: mentions.user_ids,
        })
    }

    /// Whether the event invites `id`.
    fn is_invite_of(&self, id: &UserId) -> bool {
        let membership = self.draft.content.get("membership");
        self.draft.event_type == TimelineEventType::RoomMember
            && self.draft.state_key.as_deref() == Some(id.as_str())
            && membership.and_then(|value| value.as_str()) == Some("invite")
    }

    /// The verdict for a local user. `cache` has the verdicts by own rules, for users whom the event does
    /// not mention.
    fn for_member(
        &mut self,
        r: &impl Reader,
        user: UserNum,
        id: &UserId,
        cache: &mut HashMap<String, Verdict>,
    ) -> Result<Verdict, Error> {
        if ignored_users::load(r, user)?.contains(&self.draft.sender) {
            return Ok(Verdict::default());
        }
        if self.is_invite_of(id) && invite_permissions::load(r, user)?.ignores(&self.draft.sender) {
            return Ok(Verdict::default());
        }
        let own = push_rules::stored(r, user)?.map(|rules| rules.content);
        let own = own.unwrap_or_default();
        let is_mentioned = self.mentions.contains(id.as_str())
            || self.draft.state_key.as_deref() == Some(id.as_str());
        let needs_name = own.contains("contains_display_name");
        if !is_mentioned
            && !needs_name
            && let Some(verdict) = cache.get(&own)
        {
            return Ok(*verdict);
        }
        let rules = rules_of(&own, id);
        let name = if needs_name {
            content::display_name(r, self.room, id)?.unwrap_or_default()
        } else {
            String::new()
        };
        let verdict = self.verdict(&rules, id, &name);
        if !is_mentioned && !needs_name {
            cache.insert(own, verdict);
        }
        Ok(verdict)
    }

    fn verdict(&mut self, rules: &Ruleset, id: &UserId, name: &str) -> Verdict {
        let rule = self.matching(rules, id, name);
        rule.map_or_else(Verdict::default, |rule| Verdict {
            notify: rule.triggers_notification(),
            highlight: rule.triggers_notification() && rule.triggers_highlight(),
        })
    }

    fn actions(&mut self, rules: &Ruleset, id: &UserId, name: &str) -> Vec<Action> {
        let rule = self.matching(rules, id, name);
        rule.map_or_else(Vec::new, |rule| rule.actions().to_vec())
    }

    fn matching<'r>(
        &mut self,
        rules: &'r Ruleset,
        id: &UserId,
        name: &str,
    ) -> Option<AnyPushRuleRef<'r>> {
        self.context.user_id = id.to_owned();
        self.context.user_display_name = name.to_owned();
        rules.iter().find(|rule| self.applies(*rule))
    }

    fn applies(&self, rule: AnyPushRuleRef<'_>) -> bool {
        let applies = pin!(rule.applies(&self.event, &self.context));
        // It would wait only for thread subscriptions, which are not in the context.
        match applies.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(applies) => applies,
            Poll::Pending => false,
        }
    }
}

/// The event as rules see it, within the limits above.
fn flattened(draft: &EventDraft, room_id: &RoomId) -> Result<FlattenedJson, Error> {
    let mut left = MAX_PROPERTIES;
    let mut event = json!({
        "type": draft.event_type,
        "sender": draft.sender,
        "room_id": room_id,
        "content": truncated(&draft.content, "content", &mut left),
    });
    if let Some(state_key) = &draft.state_key {
        event["state_key"] = state_key.as_str().into();
    }
    let event =
        to_raw_value(&event).map_err(|error| Error::BadContent(error.to_string().into()))?;
    Ok(FlattenedJson::from_raw(&Raw::<()>::from_json(event)))
}

/// The object at `path` with its first `left` properties whose path is not too long, nested ones
/// included.
fn truncated(object: &CanonicalJsonObject, path: &str, left: &mut usize) -> Map<String, Value> {
    let mut kept = Map::new();
    for (key, value) in object {
        if path.len() + 1 + key.len() > MAX_PATH_BYTES {
            continue;
        }
        if *left == 0 {
            break;
        }
        *left -= 1;
        let path = format!("{path}.{key}");
        let value = match value {
            CanonicalJsonValue::Object(below) => Value::Object(truncated(below, &path, left)),
            CanonicalJsonValue::String(text) => {
                let longest = match path.as_str() {
                    "content.body" => MAX_BODY_BYTES,
                    _ => MAX_TEXT_BYTES,
                };
                text[..text.floor_char_boundary(longest)].into()
            }
            value => value.clone().into(),
        };
        kept.insert(key.clone(), value);
    }
    kept
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;
    use crate::protocol::build::canonical_content;

    const LARGE: usize = 64 * 1024;

    fn draft(content: &Value) -> EventDraft {
        EventDraft {
            room_id: None,
            sender: user_id!("@mallory:here").to_owned(),
            event_type: TimelineEventType::from("m.room.message"),
            state_key: None,
            content: canonical_content(content).expect("content"),
            text: None,
            redacts: None,
        }
    }

    fn flatten(content: &Value) -> FlattenedJson {
        flattened(&draft(content), room_id!("!room:here")).expect("an event")
    }

    /// `count` properties, each with `value`.
    fn properties(count: usize, value: &Value) -> Value {
        (0..count)
            .map(|n| (format!("{n:x}"), value.clone()))
            .collect()
    }

    fn nested(depth: usize, key: &str, innermost: Value) -> Value {
        (0..depth).fold(innermost, |below, _| json!({ key: below }))
    }

    #[test]
    fn flattening_is_not_quadratic_in_the_size_of_a_hostile_event() {
        let long = "k".repeat(LARGE / 2);
        let almost = "k".repeat(MAX_PATH_BYTES - 20);
        let hostile = [
            json!({ long: properties(LARGE / 20, &json!(0)) }),
            json!({ almost.as_str(): properties(LARGE / 10, &json!(0)) }),
            json!({ almost.as_str(): properties(LARGE / 20, &json!({})) }),
            json!({ almost.as_str(): properties(LARGE / 40, &json!({ "too-long": { "a": 0 } })) }),
            nested(100, &"k".repeat(300), properties(LARGE / 20, &json!(0))),
            nested(60, "..", properties(LARGE / 10, &json!(0))),
            nested(100, "", properties(LARGE / 10, &json!(0))),
            properties(LARGE / 10, &json!("")),
            properties(LARGE / 600, &json!("a".repeat(600))),
            json!({ "body": "a".repeat(LARGE / 2), "formatted_body": "a".repeat(LARGE / 2) }),
        ];
        for content in hostile {
            let written = format!("{:?}", flatten(&content)).len();
            assert!(written < 10 * LARGE, "{written} bytes");
        }
    }

    #[test]
    fn an_event_beyond_the_limits_is_truncated() {
        let long = "k".repeat(MAX_PATH_BYTES);
        let event = flatten(&json!({
            "body": "ä".repeat(MAX_BODY_BYTES),
            "formatted_body": "ä".repeat(MAX_BODY_BYTES),
            "short": { "leaf": "seen" },
            long.as_str(): "unseen",
            "deep": { long.as_str(): { "leaf": "unseen" }, "leaf": "seen" },
        }));
        let length = |path: &str| event.get_str(path).map(str::len);
        assert_eq!(length("content.body"), Some(MAX_BODY_BYTES));
        assert_eq!(length("content.formatted_body"), Some(MAX_TEXT_BYTES));
        for path in ["content.short.leaf", "content.deep.leaf"] {
            assert_eq!(event.get_str(path), Some("seen"));
        }
        assert!(!format!("{event:?}").contains("unseen"));
    }
}
