//! Push rules as clients keep them.

use http::Method;
use serde_json::{Value, json};

use crate::{
    home::{Home, Person, refused},
    rooms::{content, done, escaped, next, sync},
};

const RULES: &str = "/_matrix/client/v3/pushrules";

fn path(kind: &str, id: &str) -> String {
    format!("{RULES}/global/{kind}/{}", escaped(id))
}

/// The ids of the user's own rules of this kind, the most important first.
fn own_rules(who: &Person<'_>, kind: &str) -> Vec<String> {
    let all = done(who.get(&format!("{RULES}/")));
    let rules = all["global"][kind].as_array().cloned().unwrap_or_default();
    let own = rules.iter().filter(|rule| rule["default"] == false);
    own.map(|rule| rule["rule_id"].as_str().expect("an id").to_owned())
        .collect()
}

#[test]
fn everybody_has_the_rules_of_the_server() {
    let home = Home::new();
    let alice = home.register("alice");
    let all = done(alice.get(&format!("{RULES}/")));
    let global = done(alice.get(&format!("{RULES}/global/")));
    assert_eq!(all["global"], global);
    let ids: Vec<&Value> = global["override"]
        .as_array()
        .expect("rules")
        .iter()
        .map(|rule| &rule["rule_id"])
        .collect();
    assert_eq!(*ids[0], ".m.rule.master");
    assert!(ids.contains(&&json!(".m.rule.is_user_mention")));
    let first = sync(&alice, None);
    let events = &first["account_data"]["events"];
    assert_eq!(*content(events, "m.push_rules"), all);
    let data = format!(
        "/_matrix/client/v3/user/{}/account_data/m.push_rules",
        alice.user_id
    );
    assert_eq!(done(alice.get(&data)), all);
    refused(&alice.put(&data, all), 405, "M_BAD_JSON");
}

#[test]
fn a_rule_is_made_changed_and_deleted_and_syncs_tell_of_it() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let cake = path("content", "cake");
    let start = sync(&alice, None);
    done(alice.put(
        &cake,
        json!({ "pattern": "cake*lie", "actions": ["notify"] }),
    ));
    let made = json!({
        "rule_id": "cake",
        "pattern": "cake*lie",
        "actions": ["notify"],
        "default": false,
        "enabled": true,
    });
    assert_eq!(done(alice.get(&cake)), made);
    let told = sync(&alice, Some(next(&start)));
    let rules = content(&told["account_data"]["events"], "m.push_rules");
    assert_eq!(rules["global"]["content"], json!([made]));
    assert_eq!(rules["global"]["override"][0]["rule_id"], ".m.rule.master");
    done(alice.put(&format!("{cake}/enabled"), json!({ "enabled": false })));
    done(alice.put(&format!("{cake}/actions"), json!({ "actions": [] })));
    assert_eq!(
        done(alice.get(&format!("{cake}/enabled"))),
        json!({ "enabled": false })
    );
    assert_eq!(
        done(alice.get(&format!("{cake}/actions"))),
        json!({ "actions": [] })
    );
    // Changing the rule leaves it disabled.
    done(alice.put(&cake, json!({ "pattern": "pie", "actions": ["notify"] })));
    assert_eq!(done(alice.get(&cake))["enabled"], false);
    refused(&bob.get(&cake), 404, "M_NOT_FOUND");
    done(alice.delete(&cake, Value::Null));
    refused(&alice.get(&cake), 404, "M_NOT_FOUND");
    refused(&alice.delete(&cake, Value::Null), 404, "M_NOT_FOUND");
}

#[test]
fn a_rule_stands_where_it_is_put() {
    let home = Home::new();
    let alice = home.register("alice");
    let put = |id: &str, query: &str| {
        let body = json!({ "actions": [] });
        alice.put(&format!("{}{query}", path("override", id)), body)
    };
    for id in ["c", "b", "a"] {
        done(put(id, ""));
    }
    assert_eq!(own_rules(&alice, "override"), ["a", "b", "c"]);
    done(put("d", "?after=b"));
    done(put("e", "?before=b"));
    assert_eq!(own_rules(&alice, "override"), ["a", "e", "b", "d", "c"]);
    done(put("c", "?before=a"));
    assert_eq!(own_rules(&alice, "override"), ["c", "a", "e", "b", "d"]);
    done(put("c", "?after=d"));
    assert_eq!(own_rules(&alice, "override"), ["a", "e", "b", "d", "c"]);
    done(put("c", ""));
    done(put("a", "?before=b&after=e"));
    assert_eq!(own_rules(&alice, "override"), ["e", "a", "b", "d", "c"]);
    for query in ["?after=a", "?before=a", "?before=e&after=c"] {
        refused(&put("a", query), 400, "M_UNKNOWN");
    }
    assert_eq!(own_rules(&alice, "override"), ["e", "a", "b", "d", "c"]);
    refused(&put("f", "?before=nothing"), 400, "M_UNKNOWN");
    refused(&put("f", "?after=nothing"), 400, "M_UNKNOWN");
    refused(&put("f", "?after=.m.rule.master"), 400, "M_INVALID_PARAM");
}

#[test]
fn a_rule_that_is_moved_stays_disabled() {
    let home = Home::new();
    let alice = home.register("alice");
    let rule = json!({ "pattern": "cake", "actions": [] });
    for id in ["cake", "pie"] {
        done(alice.put(&path("content", id), rule.clone()));
    }
    let enabled = format!("{}/enabled", path("content", "cake"));
    done(alice.put(&enabled, json!({ "enabled": false })));
    for (query, order) in [
        ("?before=pie", ["cake", "pie"]),
        ("?after=pie", ["pie", "cake"]),
    ] {
        let path = format!("{}{query}", path("content", "cake"));
        done(alice.put(&path, rule.clone()));
        assert_eq!(own_rules(&alice, "content"), order);
        assert_eq!(done(alice.get(&enabled)), json!({ "enabled": false }));
    }
}

#[test]
fn patterns_that_take_long_are_few_and_short() {
    let home = Home::new();
    let alice = home.register("alice");
    let content = |pattern: &str| json!({ "pattern": pattern, "actions": [] });
    let put = |kind, id: &str, rule| alice.put(&path(kind, id), rule);
    let long = "?".repeat(256);
    refused(&put("content", "a", content(&long)), 400, "M_INVALID_PARAM");
    let condition = json!({ "kind": "event_match", "key": "content.body", "pattern": long });
    let rule = json!({ "conditions": [condition], "actions": [] });
    refused(&put("override", "a", rule), 400, "M_INVALID_PARAM");
    for number in 0..50 {
        done(put("content", &number.to_string(), content("c?ke")));
    }
    refused(&put("content", "more", content("c*e")), 400, "M_UNKNOWN");
    done(put("content", "more", content("cake")));
}

#[test]
fn rules_that_cannot_be_are_refused() {
    let home = Home::new();
    let alice = home.register("alice");
    let body = json!({ "pattern": "x", "conditions": [], "actions": [] });
    for id in [".mine", "a\\b", "a/b"] {
        refused(
            &alice.put(&path("override", id), body.clone()),
            400,
            "M_INVALID_PARAM",
        );
    }
    for (kind, id) in [
        ("room", "cake"),
        ("sender", "cake"),
        ("sideride", "cake"),
        ("content", "cake"),
    ] {
        let (status, answer) = alice.put(&path(kind, id), json!({ "actions": [] }));
        assert_eq!(status, 400, "{kind}: {answer}");
    }
    refused(&alice.get(&path("sideride", "cake")), 404, "M_NOT_FOUND");
    for (method, part, body) in [
        (Method::PUT, "/enabled", json!({ "enabled": true })),
        (Method::PUT, "/actions", json!({ "actions": [] })),
        (Method::GET, "/enabled", Value::Null),
        (Method::GET, "/actions", Value::Null),
    ] {
        let path = format!("{}{part}", path("content", "cake"));
        refused(&alice.ask(method, &path, body), 404, "M_NOT_FOUND");
    }
}

#[test]
fn a_rule_of_the_server_is_changed_but_not_deleted() {
    let home = Home::new();
    let alice = home.register("alice");
    let message = path("underride", ".m.rule.message");
    done(alice.put(&format!("{message}/enabled"), json!({ "enabled": false })));
    let changed = done(alice.get(&message));
    assert_eq!(
        (&changed["enabled"], &changed["default"]),
        (&json!(false), &json!(true))
    );
    refused(&alice.delete(&message, Value::Null), 400, "M_INVALID_PARAM");
}

#[test]
fn nobody_has_rules_without_end() {
    let home = Home::new();
    let alice = home.register("alice");
    let long = "x".repeat(20_000);
    let rule = json!({ "pattern": long, "actions": [] });
    let answers: Vec<_> = (0..4)
        .map(|n| alice.put(&path("content", &n.to_string()), rule.clone()))
        .collect();
    assert!(answers[..3].iter().all(|(status, _)| *status == 200));
    refused(&answers[3], 413, "M_TOO_LARGE");
}
