//! Push rules ([client-server API, "Push Rules"]), the account data of type [`EVENT_TYPE`].
//!
//! Stored are only the user's own rules and those server-default rules that the user changed. The other
//! defaults are added when the rules are read, so they need no row and are those of the running version.
//!
//! [client-server API, "Push Rules"]: https://spec.matrix.org/v1.19/client-server-api/#push-rules

use ruma::{
    UserId,
    push::{
        AnyPushRuleRef, ConditionalPushRule, InsertPushRuleError, NewPushRule, PushCondition,
        RuleKind, Ruleset,
    },
    serde::JsonObject,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    rows::{self, GLOBAL},
    sent_push_rules,
};
use crate::{
    store::{self, Reader, Tx, UserNum, records::AccountData},
    users::{Error, Users, id_of},
};

pub use super::sent_push_rules::make_readable;

pub const EVENT_TYPE: &str = "m.push_rules";
/// Clients read all kinds of rules; ruma leaves out those without a rule.
const KINDS: [&str; 5] = ["override", "content", "room", "sender", "underride"];
/// Stored rules of one user.
const MAX_RULES: usize = 500;
const MAX_STORED_BYTES: usize = 64 * 1024;
/// Glob patterns of one user that are matched against the body of messages.
const MAX_BODY_GLOBS: usize = 50;
/// Wildcards of each. So matched against a long message, it costs about 0.1 ms; with 127 it is 2 ms.
const MAX_WILDCARDS: usize = 16;
const NOT_SERIALIZABLE: store::Error = store::Error::NotSerializable("push rules");
/// ruma panics over very long ones.
const MAX_GLOB_BYTES: usize = 255;

/// The content of the account data. `global` is the only scope.
#[derive(Default, Deserialize, Serialize)]
struct Content {
    global: Ruleset,
}

/// Of the definition of a rule, the fields as the client sent them, but [readable](make_readable).
pub struct SentRule {
    pub kind: RuleKind,
    pub id: String,
    pub fields: JsonObject,
}

/// The rules of `user`, whose id is `user_id`, with the defaults.
pub fn load(r: &impl Reader, user: UserNum, user_id: &UserId) -> Result<Ruleset, store::Error> {
    match stored(r, user)? {
        Some(data) => with_server_defaults(&data.content, user_id),
        None => Ok(Ruleset::server_default(user_id)),
    }
}

/// The stored part of the rules, for [`with_server_defaults`].
pub fn stored(r: &impl Reader, user: UserNum) -> Result<Option<AccountData>, store::Error> {
    rows::load(r, user, GLOBAL, EVENT_TYPE)
}

/// The rules of `user_id`, of whom `stored` is the stored part.
pub fn with_server_defaults(stored: &str, user_id: &UserId) -> Result<Ruleset, store::Error> {
    let content: Content = serde_json::from_str(stored).map_err(|_| {
        store::Error::corrupt("account_data", (user_id, "m.push_rules"), "not push rules")
    })?;
    let mut rules = content.global;
    rules.update_with_server_default(Ruleset::server_default(user_id));
    Ok(rules)
}

/// Inserts `rule` after `after` or before `before`, replacing the rule with its id. Fails if `after` or
/// `before` names no rule that can be there.
pub fn insert(
    rules: &mut Ruleset,
    rule: NewPushRule,
    after: Option<&str>,
    before: Option<&str>,
) -> Result<(), InsertPushRuleError> {
    let (kind, id) = (rule.kind(), rule.rule_id().to_owned());
    if after == Some(&*id) || before == Some(&*id) {
        return Err(InsertPushRuleError::UnknownRuleId);
    }
    let enabled = rules.get(kind.clone(), &id).map(|rule| rule.enabled());
    if after.is_some() || before.is_some() {
        // ruma computes the index before it removes the rule with the same id, and panics if that index
        // is past the end.
        let _ = rules.remove(kind.clone(), &id);
    }
    rules.insert(rule, after, before)?;
    if let Some(enabled) = enabled {
        let set = rules.set_enabled(kind, &id, enabled);
        set.map_err(|_| InsertPushRuleError::UnknownRuleId)?;
    }
    Ok(())
}

/// The content of the account data as clients see it.
pub(super) fn client_content(r: &impl Reader, user: UserNum) -> Result<String, store::Error> {
    text(&for_client(r, user, &id_of(r, user)?)?)
}

/// The rules with the defaults, as JSON with the conditions and actions that clients sent.
fn for_client(r: &impl Reader, user: UserNum, user_id: &UserId) -> Result<Value, store::Error> {
    let stored = stored(r, user)?;
    let global = match &stored {
        Some(data) => with_server_defaults(&data.content, user_id)?,
        None => Ruleset::server_default(user_id),
    };
    let mut content = content(global, &[], stored.as_ref())?;
    sent_push_rules::undo_make_readable(&mut content["global"]);
    for kind in KINDS {
        let rules = content["global"].as_object_mut();
        rules.map(|rules| {
            rules
                .entry(kind)
                .or_insert_with(|| Value::Array(Vec::new()))
        });
    }
    Ok(content)
}

/// The content of the account data: `global`, with conditions and actions as they were in `sent`, or else in
/// the data that are stored.
fn content(
    global: Ruleset,
    sent: &[&Value],
    stored: Option<&AccountData>,
) -> Result<Value, store::Error> {
    let content = serde_json::to_value(Content { global });
    let mut content = content.map_err(|_| NOT_SERIALIZABLE)?;
    let stored: Option<Value> = stored.and_then(|data| serde_json::from_str(&data.content).ok());
    let before = stored.as_ref().map(|stored| &stored["global"]);
    let sources: Vec<&Value> = sent.iter().copied().chain(before).collect();
    sent_push_rules::restore(&mut content["global"], &sources);
    Ok(content)
}

fn text(content: &Value) -> Result<String, store::Error> {
    serde_json::to_string(content).map_err(|_| NOT_SERIALIZABLE)
}

/// `rules` without the unchanged defaults.
fn without_defaults(mut rules: Ruleset, user_id: &UserId) -> Ruleset {
    let defaults = Ruleset::server_default(user_id);
    let is_changed = |kind: RuleKind, rule: &ConditionalPushRule| {
        let default = defaults.get(kind, &rule.rule_id);
        !(rule.default && default.is_some_and(|default| has_same_actions(default, rule)))
    };
    rules
        .override_
        .retain(|rule| is_changed(RuleKind::Override, rule));
    rules
        .underride
        .retain(|rule| is_changed(RuleKind::Underride, rule));
    rules
}

fn has_same_actions(default: AnyPushRuleRef<'_>, rule: &ConditionalPushRule) -> bool {
    let (before, after) = (
        serde_json::to_value(default.actions()),
        serde_json::to_value(&rule.actions),
    );
    default.enabled() == rule.enabled && before.ok() == after.ok()
}

/// The glob patterns of `rule` that are matched against the body of messages.
fn body_globs(rule: AnyPushRuleRef<'_>) -> Vec<&str> {
    let patterns: Vec<&str> = match rule {
        AnyPushRuleRef::Content(rule) => vec![&rule.pattern],
        AnyPushRuleRef::Override(ConditionalPushRule { conditions, .. })
        | AnyPushRuleRef::Underride(ConditionalPushRule { conditions, .. }) => conditions
            .iter()
            .filter_map(|condition| match condition {
                PushCondition::EventMatch(data) if data.key == "content.body" => {
                    Some(&*data.pattern)
                }
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let patterns = patterns.into_iter();
    patterns
        .filter(|pattern| pattern.contains(['*', '?']))
        .collect()
}

fn check_body_globs(rules: &Ruleset) -> Result<(), Error> {
    let globs: Vec<&str> = rules.iter().flat_map(body_globs).collect();
    if globs.len() > MAX_BODY_GLOBS {
        return Err(Error::TooMany(
            "a user has at most 50 push rules that match message bodies with wildcards",
        ));
    }
    if globs.iter().any(|pattern| pattern.len() > MAX_GLOB_BYTES) {
        return Err(Error::InvalidParam(
            "a pattern with wildcards has at most 255 bytes",
        ));
    }
    let wildcards = |pattern: &str| pattern.matches(['*', '?']).count();
    if globs
        .iter()
        .any(|pattern| wildcards(pattern) > MAX_WILDCARDS)
    {
        return Err(Error::InvalidParam("a pattern has at most 16 wildcards"));
    }
    Ok(())
}

/// Stores `rules` for `user`, whose id is `user_id`, with what a client has just sent of one of them.
///
/// # Errors
/// [`Error::TooMany`], [`Error::TooLarge`] or [`Error::InvalidParam`], before anything is written.
pub fn put(
    tx: &Tx,
    user: UserNum,
    user_id: &UserId,
    rules: Ruleset,
    sent: Option<&SentRule>,
) -> Result<(), Error> {
    let rules = without_defaults(rules, user_id);
    if rules.iter().count() > MAX_RULES {
        return Err(Error::TooMany("a user has at most 500 push rules"));
    }
    check_body_globs(&rules)?;
    let before = stored(tx, user)?;
    let sent = sent.map(|rule| sent_push_rules::ruleset(&rule.kind, &rule.id, &rule.fields));
    let sent: Vec<&Value> = sent.iter().collect();
    let content = text(&content(rules, &sent, before.as_ref())?)?;
    if content.len() > MAX_STORED_BYTES {
        return Err(Error::TooLarge("push rules have at most 64 KiB"));
    }
    if before.is_none_or(|before| before.content != content) {
        rows::put(tx, user, GLOBAL, EVENT_TYPE, &content)?;
    }
    Ok(())
}

impl Users {
    /// The content of the account data as clients see it.
    pub fn push_rules_content(&self, user: UserNum, user_id: &UserId) -> Result<Value, Error> {
        Ok(self.store.read(|s| for_client(s, user, user_id))?)
    }

    /// `sent` is what the client said of the rule that `change` sets.
    ///
    /// # Errors
    /// Those of `change` and of [`put`].
    pub async fn change_push_rules<E>(
        &self,
        user: UserNum,
        user_id: &UserId,
        sent: Option<SentRule>,
        change: impl Fn(&mut Ruleset) -> Result<(), E> + Send + 'static,
    ) -> Result<(), E>
    where
        E: From<Error> + From<store::Error> + Send + 'static,
    {
        let user_id = user_id.to_owned();
        self.store
            .write(move |tx| {
                let mut rules = load(tx, user, &user_id)?;
                change(&mut rules)?;
                Ok(put(tx, user, &user_id, rules, sent.as_ref())?)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        push::{
            Action, NewPatternedPushRule, NewPushRule, NewSimplePushRule, PredefinedOverrideRuleId,
            RuleKind,
        },
        room_id, user_id,
    };

    use super::*;
    use crate::users::testing::{alice_and_bob, with_server};

    const MASTER: PredefinedOverrideRuleId = PredefinedOverrideRuleId::Master;

    #[test]
    fn only_rules_that_the_user_changed_are_stored() {
        with_server(async |server| {
            let [alice, _] = alice_and_bob(&server).await;
            let id = user_id!("@alice:example.org");
            let stored = || server.store.read(|s| stored(s, alice)).unwrap();
            assert_eq!(stored(), None);
            let quiet = |rules: &mut Ruleset| {
                let rule = NewSimplePushRule::new(room_id!("!a:b").to_owned(), vec![]);
                rules.insert(NewPushRule::Room(rule), None, None).unwrap();
                rules
                    .set_enabled(RuleKind::Override, &MASTER, true)
                    .unwrap();
                Ok::<_, Error>(())
            };
            server
                .users
                .change_push_rules(alice, id, None, quiet)
                .await
                .unwrap();
            let content: Content = serde_json::from_str(&stored().unwrap().content).unwrap();
            let ids: Vec<_> = content.global.iter().map(|rule| rule.rule_id()).collect();
            assert_eq!(ids, [MASTER.as_ref(), "!a:b"]);
            let whole = server.store.read(|s| load(s, alice, id)).unwrap();
            let defaults = Ruleset::server_default(id);
            assert_eq!(whole.iter().count(), defaults.iter().count() + 1);
            assert_eq!(
                whole.iter().next().map(|rule| rule.enabled()),
                Some(true),
                "the master rule"
            );
        });
    }

    #[test]
    fn a_pattern_for_bodies_has_a_limit_of_wildcards_and_of_bytes() {
        let is_allowed = |pattern: &str| {
            let mut rules = Ruleset::new();
            let rule = NewPatternedPushRule::new("id".to_owned(), pattern.to_owned(), vec![]);
            let rule = NewPushRule::Content(rule);
            rules.insert(rule, None, None).unwrap();
            check_body_globs(&rules).is_ok()
        };
        for (pattern, expected) in [
            ("*a?b".repeat(8), true),
            ("*a?b".repeat(8) + "*", false),
            ("x".repeat(254) + "*", true),
            ("x".repeat(255) + "*", false),
            ("x".repeat(300), true),
        ] {
            assert_eq!(is_allowed(&pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn changes_survive_new_and_removed_server_defaults() {
        let id = user_id!("@alice:example.org");
        let mut old = Ruleset::server_default(id);
        let kind = RuleKind::Underride;
        old.set_actions(kind.clone(), ".m.rule.message", vec![])
            .unwrap();
        let mut removed = ConditionalPushRule::master();
        removed.rule_id = ".m.rule.removed".to_owned();
        old.override_.insert(removed);
        old.override_.shift_remove(".m.rule.tombstone");
        let stored = content(without_defaults(old, id), &[], None).unwrap();
        let new = with_server_defaults(&stored.to_string(), id).unwrap();
        let actions = |rules: &Ruleset, rule: &str| {
            let rule = rules.get(kind.clone(), rule).unwrap();
            rule.actions().iter().any(Action::should_notify)
        };
        assert!(!actions(&new, ".m.rule.message"));
        assert!(actions(&new, ".m.rule.call"));
        assert!(new.get(RuleKind::Override, ".m.rule.tombstone").is_some());
        assert!(new.get(RuleKind::Override, ".m.rule.removed").is_none());
    }
}
