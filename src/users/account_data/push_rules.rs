//! Which events notify a user: push rules ([client-server API, "Push Rules"]).
//!
//! They are account data of the type [`EVENT_TYPE`]. Stored is only what the user made of them: rules of
//! their own, and those of the server's that they changed. The others are added when the rules are
//! read, so they cost nobody a row, and are those of the program that runs. A user who changed
//! nothing has the server's rules all the same.
//!
//! [client-server API, "Push Rules"]: https://spec.matrix.org/v1.19/client-server-api/#push-rules

use ruma::{
    UserId,
    push::{
        AnyPushRuleRef, ConditionalPushRule, InsertPushRuleError, NewPushRule, PushCondition,
        RuleKind, Ruleset,
    },
};
use serde::{Deserialize, Serialize};

use super::GLOBAL;
use crate::{
    store::{self, Reader, Tx, UserNum, records::AccountData},
    users::{Error, Users, account_data, id_of},
};

/// The type of account data that push rules are.
pub const EVENT_TYPE: &str = "m.push_rules";
/// How many rules of their own a user can have.
const MOST: usize = 500;
/// How large what is stored of a user's rules can be, in bytes.
const LARGEST: usize = 64 * 1024;

/// How many patterns with wildcards a user can look for in the text of messages: each costs about a
/// millisecond for every message.
const MOST_SEARCHES: usize = 50;
/// How long such a pattern can be, in bytes. ruma panics over very long ones.
const LONGEST_SEARCH: usize = 255;

/// The content of the account data: there is no other scope than this one.
#[derive(Default, Deserialize, Serialize)]
struct Content {
    global: Ruleset,
}

/// The rules of `user`, whose id is `user_id`.
///
/// # Errors
/// If the table cannot be read.
pub fn load(r: &impl Reader, user: UserNum, user_id: &UserId) -> Result<Ruleset, store::Error> {
    match stored(r, user)? {
        Some(data) => with_server_defaults(&data.content, user_id),
        None => Ok(Ruleset::server_default(user_id)),
    }
}

/// What `user` made of the rules, as it is stored: for [`with_server_defaults`].
///
/// # Errors
/// If the table cannot be read.
pub fn stored(r: &impl Reader, user: UserNum) -> Result<Option<AccountData>, store::Error> {
    account_data::load(r, user, GLOBAL, EVENT_TYPE)
}

/// The rules of the user `user_id`, who made `stored` of them.
///
/// # Errors
/// If that is not what can be stored.
pub fn with_server_defaults(stored: &str, user_id: &UserId) -> Result<Ruleset, store::Error> {
    let content: Content = serde_json::from_str(stored).map_err(|_| {
        store::Error::corrupt("account_data", (user_id, "m.push_rules"), "not push rules")
    })?;
    let mut rules = content.global;
    rules.update_with_server_default(Ruleset::server_default(user_id));
    Ok(rules)
}

/// Puts `rule` behind `after` or else before `before`, over the one of the same name.
///
/// # Errors
/// If there is no such place.
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
        // ruma counts the places before it takes out a rule that is there already, and panics
        // where that leads behind the last one.
        let _ = rules.remove(kind.clone(), &id);
    }
    rules.insert(rule, after, before)?;
    if let Some(enabled) = enabled {
        let set = rules.set_enabled(kind, &id, enabled);
        set.map_err(|_| InsertPushRuleError::UnknownRuleId)?;
    }
    Ok(())
}

/// The rules of `user` as account data: the content that clients see.
pub(super) fn client_content(r: &impl Reader, user: UserNum) -> Result<String, store::Error> {
    let global = load(r, user, &id_of(r, user)?)?;
    text(&Content { global })
}

fn text(content: &Content) -> Result<String, store::Error> {
    serde_json::to_string(content).map_err(|_| store::Error::NotSerializable("push rules"))
}

/// What is to be stored of `rules`: without those that are as the server has them.
fn own(mut rules: Ruleset, user_id: &UserId) -> Ruleset {
    let defaults = Ruleset::server_default(user_id);
    let is_own = |kind: RuleKind, rule: &ConditionalPushRule| {
        let default = defaults.get(kind, &rule.rule_id);
        !(rule.default && default.is_some_and(|default| says_the_same(default, rule)))
    };
    rules
        .override_
        .retain(|rule| is_own(RuleKind::Override, rule));
    rules
        .underride
        .retain(|rule| is_own(RuleKind::Underride, rule));
    rules
}

fn says_the_same(default: AnyPushRuleRef<'_>, rule: &ConditionalPushRule) -> bool {
    let (before, after) = (
        serde_json::to_value(default.actions()),
        serde_json::to_value(&rule.actions),
    );
    default.enabled() == rule.enabled && before.ok() == after.ok()
}

/// The patterns with wildcards that the rule looks for in the text of messages.
fn searches(rule: AnyPushRuleRef<'_>) -> Vec<&str> {
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
    let wild = patterns.into_iter();
    wild.filter(|pattern| pattern.contains(['*', '?']))
        .collect()
}

fn check_searches(rules: &Ruleset) -> Result<(), Error> {
    let searches: Vec<&str> = rules.iter().flat_map(searches).collect();
    if searches.len() > MOST_SEARCHES {
        return Err(Error::TooMany(
            "there can be no more patterns with wildcards",
        ));
    }
    if searches
        .iter()
        .any(|pattern| pattern.len() > LONGEST_SEARCH)
    {
        return Err(Error::InvalidParam(
            "a pattern with wildcards has at most 255 bytes",
        ));
    }
    Ok(())
}

/// Makes `rules` the rules of `user`, whose id is `user_id`.
///
/// # Errors
/// [`Error::TooMany`], [`Error::TooLarge`] and [`Error::InvalidParam`], before anything is written.
pub fn put(tx: &Tx, user: UserNum, user_id: &UserId, rules: Ruleset) -> Result<(), Error> {
    let rules = own(rules, user_id);
    if rules.iter().count() > MOST {
        return Err(Error::TooMany("there can be no more push rules"));
    }
    check_searches(&rules)?;
    let content = text(&Content { global: rules })?;
    if content.len() > LARGEST {
        return Err(Error::TooLarge("push rules have at most 64 KiB"));
    }
    let before = stored(tx, user)?;
    if before.is_none_or(|before| before.content != content) {
        account_data::put(tx, user, GLOBAL, EVENT_TYPE, &content)?;
    }
    Ok(())
}

impl Users {
    /// The push rules of `user`.
    ///
    /// # Errors
    /// If the store fails.
    pub fn push_rules(&self, user: UserNum, user_id: &UserId) -> Result<Ruleset, Error> {
        Ok(self.store.read(|s| load(s, user, user_id))?)
    }

    /// Changes the push rules of `user`.
    ///
    /// # Errors
    /// What `change` returns; [`Error::TooMany`] and [`Error::TooLarge`].
    pub async fn change_push_rules<E>(
        &self,
        user: UserNum,
        user_id: &UserId,
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
                Ok(put(tx, user, &user_id, rules)?)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        push::{Action, NewPushRule, NewSimplePushRule, PredefinedOverrideRuleId, RuleKind},
        room_id, user_id,
    };

    use super::*;
    use crate::users::testing::{alice_and_bob, with_server};

    const MASTER: PredefinedOverrideRuleId = PredefinedOverrideRuleId::Master;

    #[test]
    fn only_what_the_user_changed_is_stored() {
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
                .change_push_rules(alice, id, quiet)
                .await
                .unwrap();
            let content: Content = serde_json::from_str(&stored().unwrap().content).unwrap();
            let ids: Vec<_> = content.global.iter().map(|rule| rule.rule_id()).collect();
            assert_eq!(ids, [MASTER.as_ref(), "!a:b"]);
            let whole = server.users.push_rules(alice, id).unwrap();
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
    fn changes_survive_new_rules_of_the_server_and_rules_that_it_gives_up() {
        let id = user_id!("@alice:example.org");
        let mut old = Ruleset::server_default(id);
        let kind = RuleKind::Underride;
        old.set_actions(kind.clone(), ".m.rule.message", vec![])
            .unwrap();
        let mut given_up = ConditionalPushRule::master();
        given_up.rule_id = ".m.rule.given_up".to_owned();
        old.override_.insert(given_up);
        old.override_.shift_remove(".m.rule.tombstone");
        let stored = text(&Content {
            global: own(old, id),
        });
        let new = with_server_defaults(&stored.unwrap(), id).unwrap();
        let actions = |rules: &Ruleset, rule: &str| {
            let rule = rules.get(kind.clone(), rule).unwrap();
            rule.actions().iter().any(Action::should_notify)
        };
        assert!(!actions(&new, ".m.rule.message"));
        assert!(actions(&new, ".m.rule.call"));
        assert!(new.get(RuleKind::Override, ".m.rule.tombstone").is_some());
        assert!(new.get(RuleKind::Override, ".m.rule.given_up").is_none());
    }
}
