//! Conditions and actions of push rules as the client sent them. ruma's types drop the properties that they do
//! not know of the kinds that they know; what a client stores comes back with them.

use ruma::push::{Action, PushCondition, RuleKind};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

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
