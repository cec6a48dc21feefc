//! Children of events: `/relations`, `/threads` and bundled aggregations.

use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room_with, join, leave, next_batch, percent_encode, room_path, send_event,
        send_in_thread, send_text, set_state, sync, sync_with,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

/// Sends an event of `kind` that relates to `parent`.
fn relate(
    user: &TestUser<'_>,
    room: &str,
    parent: &str,
    (rel_type, kind): (&str, &str),
    mut content: Value,
) -> String {
    content["m.relates_to"]["rel_type"] = rel_type.into();
    content["m.relates_to"]["event_id"] = parent.into();
    send_event(user, room, kind, content)
}

fn edit(user: &TestUser<'_>, room: &str, original: &str, body: &str) -> String {
    let content = json!({
        "msgtype": "m.text", "body": format!("* {body}"),
        "m.new_content": { "msgtype": "m.text", "body": body },
    });
    relate(
        user,
        room,
        original,
        ("m.replace", "m.room.message"),
        content,
    )
}

fn react(user: &TestUser<'_>, room: &str, parent: &str, key: &str) -> String {
    let content = json!({ "m.relates_to": { "key": key } });
    relate(user, room, parent, ("m.annotation", "m.reaction"), content)
}

fn refer(user: &TestUser<'_>, room: &str, parent: &str) -> String {
    relate(
        user,
        room,
        parent,
        ("m.reference", "m.room.message"),
        json!({ "body": "see" }),
    )
}

fn redact(user: &TestUser<'_>, room: &str, event: &str) {
    let path = format!("redact/{}/{}", percent_encode(event), percent_encode(event));
    expect_ok(user.put(&room_path(room, &path), json!({})));
}

fn event(user: &TestUser<'_>, room: &str, id: &str) -> Value {
    expect_ok(user.get(&room_path(room, &format!("event/{}", percent_encode(id)))))
}

/// The bundled aggregations of an event.
fn aggregations(user: &TestUser<'_>, room: &str, id: &str) -> Value {
    event(user, room, id)["unsigned"]["m.relations"].clone()
}

fn v1_path(room: &str, tail: &str) -> String {
    room_path(room, tail).replace("/v3/", "/v1/")
}

/// The response of `/relations`; `tail` is what follows the event id.
fn relations(user: &TestUser<'_>, room: &str, parent: &str, tail: &str) -> Value {
    let path = format!("relations/{}{tail}", percent_encode(parent));
    expect_ok(user.get(&v1_path(room, &path)))
}

fn threads(user: &TestUser<'_>, room: &str, query: &str) -> Value {
    expect_ok(user.get(&v1_path(room, &format!("threads{query}"))))
}

fn ids(chunk: &Value) -> Vec<&str> {
    let events = chunk.as_array().expect("events");
    events
        .iter()
        .map(|event| event["event_id"].as_str().expect("an id"))
        .collect()
}

fn ignore(user: &TestUser<'_>, other: &str) {
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
        percent_encode(&user.user_id)
    );
    expect_ok(user.put(&path, json!({ "ignored_users": { other: {} } })));
}

#[test]
fn an_event_is_sent_with_its_newest_valid_edit() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let original = send_text(&alice, &room, "one");
    edit(&alice, &room, &original, "two");
    let newest = edit(&alice, &room, &original, "three");
    edit(&bob, &room, &original, "not mine");
    let without_new_content = json!({ "body": "no new content" });
    relate(
        &alice,
        &room,
        &original,
        ("m.replace", "m.room.message"),
        without_new_content,
    );
    let of_another_type = json!({ "m.new_content": { "body": "x" } });
    relate(
        &alice,
        &room,
        &original,
        ("m.replace", "org.example"),
        of_another_type,
    );
    let replacement = &aggregations(&bob, &room, &original)["m.replace"];
    assert_eq!(replacement["event_id"], *newest);
    assert_eq!(replacement["content"]["m.new_content"]["body"], "three");
    assert_eq!(replacement["sender"], *alice.user_id);
    assert_eq!(event(&bob, &room, &original)["content"]["body"], "one");
}

#[test]
fn an_edit_of_an_edit_is_not_aggregated() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let original = send_text(&alice, &room, "one");
    let edited = edit(&alice, &room, &original, "two");
    edit(&alice, &room, &edited, "three");
    assert_eq!(aggregations(&alice, &room, &edited), Value::Null);
}

#[test]
fn an_encrypted_edit_needs_no_new_content() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let content = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "abc" });
    let original = send_event(&alice, &room, "m.room.encrypted", content.clone());
    let edited = relate(
        &alice,
        &room,
        &original,
        ("m.replace", "m.room.encrypted"),
        content,
    );
    assert_eq!(
        aggregations(&alice, &room, &original)["m.replace"]["event_id"],
        *edited
    );
}

#[test]
fn a_redacted_child_is_no_longer_aggregated() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let root = send_text(&alice, &room, "root");
    let first = edit(&alice, &room, &root, "first");
    let second = edit(&alice, &room, &root, "second");
    let reference = refer(&alice, &room, &root);
    let replies = ["a", "b"].map(|body| send_in_thread(&alice, &room, &root, body));
    let before = aggregations(&alice, &room, &root);
    assert_eq!(before["m.replace"]["event_id"], *second);
    assert_eq!(
        before["m.reference"],
        json!({ "chunk": [{ "event_id": reference }] })
    );
    assert_eq!(before["m.thread"]["count"], 2);
    assert_eq!(before["m.thread"]["latest_event"]["event_id"], *replies[1]);
    for event in [&second, &reference, &replies[1]] {
        redact(&alice, &room, event);
    }
    let after = aggregations(&alice, &room, &root);
    assert_eq!(after["m.replace"]["event_id"], *first);
    assert_eq!(after["m.reference"], Value::Null);
    assert_eq!(after["m.thread"]["count"], 1);
    assert_eq!(after["m.thread"]["latest_event"]["event_id"], *replies[0]);
    for event in [&first, &replies[0]] {
        redact(&alice, &room, event);
    }
    assert_eq!(aggregations(&alice, &room, &root), Value::Null);
    assert_eq!(ids(&relations(&alice, &room, &root, "")["chunk"]), [""; 0]);
    assert_eq!(threads(&alice, &room, "")["chunk"], json!([]));
}

#[test]
fn a_redacted_event_keeps_its_thread_but_no_edit() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let root = send_text(&alice, &room, "root");
    edit(&alice, &room, &root, "edited");
    let reply = send_in_thread(&alice, &room, &root, "reply");
    redact(&alice, &room, &root);
    let after = aggregations(&alice, &room, &root);
    assert_eq!(after["m.replace"], Value::Null);
    assert_eq!(after["m.thread"]["latest_event"]["event_id"], *reply);
}

#[test]
fn a_thread_is_summarized_with_who_took_part() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let carol = server.register("carol");
    let room = create_room_with(&[&alice, &bob, &carol]);
    let root = send_text(&alice, &room, "root");
    let reply = send_in_thread(&bob, &room, &root, "reply");
    let edited = edit(&bob, &room, &reply, "edited");
    for (user, participated) in [(&alice, true), (&bob, true), (&carol, false)] {
        let thread = &aggregations(user, &room, &root)["m.thread"];
        assert_eq!(thread["count"], 1);
        assert_eq!(
            thread["current_user_participated"], participated,
            "{}",
            user.user_id
        );
        let latest = &thread["latest_event"];
        assert_eq!(latest["event_id"], *reply);
        let nested = &latest["unsigned"]["m.relations"]["m.replace"];
        assert_eq!(nested["event_id"], *edited);
    }
}

#[test]
fn ignored_users_are_left_out_of_aggregations_and_relations() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let root = send_text(&alice, &room, "root");
    let reply = send_in_thread(&alice, &room, &root, "reply");
    send_in_thread(&bob, &room, &root, "ignored");
    refer(&bob, &room, &root);
    ignore(&alice, &bob.user_id);
    let seen = aggregations(&alice, &room, &root);
    assert_eq!(seen["m.reference"], Value::Null);
    assert_eq!(seen["m.thread"]["count"], 1);
    assert_eq!(seen["m.thread"]["latest_event"]["event_id"], *reply);
    assert_eq!(
        ids(&relations(&alice, &room, &root, "")["chunk"]),
        [&*reply]
    );
    assert_eq!(aggregations(&bob, &room, &root)["m.thread"]["count"], 2);
}

#[test]
fn who_left_gets_nothing_aggregated_that_came_later() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let root = send_text(&alice, &room, "root");
    let early_edit = edit(&alice, &room, &root, "before");
    let early = send_in_thread(&alice, &room, &root, "before");
    leave(&bob, &room);
    edit(&alice, &room, &root, "secret");
    send_in_thread(&alice, &room, &root, "secret");
    refer(&alice, &room, &root);
    let seen = aggregations(&bob, &room, &root);
    assert_eq!(seen["m.replace"]["event_id"], *early_edit);
    assert_eq!(seen["m.thread"]["latest_event"]["event_id"], *early);
    assert_eq!(seen["m.thread"]["count"], 1);
    assert_eq!(seen["m.reference"], Value::Null);
    let children = relations(&bob, &room, &root, "");
    assert_eq!(ids(&children["chunk"]), [&*early, &*early_edit]);
}

#[test]
fn aggregations_are_in_messages_context_and_a_limited_sync() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let before = sync(&bob, None);
    let original = send_text(&alice, &room, "one");
    let edited = edit(&alice, &room, &original, "two");
    let of = |events: &Value| {
        let events = events.as_array().expect("events");
        let event = events.iter().find(|event| event["event_id"] == *original);
        let relations = &event.expect("the event")["unsigned"]["m.relations"];
        relations["m.replace"]["event_id"].clone()
    };
    let messages = expect_ok(bob.get(&room_path(&room, "messages?dir=b")));
    assert_eq!(of(&messages["chunk"]), *edited);
    let path = format!("context/{}", percent_encode(&edited));
    let context = expect_ok(bob.get(&room_path(&room, &path)));
    assert_eq!(of(&context["events_before"]), *edited);
    let filter = r#"{"room":{"timeline":{"limit":2}}}"#;
    let limited = sync_with(&bob, &[("filter", filter)]);
    let timeline = &limited["rooms"]["join"][&room]["timeline"];
    assert_eq!(timeline["limited"], true);
    assert_eq!(of(&timeline["events"]), *edited);
    // Whoever gets the whole timeline gets the children in it.
    let whole = sync(&bob, Some(next_batch(&before)));
    assert_eq!(
        of(&whole["rooms"]["join"][&room]["timeline"]["events"]),
        Value::Null
    );
}

#[test]
fn relations_are_filtered_by_relation_type_and_event_type() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let root = send_text(&alice, &room, "root");
    let reaction = react(&alice, &room, &root, "👍");
    let reference = refer(&alice, &room, &root);
    let custom = relate(
        &alice,
        &room,
        &root,
        ("org.example", "m.reaction"),
        json!({}),
    );
    let other = relate(
        &alice,
        &room,
        &root,
        ("org.other", "m.sticker"),
        json!({ "body": "s" }),
    );
    for (tail, expected) in [
        ("", vec![&other, &custom, &reference, &reaction]),
        ("?dir=f", vec![&reaction, &reference, &custom, &other]),
        ("/m.annotation", vec![&reaction]),
        ("/org.example", vec![&custom]),
        ("/org.unknown", vec![]),
        ("/m.reference/m.room.message", vec![&reference]),
        ("/m.reference/m.reaction", vec![]),
        ("/org.other/m.sticker", vec![&other]),
    ] {
        let response = relations(&alice, &room, &root, tail);
        assert_eq!(ids(&response["chunk"]), expected, "{tail}");
        assert_eq!(response["next_batch"], Value::Null, "{tail}");
    }
}

#[test]
fn relations_are_paged_in_both_directions() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let root = send_text(&alice, &room, "root");
    let mut children = Vec::new();
    for index in 0..7 {
        children.push(refer(&alice, &room, &root));
        children.push(react(&alice, &room, &root, &index.to_string()));
    }
    for dir in ["f", "b"] {
        let mut expected = children.clone();
        if dir == "b" {
            expected.reverse();
        }
        let (mut seen, mut from) = (Vec::new(), String::new());
        loop {
            let page = relations(&alice, &room, &root, &format!("?limit=3&dir={dir}{from}"));
            seen.extend(ids(&page["chunk"]).into_iter().map(str::to_owned));
            match page["next_batch"].as_str() {
                Some(token) => from = format!("&from={token}"),
                None => break,
            }
        }
        assert_eq!(seen, expected, "{dir}");
    }
    let first = relations(&alice, &room, &root, "?limit=3&dir=b");
    let second = first["next_batch"].as_str().expect("more");
    let rest = relations(
        &alice,
        &room,
        &root,
        &format!("?limit=50&dir=b&to={second}"),
    );
    assert_eq!(rest["chunk"], first["chunk"], "it stops at `to`");
}

#[test]
fn relations_of_relations_are_found_if_asked_for() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let root = send_text(&alice, &room, "root");
    let reply = send_in_thread(&alice, &room, &root, "reply");
    let reaction = react(&alice, &room, &reply, "👍");
    let third = refer(&alice, &room, &reaction);
    let fourth = refer(&alice, &room, &third);
    let direct = relations(&alice, &room, &root, "");
    assert_eq!(ids(&direct["chunk"]), [&*reply]);
    assert_eq!(direct["recursion_depth"], Value::Null);
    let all = relations(&alice, &room, &root, "?recurse=true");
    assert_eq!(
        ids(&all["chunk"]),
        [&*third, &*reaction, &*reply],
        "not {fourth}"
    );
    assert_eq!(all["recursion_depth"], 3);
    let first = relations(&alice, &room, &root, "?recurse=true&limit=2&dir=f");
    assert_eq!(ids(&first["chunk"]), [&*reply, &*reaction]);
    let from = first["next_batch"].as_str().expect("more");
    let rest = relations(
        &alice,
        &room,
        &root,
        &format!("?recurse=true&dir=f&from={from}"),
    );
    assert_eq!(ids(&rest["chunk"]), [&*third]);
    // The type says which events are wanted, not over which they are reached.
    let reactions = "/m.annotation/m.reaction?recurse=true";
    for (tail, wanted) in [
        ("/m.thread?recurse=true", &reply),
        ("/m.annotation?recurse=true", &reaction),
        (reactions, &reaction),
    ] {
        let filtered = relations(&alice, &room, &root, tail);
        assert_eq!(ids(&filtered["chunk"]), [&**wanted], "{tail}");
    }
}

#[test]
fn edits_of_a_redacted_event_are_given_to_nobody() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let root = send_text(&alice, &room, "root");
    let reply = send_in_thread(&alice, &room, &root, "secret");
    let reaction = react(&alice, &room, &reply, "👍");
    let edited = edit(&alice, &room, &reply, "still secret");
    let ids_of = |parent: &str, tail: &str| {
        let page = relations(&alice, &room, parent, tail);
        ids(&page["chunk"])
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids_of(&reply, "/m.replace"), [&*edited]);
    redact(&alice, &room, &reply);
    for tail in ["", "?dir=f", "?recurse=true"] {
        assert_eq!(ids_of(&reply, tail), [&*reaction], "{tail}");
    }
    for tail in [
        "/m.replace",
        "/m.replace/m.room.message",
        "/m.replace?recurse=true",
    ] {
        assert!(ids_of(&reply, tail).is_empty(), "{tail}");
    }
    assert!(!event(&alice, &room, &reply).to_string().contains("secret"));
}

#[test]
fn a_relation_needs_a_parent_in_the_same_room_and_an_annotation_a_key() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let [room, other] = [(); 2].map(|()| create_room_with(&[&alice]));
    let root = send_text(&alice, &room, "root");
    let unknown = format!("${}", "U".repeat(43));
    let key = "k".repeat(501);
    for (name, room, relation) in [
        (
            "other room",
            &other,
            json!({ "rel_type": "m.reference", "event_id": root }),
        ),
        (
            "unknown",
            &room,
            json!({ "rel_type": "m.thread", "event_id": unknown }),
        ),
        (
            "no key",
            &room,
            json!({ "rel_type": "m.annotation", "event_id": root }),
        ),
        (
            "long key",
            &room,
            json!({ "rel_type": "m.annotation", "event_id": root, "key": key }),
        ),
    ] {
        let content = json!({ "body": name, "m.relates_to": relation });
        let path = format!("send/m.room.message/{}", percent_encode(name));
        let response = alice.put(&room_path(room, &path), content);
        expect_error(&response, 400, "M_INVALID_PARAM");
    }
    // A reply has no relation type: its target may be anywhere.
    let reply =
        json!({ "body": "b", "m.relates_to": { "m.in_reply_to": { "event_id": unknown } } });
    send_event(&alice, &room, "m.room.message", reply);
}

#[test]
fn relations_of_an_event_that_one_may_not_see_are_not_found() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    set_state(
        &alice,
        &room,
        ("m.room.history_visibility", ""),
        json!({ "history_visibility": "joined" }),
    );
    let hidden = send_text(&alice, &room, "hidden");
    refer(&alice, &room, &hidden);
    let path = v1_path(&room, &format!("relations/{}", percent_encode(&hidden)));
    expect_error(&bob.get(&path), 403, "M_FORBIDDEN");
    expect_error(&bob.get(&v1_path(&room, "threads")), 403, "M_FORBIDDEN");
    expect_ok(alice.post(
        &room_path(&room, "invite"),
        json!({ "user_id": bob.user_id }),
    ));
    join(&bob, &room);
    expect_error(&bob.get(&path), 404, "M_NOT_FOUND");
    expect_error(
        &alice.get(&v1_path(&room, "relations/$unknown")),
        404,
        "M_NOT_FOUND",
    );
}

#[test]
fn children_that_one_may_not_see_are_neither_referred_to_nor_make_a_thread() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let joined = json!({ "history_visibility": "joined" });
    set_state(&alice, &room, ("m.room.history_visibility", ""), joined);
    let parent = send_text(&alice, &room, "parent");
    let root = send_text(&alice, &room, "root");
    leave(&bob, &room);
    refer(&alice, &room, &parent);
    send_in_thread(&alice, &room, &root, "hidden");
    join(&bob, &room);
    assert_eq!(aggregations(&bob, &room, &parent), Value::Null);
    assert_eq!(threads(&bob, &room, "")["chunk"], json!([]));
    let seen = refer(&alice, &room, &parent);
    send_in_thread(&alice, &room, &root, "seen");
    let references = aggregations(&bob, &room, &parent);
    let chunk = json!([{ "event_id": seen }]);
    assert_eq!(references["m.reference"]["chunk"], chunk);
    assert_eq!(ids(&threads(&bob, &room, "")["chunk"]), [&*root]);
}

#[test]
fn threads_are_listed_by_their_newest_event() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let roots = ["a", "b", "c"].map(|body| send_text(&alice, &room, body));
    for root in &roots {
        send_in_thread(&alice, &room, root, "reply");
    }
    let newest = send_in_thread(&bob, &room, &roots[0], "newest");
    let all = threads(&alice, &room, "");
    assert_eq!(ids(&all["chunk"]), [&*roots[0], &roots[2], &roots[1]]);
    let summary = &all["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
    assert_eq!(summary["latest_event"]["event_id"], *newest);
    let participated = threads(&bob, &room, "?include=participated");
    assert_eq!(ids(&participated["chunk"]), [&*roots[0]]);
    let page = threads(&alice, &room, "?limit=2");
    assert_eq!(ids(&page["chunk"]), [&*roots[0], &roots[2]]);
    let next = page["next_batch"].as_str().expect("more");
    let rest = threads(&alice, &room, &format!("?limit=2&from={next}"));
    assert_eq!(ids(&rest["chunk"]), [&*roots[1]]);
    assert_eq!(rest["next_batch"], Value::Null);
    redact(&bob, &room, &newest);
    let all = threads(&alice, &room, "");
    assert_eq!(ids(&all["chunk"]), [&*roots[2], &roots[1], &roots[0]]);
}

#[test]
fn a_thread_whose_root_is_of_an_ignored_user_is_not_listed() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let root = send_text(&bob, &room, "ignored");
    send_in_thread(&alice, &room, &root, "reply");
    ignore(&alice, &bob.user_id);
    assert_eq!(threads(&alice, &room, "")["chunk"], json!([]));
    let response = alice.get(&v1_path(&room, "threads?include=x"));
    expect_error(&response, 400, "M_INVALID_PARAM");
}

#[test]
fn a_second_equal_reaction_is_refused_until_the_first_is_redacted() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let root = send_text(&alice, &room, "root");
    let reaction = react(&alice, &room, &root, "👍");
    react(&alice, &room, &root, "🎉");
    react(&bob, &room, &root, "👍");
    let content = json!({
        "m.relates_to": { "rel_type": "m.annotation", "event_id": root, "key": "👍" },
    });
    let path = room_path(&room, "send/m.reaction/again");
    let refused = alice.put(&path, content.clone());
    expect_error(&refused, 400, "M_DUPLICATE_ANNOTATION");
    redact(&alice, &room, &reaction);
    expect_ok(alice.put(&path, content));
}

#[test]
fn a_thread_cannot_start_in_a_thread() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let root = send_text(&alice, &room, "root");
    let reply = send_in_thread(&alice, &room, &root, "reply");
    let nested = json!({
        "body": "nested", "m.relates_to": { "rel_type": "m.thread", "event_id": reply },
    });
    let response = alice.put(&room_path(&room, "send/m.room.message/nested"), nested);
    expect_error(&response, 400, "M_UNKNOWN");
}
