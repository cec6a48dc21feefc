//! Conditions and actions of push rules as the client sent them. ruma's types drop the properties that they do
//! not know of the kinds that they know; what a client stores comes back with them.

use ruma::push::{Action, PushCondition, RuleKind};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

const SET_TWEAK: &str = "set_tweak";
/// What [`make_readable`] puts before the kind of a condition, and the name of a tweak.
const UNREADABLE: &str = "org.hearth.unreadable.";
const UNREADABLE_TWEAK: &str = "org.hearth.unreadable.set_tweak";

/// A ruleset of this one rule, of whose definition a client sent these fields.
pub fn ruleset(kind: &RuleKind, id: &str, sent: &Map<String, Value>) -> Value {
    let fields = ["conditions", "actions"].map(|field| (field, sent.get(field)));
    let mut rule = json!({ "rule_id": id });
    for (field, value) in fields {
        if let Some(value) = value {
            rule[field] = value.clone();
        }
    }
    json!({ kind.as_str(): [rule] })
}

/// Renames the kinds of conditions and tweaks that ruma refuses, such as `event_match` without `key`, in the
/// definition of a rule, so that it reads them as unknown ones: the condition never matches, and the tweak does
/// nothing. NOTSPEC: Synapse stores them too.
pub fn make_readable(definition: &mut Map<String, Value>) {
    for condition in list(definition.get_mut("conditions")) {
        if PushCondition::deserialize(&*condition).is_err()
            && let Some(Value::String(kind)) = condition.get_mut("kind")
        {
            kind.insert_str(0, UNREADABLE);
        }
    }
    for action in list(definition.get_mut("actions")) {
        if Action::deserialize(&*action).is_err() {
            rename(action, SET_TWEAK, UNREADABLE_TWEAK);
        }
    }
}

/// Undoes [`make_readable`] in a ruleset.
pub fn undo_make_readable(rules: &mut Value) {
    let kinds = rules.as_object_mut().into_iter().flatten();
    for rule in kinds.flat_map(|(_, rules)| list(Some(rules))) {
        for condition in list(rule.get_mut("conditions")) {
            if let Some(Value::String(kind)) = condition.get_mut("kind")
                && let Some(sent) = kind.strip_prefix(UNREADABLE)
            {
                *kind = sent.to_owned();
            }
        }
        for action in list(rule.get_mut("actions")) {
            rename(action, UNREADABLE_TWEAK, SET_TWEAK);
        }
    }
}

fn list(value: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    value.and_then(Value::as_array_mut).into_iter().flatten()
}

fn rename(object: &mut Value, from: &str, to: &str) {
    if let Some(object) = object.as_object_mut()
        && let Some(value) = object.remove(from)
    {
        object.insert(to.to_owned(), value);
    }
}

/// Replaces in `rules` the conditions and actions of each rule by those of the first of `sent` that has that
/// rule, if they mean the same. All are rulesets.
pub fn restore(rules: &mut Value, sent: &[&Value]) {
    for (kind, rules) in rules.as_object_mut().into_iter().flatten() {
        for rule in rules.as_array_mut().into_iter().flatten() {
            restore_field::<PushCondition>(rule, kind, "conditions", sent);
            restore_field::<Action>(rule, kind, "actions", sent);
        }
    }
}

/// The rule `id` of a ruleset.
fn find<'a>(rules: &'a Value, kind: &str, id: &Value) -> Option<&'a Value> {
    let mut rules = rules.get(kind)?.as_array()?.iter();
    rules.find(|rule| rule.get("rule_id") == Some(id))
}

fn restore_field<T: DeserializeOwned + Serialize>(
    rule: &mut Value,
    kind: &str,
    field: &str,
    sent: &[&Value],
) {
    let id = rule["rule_id"].clone();
    let of_rule = |sent: &&Value| find(sent, kind, &id)?.get(field).cloned();
    let means_the_same = |sent: &Value| {
        let parsed = serde_json::from_value::<Vec<T>>(sent.clone()).ok();
        parsed
            .and_then(|parsed| serde_json::to_value(parsed).ok())
            .as_ref()
            == rule.get(field)
    };
    if let Some(sent) = sent.iter().find_map(of_rule).filter(means_the_same) {
        rule[field] = sent;
    }
}
