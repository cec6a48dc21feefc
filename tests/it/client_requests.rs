//! What clients really send and expect, beyond the text of the specification.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room, create_room_with, join, latest_event_id, leave, percent_encode, room_path,
        send_text, sync,
    },
    test_server::{PASSWORD, TestServer, TestUser, expect_error, expect_ok, parse},
};

fn own_path(user: &TestUser<'_>, tail: &str) -> String {
    let id = percent_encode(user.user_id.as_str());
    format!("/_matrix/client/v3/user/{id}/{tail}")
}

#[test]
fn arguments_without_a_value_count_as_absent() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    for path in [
        room_path(&room, "messages?from=&to=&dir=b&limit=&filter="),
        room_path(&room, "members?at=&membership=&not_membership="),
        "/_matrix/client/v3/sync?since=&filter=&timeout=&full_state=&set_presence=".to_owned(),
        "/_matrix/client/v3/publicRooms?since=&server=&limit=".to_owned(),
        "/_matrix/client/v3/notifications?from=&limit=&only=".to_owned(),
    ] {
        expect_ok(alice.get(&path));
    }
    let response = alice.get(&room_path(&room, "messages?dir="));
    expect_error(&response, 400, "M_MISSING_PARAM");
}

#[test]
fn an_access_token_may_follow_several_spaces() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let request = Request::get("/_matrix/client/v3/account/whoami")
        .header("authorization", format!("Bearer   {}", alice.token))
        .body(Vec::new());
    let responses = server.respond_all(vec![request.expect("a valid request")]);
    assert_eq!(expect_ok(parse(&responses[0]))["user_id"], alice.user_id);
}

#[test]
fn a_request_that_means_something_else_with_an_unsupported_argument_is_refused_and_does_nothing() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let before = latest_event_id(&alice, &room);
    let content = || json!({ "body": "x", "msgtype": "m.text" });
    for argument in [
        "org.matrix.msc4140.delay=1000",
        "org.matrix.msc4140.parent_delay_id=1",
        "org.matrix.msc4140%2Edelay=1000",
        "org.matrix.msc4354.sticky_duration_ms=1000",
    ] {
        for path in [
            "send/m.room.message/1",
            "state/org.example/key",
            "state/org.example",
        ] {
            let path = room_path(&room, &format!("{path}?{argument}"));
            expect_error(&alice.put(&path, content()), 400, "M_UNRECOGNIZED");
        }
    }
    let target = json!({ "user_id": "@bob:localhost", "org.matrix.msc4293.redact_events": true });
    for action in ["ban", "kick"] {
        let response = alice.post(&room_path(&room, action), target.clone());
        expect_error(&response, 400, "M_UNRECOGNIZED");
    }
    let redact = format!("redact/{}/1", percent_encode(&before));
    let relations = json!({ "org.matrix.msc3912.with_relations": ["m.replace"] });
    let response = alice.put(&room_path(&room, &redact), relations);
    expect_error(&response, 400, "M_UNRECOGNIZED");
    assert_eq!(latest_event_id(&alice, &room), before);
    let name = format!(
        "/_matrix/client/v3/profile/{}/displayname?computer.gingershaped.msc4466.propagate_to=none",
        percent_encode(&alice.user_id)
    );
    let response = alice.put(&name, json!({ "displayname": "A" }));
    expect_error(&response, 400, "M_UNRECOGNIZED");
    let versions = expect_ok(server.get("/_matrix/client/versions")).to_string();
    let capabilities = expect_ok(alice.get("/_matrix/client/v3/capabilities")).to_string();
    for feature in ["msc4140", "msc4354", "msc4466", "msc4293", "msc3912"] {
        assert!(
            !(versions.clone() + &capabilities).contains(feature),
            "{feature}"
        );
    }
}

#[test]
fn what_a_client_stores_comes_back_with_properties_that_the_server_does_not_know() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let filter = json!({
        "room": { "timeline": { "limit": 5, "org.example.a": 1 } },
        "org.example.b": [2],
    });
    let id = expect_ok(alice.post(&own_path(&alice, "filter"), filter.clone()));
    let id = id["filter_id"].as_str().unwrap();
    let stored = alice.get(&own_path(&alice, &format!("filter/{id}")));
    assert_eq!(expect_ok(stored), filter);

    let tags = format!("rooms/{}/tags", percent_encode(&room));
    let tag = json!({ "order": 0.5, "org.example.bridge": { "a": 1 } });
    expect_ok(alice.put(&own_path(&alice, &format!("{tags}/u.x")), tag.clone()));
    let stored = expect_ok(alice.get(&own_path(&alice, &tags)));
    assert_eq!(stored, json!({ "tags": { "u.x": tag } }));

    let event = send_text(&alice, &room, "to be redacted");
    let redact = room_path(&room, &format!("redact/{}/1", percent_encode(&event)));
    let body = json!({ "reason": "r", "org.example.c": 3 });
    expect_ok(alice.put(&redact, body));
    let page = expect_ok(alice.get(&room_path(&room, "messages?dir=b&limit=1")));
    let expected = json!({ "reason": "r", "org.example.c": 3, "redacts": event });
    assert_eq!(page["chunk"][0]["content"], expected);
}

#[test]
fn a_filter_that_does_not_parse_is_a_bad_request() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for filter in [r#"{"room":"#, r#"{"room":{"timeline":{"limit":"x"}}}"#] {
        let path = format!("/_matrix/client/v3/sync?filter={}", percent_encode(filter));
        expect_error(&alice.get(&path), 400, "M_INVALID_PARAM");
    }
    let unknown = alice.get("/_matrix/client/v3/sync?filter=77");
    expect_error(&unknown, 400, "M_INVALID_PARAM");
}

#[test]
fn typing_needs_no_timeout() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    join(&bob, &room);
    let path = room_path(
        &room,
        &format!("typing/{}", percent_encode(alice.user_id.as_str())),
    );
    expect_ok(alice.put(&path, json!({ "typing": true })));
    let joined = &sync(&bob, None)["rooms"]["join"][&room];
    let typing = json!([{ "type": "m.typing", "content": { "user_ids": [alice.user_id] } }]);
    assert_eq!(joined["ephemeral"]["events"], typing);
}

#[test]
fn defaults_are_said_and_absent_values_are_left_out() {
    let server = TestServer::new();
    let body = json!({
        "username": "carol", "password": PASSWORD, "inhibit_login": true,
        "auth": { "type": "m.login.dummy" },
    });
    let registered = expect_ok(server.post("/_matrix/client/v3/register", body));
    assert_eq!(registered, json!({ "user_id": "@carol:localhost" }));

    let alice = server.register("alice");
    let devices = expect_ok(alice.get("/_matrix/client/v3/devices"));
    let device = devices["devices"][0].as_object().unwrap();
    assert!(device.values().all(|value| !value.is_null()), "{device:?}");
    let path = format!(
        "/_matrix/client/v3/devices/{}",
        device["device_id"].as_str().unwrap()
    );
    let device = expect_ok(alice.get(&path));
    assert!(device.get("display_name").is_none(), "{device}");

    let capabilities = expect_ok(alice.get("/_matrix/client/v3/capabilities"));
    for (name, enabled) in [
        ("m.change_password", true),
        ("m.set_displayname", true),
        ("m.set_avatar_url", true),
        ("m.3pid_changes", false),
    ] {
        let capability = &capabilities["capabilities"][name];
        assert_eq!(*capability, json!({ "enabled": enabled }), "{name}");
    }

    let room = create_room(&alice, json!({ "visibility": "public" }));
    let directory = expect_ok(server.get("/_matrix/client/v3/publicRooms"));
    assert_eq!(directory["chunk"][0]["join_rule"], "public");
    let search = expect_ok(alice.post("/_matrix/client/v3/publicRooms", json!({})));
    assert_eq!(search["chunk"][0]["join_rule"], "public");
    let room_id = percent_encode(&room);
    let summary = alice.get(&format!("/_matrix/client/v1/room_summary/{room_id}"));
    assert_eq!(expect_ok(summary)["join_rule"], "public");
    let hierarchy = alice.get(&format!("/_matrix/client/v1/rooms/{room_id}/hierarchy"));
    assert_eq!(expect_ok(hierarchy)["rooms"][0]["join_rule"], "public");

    let synced = sync(&alice, None);
    assert_eq!(synced["rooms"]["join"][&room]["timeline"]["limited"], false);
}

#[test]
fn what_is_asked_of_every_server_has_an_answer() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    for (path, expected) in [
        ("pushers", json!({ "pushers": [] })),
        ("notifications", json!({ "notifications": [] })),
        ("thirdparty/protocols", json!({})),
        ("voip/turnServer", json!({})),
    ] {
        let answer = alice.get(&format!("/_matrix/client/v3/{path}"));
        assert_eq!(answer, (200, expected), "{path}");
    }
    let room = create_room_with(&[&alice]);
    send_text(&alice, &room, "hello");
    let initial = expect_ok(alice.get(&room_path(&room, "initialSync")));
    assert_eq!(initial["membership"], "join");
    assert_eq!(
        initial["messages"]["chunk"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()["content"]["body"],
        "hello"
    );
    let page = initial["messages"].as_object().expect("a page");
    assert!(
        page["end"].is_string() && !page.contains_key("start"),
        "{page:?}"
    );
    let outsider = bob.get(&room_path(&room, "initialSync"));
    expect_error(&outsider, 403, "M_FORBIDDEN");
}

#[test]
fn users_are_found_who_share_a_room_or_are_in_a_public_one() {
    let server = TestServer::new();
    let [alice, bob, carol, dave, erin] =
        ["alice", "bob", "carol", "dave", "erin"].map(|name| server.register(name));
    let shared = create_room_with(&[&alice]);
    join(&bob, &shared);
    // It is not listed in the directory.
    create_room(&carol, json!({ "preset": "public_chat" }));
    create_room(&dave, json!({}));
    create_room(
        &erin,
        json!({ "initial_state": [{
            "type": "m.room.history_visibility",
            "content": { "history_visibility": "world_readable" },
        }] }),
    );
    let path = format!("/_matrix/client/v3/profile/{}/displayname", bob.user_id);
    expect_ok(bob.put(&path, json!({ "displayname": "Robert Ross" })));
    let search = |term: &str, limit: usize| {
        let body = json!({ "search_term": term, "limit": limit });
        expect_ok(alice.post("/_matrix/client/v3/user_directory/search", body))
    };
    server.wait_until(async || search("ROSS", 10)["results"][0]["user_id"] == bob.user_id.as_str());
    for public in ["carol", "erin"] {
        assert_eq!(search(public, 10)["results"][0]["display_name"], public);
    }
    assert_eq!(
        search("@bob:loc", 10)["results"].as_array().unwrap().len(),
        1
    );
    assert_eq!(
        search("dave", 10),
        json!({ "results": [], "limited": false })
    );
    for everybody in ["", " ", "@"] {
        assert_eq!(search(everybody, 10)["results"], json!([]));
    }
    // Who has left one room is found by another one.
    let second = create_room_with(&[&alice]);
    join(&bob, &second);
    leave(&bob, &shared);
    let found = search("@bob:loc", 10)["results"].clone();
    assert_eq!(found.as_array().unwrap().len(), 1);
    let limited = search("localhost", 1);
    assert_eq!(limited["results"].as_array().unwrap().len(), 1);
    assert_eq!(limited["limited"], true);
}

#[test]
fn all_users_of_the_server_are_found_only_if_the_settings_say_so_the_best_matches_first() {
    for (scope, expected) in [
        ("shared", vec!["@annabel:localhost"]),
        (
            "local",
            vec![
                "@ann:localhost",
                "@annabel:localhost",
                "@anna:localhost",
                "@bob:localhost",
                "@joann:localhost",
            ],
        ),
    ] {
        let server = TestServer::with(&format!(
            "registration = \"open\"\nuser_directory = \"{scope}\""
        ));
        let admin = server.register("admin");
        let [joann, bob, _, annabel, ann] =
            ["joann", "bob", "anna", "annabel", "ann"].map(|name| server.register(name));
        let gone = server.register("ann.gone");
        let locked = server.register("ann.locked");
        expect_ok(gone.request_with_password(
            Method::POST,
            "/_matrix/client/v3/account/deactivate",
            json!({}),
        ));
        let lock = format!("/_matrix/client/v1/admin/lock/{}", locked.user_id);
        expect_ok(admin.put(&lock, json!({ "locked": true })));
        let name = format!("/_matrix/client/v3/profile/{}/displayname", bob.user_id);
        expect_ok(bob.put(&name, json!({ "displayname": "Robert Annan" })));
        let room = create_room_with(&[&admin]);
        join(&annabel, &room);
        let search = |limit: usize| {
            let body = json!({ "search_term": "Ann", "limit": limit });
            expect_ok(admin.post("/_matrix/client/v3/user_directory/search", body))
        };
        let found = search(10);
        let ids = found["results"].as_array().unwrap().iter();
        let ids: Vec<_> = ids.map(|user| user["user_id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected);
        assert_eq!(found["limited"], false);
        assert_eq!(search(1)["limited"], expected.len() > 1);
        assert!(
            !ids.contains(&gone.user_id.as_str()) && joann.is_logged_in() && ann.is_logged_in()
        );
    }
}

#[test]
fn an_event_that_one_may_not_see_is_not_found() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    let event = send_text(&alice, &room, "private");
    let path = room_path(&room, &format!("event/{}", percent_encode(&event)));
    expect_error(&bob.get(&path), 404, "M_NOT_FOUND");
    expect_ok(alice.get(&path));
    for tail in [
        "event/junk",
        "context/junk",
        "relations/junk",
        "relations/junk/m.thread",
    ] {
        let path = room_path(&room, tail);
        let path = match tail.starts_with("relations") {
            true => path.replace("/v3/", "/v1/"),
            false => path,
        };
        expect_error(&alice.get(&path), 404, "M_NOT_FOUND");
    }
}

#[test]
fn a_room_with_nothing_new_but_typing_is_sent_with_an_empty_timeline() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let since = sync(&alice, None);
    let typing = room_path(&room, &format!("typing/{}", percent_encode(&alice.user_id)));
    expect_ok(alice.put(&typing, json!({ "typing": true, "timeout": 9000 })));
    let response = sync(&alice, since["next_batch"].as_str());
    let joined = &response["rooms"]["join"][&room];
    assert_eq!(joined["ephemeral"]["events"][0]["type"], "m.typing");
    assert_eq!(
        joined["timeline"],
        json!({ "limited": false, "events": [] })
    );
}

#[test]
fn a_redaction_may_be_sent_as_any_other_event_in_all_room_versions() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let other = create_room_with(&[&alice]);
    let elsewhere = send_text(&alice, &other, "elsewhere");
    for version in ["3", "9", "10", "11", "12"] {
        let room = create_room(&alice, json!({ "room_version": version }));
        let target = send_text(&alice, &room, "x");
        let send = |id: &str, content: Value| {
            let path = format!("send/m.room.redaction/{id}");
            alice.put(&room_path(&room, &path), content)
        };
        let content = json!({ "redacts": target, "reason": "r", "x.k": 1 });
        let id = expect_ok(send("1", content.clone()))["event_id"].clone();
        assert_eq!(expect_ok(send("1", content))["event_id"], id, "idempotent");
        let path = |id: &str| room_path(&room, &format!("event/{}", percent_encode(id)));
        let redacted = expect_ok(alice.get(&path(&target)));
        assert_eq!(redacted["content"], json!({}), "{version}");
        assert_eq!(redacted["unsigned"]["redacted_because"]["event_id"], id);
        let redaction = expect_ok(alice.get(&path(id.as_str().unwrap())));
        assert_eq!(redaction["redacts"], json!(target));
        assert_eq!(redaction["content"]["x.k"], 1);

        let unknown = format!("${}", "Y".repeat(43));
        expect_ok(send("2", json!({ "redacts": unknown })));
        let create = expect_ok(alice.get(&room_path(&room, "state")));
        let create = create.as_array().unwrap().iter();
        let create = create
            .clone()
            .find(|event| event["type"] == "m.room.create")
            .unwrap();
        for (status, errcode, content) in [
            (400, "M_MISSING_PARAM", json!({})),
            (400, "M_INVALID_PARAM", json!({ "redacts": 7 })),
            (400, "M_INVALID_PARAM", json!({ "redacts": elsewhere })),
            (403, "M_FORBIDDEN", json!({ "redacts": create["event_id"] })),
        ] {
            expect_error(&send("3", content), status, errcode);
        }
        let path = format!("redact/{}/4", percent_encode(&target));
        let contradiction = alice.put(&room_path(&room, &path), json!({ "redacts": unknown }));
        expect_error(&contradiction, 400, "M_INVALID_PARAM");
    }
}

#[test]
fn redaction_of_an_event_that_is_not_here_is_accepted_and_withheld_and_of_another_room_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let (room, other) = (create_room_with(&[&alice]), create_room_with(&[&alice]));
    let elsewhere = send_text(&alice, &other, "elsewhere");
    let redact = |event: &str, transaction: &str| {
        let path = format!("redact/{}/{transaction}", percent_encode(event));
        alice.request(Method::PUT, &room_path(&room, &path), json!({}))
    };
    let unknown = "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let id = expect_ok(redact(unknown, "1"))["event_id"].clone();
    assert_eq!(expect_ok(redact(unknown, "1"))["event_id"], id);
    let page = expect_ok(alice.get(&room_path(&room, "messages?dir=b&limit=100")));
    let events = page["chunk"].as_array().expect("events");
    assert!(events.iter().all(|event| event["event_id"] != id));
    expect_error(&redact(&elsewhere, "2"), 400, "M_INVALID_PARAM");
}
