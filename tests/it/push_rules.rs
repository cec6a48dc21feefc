//! Push rules.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{content_of, create_room_with, next_batch, percent_encode, send_event, sync},
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const RULES: &str = "/_matrix/client/v3/pushrules";

fn path(kind: &str, id: &str) -> String {
    format!("{RULES}/global/{kind}/{}", percent_encode(id))
}

/// The ids of the user's own rules of this kind, in order of priority.
fn own_rules(user: &TestUser<'_>, kind: &str) -> Vec<String> {
    let all = expect_ok(user.get(&format!("{RULES}/")));
    let rules = all["global"][kind].as_array().cloned().unwrap_or_default();
    let own = rules.iter().filter(|rule| rule["default"] == false);
    own.map(|rule| rule["rule_id"].as_str().expect("an id").to_owned())
        .collect()
}

#[test]
fn default_push_rules_are_returned_and_synced() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let all = expect_ok(alice.get(&format!("{RULES}/")));
    let global = expect_ok(alice.get(&format!("{RULES}/global/")));
    assert_eq!(all["global"], global);
    for kind in ["override", "content", "room", "sender", "underride"] {
        assert!(global[kind].is_array(), "{kind}: {global}");
    }
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
    assert_eq!(*content_of(events, "m.push_rules"), all);
    let data = format!(
        "/_matrix/client/v3/user/{}/account_data/m.push_rules",
        alice.user_id
    );
    assert_eq!(expect_ok(alice.get(&data)), all);
    expect_error(&alice.put(&data, all), 405, "M_BAD_JSON");
}

#[test]
fn push_rule_is_created_changed_deleted_and_synced() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let cake = path("content", "cake");
    let before = sync(&alice, None);
    expect_ok(alice.put(
        &cake,
        json!({ "pattern": "cake*lie", "actions": ["notify"] }),
    ));
    let expected = json!({
        "rule_id": "cake",
        "pattern": "cake*lie",
        "actions": ["notify"],
        "default": false,
        "enabled": true,
    });
    assert_eq!(expect_ok(alice.get(&cake)), expected);
    let synced = sync(&alice, Some(next_batch(&before)));
    let rules = content_of(&synced["account_data"]["events"], "m.push_rules");
    assert_eq!(rules["global"]["content"], json!([expected]));
    assert_eq!(rules["global"]["override"][0]["rule_id"], ".m.rule.master");
    expect_ok(alice.put(&format!("{cake}/enabled"), json!({ "enabled": false })));
    expect_ok(alice.put(&format!("{cake}/actions"), json!({ "actions": [] })));
    assert_eq!(
        expect_ok(alice.get(&format!("{cake}/enabled"))),
        json!({ "enabled": false })
    );
    assert_eq!(
        expect_ok(alice.get(&format!("{cake}/actions"))),
        json!({ "actions": [] })
    );
    // Changing the rule leaves it disabled.
    expect_ok(alice.put(&cake, json!({ "pattern": "pie", "actions": ["notify"] })));
    assert_eq!(expect_ok(alice.get(&cake))["enabled"], false);
    expect_error(&bob.get(&cake), 404, "M_NOT_FOUND");
    expect_ok(alice.delete(&cake, Value::Null));
    expect_error(&alice.get(&cake), 404, "M_NOT_FOUND");
    expect_error(&alice.delete(&cake, Value::Null), 404, "M_NOT_FOUND");
}

#[test]
fn before_and_after_order_push_rules() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let put = |id: &str, query: &str| {
        let body = json!({ "actions": [] });
        alice.put(&format!("{}{query}", path("override", id)), body)
    };
    for id in ["c", "b", "a"] {
        expect_ok(put(id, ""));
    }
    assert_eq!(own_rules(&alice, "override"), ["a", "b", "c"]);
    expect_ok(put("d", "?after=b"));
    expect_ok(put("e", "?before=b"));
    assert_eq!(own_rules(&alice, "override"), ["a", "e", "b", "d", "c"]);
    expect_ok(put("c", "?before=a"));
    assert_eq!(own_rules(&alice, "override"), ["c", "a", "e", "b", "d"]);
    expect_ok(put("c", "?after=d"));
    assert_eq!(own_rules(&alice, "override"), ["a", "e", "b", "d", "c"]);
    expect_ok(put("c", ""));
    expect_ok(put("a", "?before=b&after=e"));
    assert_eq!(own_rules(&alice, "override"), ["e", "a", "b", "d", "c"]);
    for query in ["?after=a", "?before=a", "?before=e&after=c"] {
        expect_error(&put("a", query), 400, "M_UNKNOWN");
    }
    assert_eq!(own_rules(&alice, "override"), ["e", "a", "b", "d", "c"]);
    expect_error(&put("f", "?before=nothing"), 400, "M_UNKNOWN");
    expect_error(&put("f", "?after=nothing"), 400, "M_UNKNOWN");
    expect_error(&put("f", "?after=.m.rule.master"), 400, "M_INVALID_PARAM");
}

#[test]
fn reordered_push_rule_stays_disabled() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let rule = json!({ "pattern": "cake", "actions": [] });
    for id in ["cake", "pie"] {
        expect_ok(alice.put(&path("content", id), rule.clone()));
    }
    let enabled = format!("{}/enabled", path("content", "cake"));
    expect_ok(alice.put(&enabled, json!({ "enabled": false })));
    for (query, order) in [
        ("?before=pie", ["cake", "pie"]),
        ("?after=pie", ["pie", "cake"]),
    ] {
        let path = format!("{}{query}", path("content", "cake"));
        expect_ok(alice.put(&path, rule.clone()));
        assert_eq!(own_rules(&alice, "content"), order);
        assert_eq!(expect_ok(alice.get(&enabled)), json!({ "enabled": false }));
    }
}

#[test]
fn glob_patterns_are_limited_in_number_and_length() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let content_rule = |pattern: &str| json!({ "pattern": pattern, "actions": [] });
    let put = |kind, id: &str, rule| alice.put(&path(kind, id), rule);
    let long = "?".repeat(256);
    expect_error(
        &put("content", "a", content_rule(&long)),
        400,
        "M_INVALID_PARAM",
    );
    let condition = json!({ "kind": "event_match", "key": "content.body", "pattern": long });
    let rule = json!({ "conditions": [condition], "actions": [] });
    expect_error(&put("override", "a", rule), 400, "M_INVALID_PARAM");
    for number in 0..50 {
        expect_ok(put("content", &number.to_string(), content_rule("c?ke")));
    }
    expect_error(
        &put("content", "more", content_rule("c*e")),
        400,
        "M_UNKNOWN",
    );
    expect_ok(put("content", "more", content_rule("cake")));
}

#[test]
fn invalid_push_rules_are_rejected() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let body = json!({ "pattern": "x", "conditions": [], "actions": [] });
    for id in [".mine", "a\\b", "a/b"] {
        expect_error(
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
        let (status, response) = alice.put(&path(kind, id), json!({ "actions": [] }));
        assert_eq!(status, 400, "{kind}: {response}");
    }
    expect_error(&alice.get(&path("sideride", "cake")), 404, "M_NOT_FOUND");
    for (method, part, body) in [
        (Method::PUT, "/enabled", json!({ "enabled": true })),
        (Method::PUT, "/actions", json!({ "actions": [] })),
        (Method::GET, "/enabled", Value::Null),
        (Method::GET, "/actions", Value::Null),
    ] {
        let path = format!("{}{part}", path("content", "cake"));
        expect_error(&alice.request(method, &path, body), 404, "M_NOT_FOUND");
    }
}

#[test]
fn default_push_rule_can_be_changed_but_not_deleted() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let message = path("underride", ".m.rule.message");
    expect_ok(alice.put(&format!("{message}/enabled"), json!({ "enabled": false })));
    let changed = expect_ok(alice.get(&message));
    assert_eq!(
        (&changed["enabled"], &changed["default"]),
        (&json!(false), &json!(true))
    );
    expect_error(&alice.delete(&message, Value::Null), 400, "M_INVALID_PARAM");
}

#[test]
fn push_rules_are_limited_in_total_size() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let long = "x".repeat(20_000);
    let rule = json!({ "pattern": long, "actions": [] });
    let responses: Vec<_> = (0..4)
        .map(|n| alice.put(&path("content", &n.to_string()), rule.clone()))
        .collect();
    assert!(responses[..3].iter().all(|(status, _)| *status == 200));
    expect_error(&responses[3], 413, "M_TOO_LARGE");
}

#[test]
fn conditions_and_actions_come_back_as_the_client_sent_them() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let custom = path("override", "custom");
    let conditions = json!([
        { "kind": "event_match", "key": "type", "pattern": "m.room.*", "org.example.note": [1] },
        { "kind": "room_member_count", "is": "==2", "org.example.label": "two" },
        { "kind": "org.example.moon", "phase": "full" },
        { "kind": "event_match" },
        { "kind": "room_member_count", "is": 2 },
    ]);
    let actions = json!([
        "notify",
        { "set_tweak": "sound", "value": "ring", "org.example.volume": 3 },
        { "set_tweak": "highlight", "value": true },
        { "set_tweak": "org.example.tweak", "value": { "a": 1 }, "b": 2 },
        { "org.example.action": { "c": 3 } },
        { "set_tweak": "sound" },
    ]);
    let body = json!({ "conditions": conditions, "actions": actions });
    expect_ok(alice.put(&custom, body));
    let is_as_sent = |rule: &Value, actions: &Value| {
        assert_eq!(rule["conditions"], conditions);
        assert_eq!(rule["actions"], *actions);
    };
    is_as_sent(&expect_ok(alice.get(&custom)), &actions);
    let synced = sync(&alice, None);
    let rules = content_of(&synced["account_data"]["events"], "m.push_rules");
    is_as_sent(&rules["global"]["override"][1], &actions);
    is_as_sent(
        &expect_ok(alice.get(&format!("{RULES}/global/")))["override"][1],
        &actions,
    );
    // A change of other rules and parts of the rule leaves it as it was.
    expect_ok(alice.put(&path("room", "!a:b"), json!({ "actions": [] })));
    expect_ok(alice.put(&format!("{custom}/enabled"), json!({ "enabled": false })));
    is_as_sent(&expect_ok(alice.get(&custom)), &actions);
    let actions = json!([{ "set_tweak": "sound", "value": "ring" }]);
    expect_ok(alice.put(&format!("{custom}/actions"), json!({ "actions": actions })));
    is_as_sent(&expect_ok(alice.get(&custom)), &actions);
    let louder = json!([{ "set_tweak": "sound", "value": "ring", "org.example.volume": 9 }]);
    let quieter = json!([{ "set_tweak": "sound", "value": "ring" }]);
    let master = path("override", ".m.rule.master");
    for actions in [louder, quieter] {
        let body = json!({ "actions": actions });
        for rule in [&custom, &master] {
            expect_ok(alice.put(&format!("{rule}/actions"), body.clone()));
            let path = format!("{rule}/actions");
            assert_eq!(expect_ok(alice.get(&path)), body);
        }
    }
}

/// The ids of the default rules of this kind, in order.
fn default_rules(user: &TestUser<'_>, kind: &str) -> Vec<String> {
    let all = expect_ok(user.get(&format!("{RULES}/")));
    let rules = all["global"][kind].as_array().cloned().unwrap_or_default();
    let defaults = rules.iter().filter(|rule| rule["default"] == true);
    let ids = defaults.map(|rule| rule["rule_id"].as_str().expect("an id").to_owned());
    ids.collect()
}

#[test]
fn the_default_rules_are_those_of_the_specification_and_of_polls() {
    let server = TestServer::new();
    let alice = server.register("alice");
    // Source: client-server API, "Predefined Rules"; MSC3930.
    let overrides = [
        ".m.rule.master",
        ".m.rule.suppress_notices",
        ".m.rule.invite_for_me",
        ".m.rule.member_event",
        ".m.rule.is_user_mention",
        ".m.rule.is_room_mention",
        ".m.rule.tombstone",
        ".m.rule.reaction",
        ".m.rule.room.server_acl",
        ".m.rule.suppress_edits",
        ".org.matrix.msc3930.rule.poll_response",
    ];
    assert_eq!(default_rules(&alice, "override"), overrides);
    let underrides = [
        ".m.rule.call",
        ".m.rule.encrypted_room_one_to_one",
        ".m.rule.room_one_to_one",
        ".m.rule.message",
        ".m.rule.encrypted",
        ".org.matrix.msc3930.rule.poll_start_one_to_one",
        ".org.matrix.msc3930.rule.poll_start",
        ".org.matrix.msc3930.rule.poll_end_one_to_one",
        ".org.matrix.msc3930.rule.poll_end",
    ];
    assert_eq!(default_rules(&alice, "underride"), underrides);
}

#[test]
fn polls_notify_when_they_start_and_end_and_their_answers_do_not() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    for event in ["start", "response", "end"] {
        let kind = format!("org.matrix.msc3381.poll.{event}");
        send_event(&alice, &room, &kind, json!({}));
    }
    let listed = expect_ok(bob.get("/_matrix/client/v3/notifications"));
    let listed = listed["notifications"].as_array().expect("a list");
    let kinds: Vec<_> = listed
        .iter()
        .map(|notification| (&notification["event"]["type"], &notification["actions"]))
        .collect();
    // As in every room of two.
    let actions = json!(["notify", { "set_tweak": "sound", "value": "default" }]);
    assert_eq!(
        kinds,
        [
            (&json!("org.matrix.msc3381.poll.end"), &actions),
            (&json!("org.matrix.msc3381.poll.start"), &actions),
        ]
    );
}
