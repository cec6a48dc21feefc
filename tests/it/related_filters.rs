//! Filters that select events by what relates to them (`related_by_rel_types`, `related_by_senders`).

use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room, create_room_with, join_via, leave, message_bodies, percent_encode, room_path,
        send_event, send_in_thread, send_text, sync_with,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

fn filter(rel_types: &[&str], senders: &[&TestUser<'_>]) -> Value {
    let senders: Vec<&str> = senders.iter().map(|user| user.user_id.as_str()).collect();
    json!({ "related_by_rel_types": rel_types, "related_by_senders": senders })
}

fn react(user: &TestUser<'_>, room: &str, parent: &str) -> String {
    let relation = json!({ "rel_type": "m.annotation", "event_id": parent, "key": "x" });
    send_event(
        user,
        room,
        "m.reaction",
        json!({ "m.relates_to": relation }),
    )
}

/// The bodies of the messages that `/messages` has with this filter, the newest first.
fn messages(user: &TestUser<'_>, room: &str, filter: &Value) -> Vec<String> {
    let filter = percent_encode(&filter.to_string());
    let path = format!("messages?dir=b&limit=100&filter={filter}");
    let page = expect_ok(user.get(&room_path(room, &path)));
    let bodies = message_bodies(&page["chunk"]);
    bodies.into_iter().map(ToOwned::to_owned).collect()
}

/// A room of `alice` and `bob`: the event "thread" has a reply of each, "liked" a reaction of `bob`.
fn room_with_relations(alice: &TestUser<'_>, bob: &TestUser<'_>) -> (String, [String; 3]) {
    let room = create_room_with(&[alice, bob]);
    let events = ["thread", "liked", "alone"].map(|body| send_text(alice, &room, body));
    for user in [alice, bob] {
        send_in_thread(user, &room, &events[0], "reply");
    }
    react(bob, &room, &events[1]);
    (room, events)
}

#[test]
fn one_relation_has_to_be_of_a_wanted_type_and_of_a_wanted_sender() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (room, _) = room_with_relations(&alice, &bob);
    let thread = "m.thread";
    for (rel_types, senders, expected) in [
        (&[thread][..], &[][..], &["thread"][..]),
        (&[], &[&bob], &["liked", "thread"]),
        (&[], &[&alice], &["thread"]),
        (&[thread], &[&alice], &["thread"]),
        (&["m.annotation"], &[&alice], &[]),
        (
            &["m.annotation", thread],
            &[&alice, &bob],
            &["liked", "thread"],
        ),
        (&["m.reference"], &[], &[]),
        (&[], &[], &["reply", "reply", "alone", "liked", "thread"]),
    ] {
        let found = messages(&alice, &room, &filter(rel_types, senders));
        assert_eq!(found, expected, "{rel_types:?} of {}", senders.len());
    }
    let other = json!({
        "body": "other", "m.relates_to": { "rel_type": "org.example.a", "event_id": "$x" },
    });
    let parent = send_text(&alice, &room, "parent");
    let mut child = other;
    child["m.relates_to"]["event_id"] = parent.into();
    send_event(&bob, &room, "m.room.message", child);
    assert_eq!(
        messages(&alice, &room, &filter(&["org.example.a"], &[])),
        ["parent"]
    );
    assert!(messages(&alice, &room, &filter(&["org.example.b"], &[])).is_empty());
    assert!(messages(&alice, &room, &filter(&["org.example.a"], &[&alice])).is_empty());
}

#[test]
fn sync_context_and_search_select_by_relations() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (room, [_, _, alone]) = room_with_relations(&alice, &bob);
    let wanted = filter(&["m.thread"], &[&bob]);
    let stored = format!("/_matrix/client/v3/user/{}/filter", alice.user_id);
    let whole = json!({ "room": { "timeline": wanted } });
    let id = expect_ok(alice.post(&stored, whole.clone()));
    for filter in [
        whole.to_string(),
        id["filter_id"].as_str().unwrap().to_owned(),
    ] {
        let response = sync_with(&alice, &[("filter", &filter)]);
        let timeline = &response["rooms"]["join"][&room]["timeline"]["events"];
        assert_eq!(message_bodies(timeline), ["thread"]);
    }
    let (alone, encoded) = (percent_encode(&alone), percent_encode(&wanted.to_string()));
    let context = room_path(&room, &format!("context/{alone}?limit=20&filter={encoded}"));
    let context = expect_ok(alice.get(&context));
    assert_eq!(message_bodies(&context["events_before"]), ["thread"]);
    assert_eq!(context["events_after"], json!([]));
    let search = |filter: &Value| {
        let criteria = json!({ "search_term": "thread alone", "filter": filter });
        let mut found = Vec::new();
        for term in ["thread", "alone"] {
            let mut criteria = criteria.clone();
            criteria["search_term"] = term.into();
            let body = json!({ "search_categories": { "room_events": criteria } });
            let page = expect_ok(alice.post("/_matrix/client/v3/search", body));
            let results = &page["search_categories"]["room_events"]["results"];
            let results = results.as_array().unwrap().iter();
            found.extend(results.map(|it| it["result"]["content"]["body"].clone()));
        }
        found
    };
    assert_eq!(search(&json!({})), ["thread", "alone"]);
    assert_eq!(search(&wanted), ["thread"]);
}

#[test]
fn relations_that_are_redacted_or_of_ignored_users_do_not_count() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let [one, other] = ["one", "other"].map(|body| send_text(&alice, &room, body));
    let reaction = react(&alice, &room, &one);
    for parent in [&one, &other] {
        send_in_thread(&bob, &room, parent, "reply");
    }
    let any = filter(&["m.annotation", "m.thread"], &[]);
    assert_eq!(messages(&alice, &room, &any), ["other", "one"]);
    let ignored = json!({ "ignored_users": { bob.user_id.as_str(): {} } });
    let list = format!(
        "/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
        alice.user_id
    );
    expect_ok(alice.put(&list, ignored));
    assert_eq!(messages(&alice, &room, &any), ["one"]);
    assert_eq!(messages(&bob, &room, &any), ["other", "one"]);
    let redact = format!("redact/{}/1", percent_encode(&reaction));
    expect_ok(alice.put(&room_path(&room, &redact), json!({})));
    assert!(messages(&alice, &room, &any).is_empty());
}

#[test]
fn relations_of_other_servers_users_count() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    let [one, _] = ["one", "other"].map(|body| send_text(&alice, &room, body));
    join_via(&bob, &room, &here);
    let by_bob = filter(&["m.annotation"], &[&bob]);
    assert!(messages(&alice, &room, &by_bob).is_empty());
    assert_eq!(messages(&bob, &room, &json!({})), ["other", "one"]);
    react(&bob, &room, &one);
    here.wait_until(async || messages(&alice, &room, &by_bob) == ["one"]);
    // Also for the server that got the parent with the history.
    assert_eq!(messages(&bob, &room, &by_bob), ["one"]);
}

#[test]
fn relations_that_came_after_the_user_left_do_not_count() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let [one, two, three] = ["one", "two", "three"].map(|body| send_text(&alice, &room, body));
    let relate = |parent: &str| {
        let relation = json!({ "rel_type": "org.example.a", "event_id": parent });
        let content = json!({ "body": "other", "m.relates_to": relation });
        send_event(&alice, &room, "m.room.message", content);
    };
    send_in_thread(&alice, &room, &one, "reply");
    let thread = filter(&["m.thread"], &[&alice]);
    leave(&bob, &room);
    react(&alice, &room, &two);
    send_in_thread(&alice, &room, &two, "reply");
    relate(&three);
    let any = filter(&[], &[&alice]);
    assert_eq!(messages(&bob, &room, &any), ["one"]);
    assert_eq!(messages(&bob, &room, &thread), ["one"]);
    assert_eq!(messages(&alice, &room, &any), ["three", "two", "one"]);
    assert_eq!(messages(&alice, &room, &thread), ["two", "one"]);
}

#[test]
fn a_filter_by_relations_has_lists() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({}));
    for bad in [
        json!({ "related_by_rel_types": "m.thread" }),
        json!({ "related_by_senders": ["bob"] }),
    ] {
        let filter = percent_encode(&bad.to_string());
        let path = room_path(&room, &format!("messages?dir=b&filter={filter}"));
        assert_eq!(alice.get(&path).0, 400, "{bad}");
        let sync = json!({ "room": { "timeline": bad } });
        let path = format!(
            "/_matrix/client/v3/sync?filter={}",
            percent_encode(&sync.to_string())
        );
        assert_eq!(alice.get(&path).0, 400, "{bad}");
        let stored = format!("/_matrix/client/v3/user/{}/filter", alice.user_id);
        assert_eq!(alice.post(&stored, sync).0, 400, "{bad}");
    }
    let long = json!({ "related_by_senders": vec![alice.user_id.as_str(); 1001] });
    let filter = percent_encode(&long.to_string());
    let path = room_path(&room, &format!("messages?dir=b&filter={filter}"));
    expect_error(&alice.get(&path), 413, "M_TOO_LARGE");
}
