//! Searching messages.

use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room, create_room_with, join, latest_event_id, leave, percent_encode, room_path,
        send_text, set_state,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

fn search_page(user: &TestUser<'_>, criteria: &Value, next_batch: Option<&str>) -> Value {
    let query = next_batch.map(|token| format!("?next_batch={}", percent_encode(token)));
    let path = format!("/_matrix/client/v3/search{}", query.unwrap_or_default());
    let body = json!({ "search_categories": { "room_events": criteria } });
    expect_ok(user.post(&path, body))["search_categories"]["room_events"].clone()
}

fn search(user: &TestUser<'_>, criteria: Value) -> Value {
    search_page(user, &criteria, None)
}

/// The ids of the events of a page.
fn ids(page: &Value) -> Vec<&str> {
    let results = page["results"].as_array().expect("results");
    results
        .iter()
        .map(|result| result["result"]["event_id"].as_str().expect("an id"))
        .collect()
}

/// The ids of the newest events with `term` first.
fn find(user: &TestUser<'_>, term: &str) -> Vec<String> {
    let page = search(user, json!({ "search_term": term, "order_by": "recent" }));
    let found: Vec<String> = ids(&page).into_iter().map(ToOwned::to_owned).collect();
    assert_eq!(page["count"], found.len());
    found
}

#[test]
fn messages_names_and_topics_are_found_by_all_their_words() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let message = send_text(&alice, &room, "The Lighthouse-keeper of Ålesund");
    let name = json!({ "name": "Lighthouse" });
    set_state(&alice, &room, ("m.room.name", ""), name);
    let name = latest_event_id(&alice, &room);
    let topic = json!({
        "topic": "rocks",
        "m.topic": { "m.text": [
            { "body": "<b>spark</b>", "mimetype": "text/html" }, { "body": "lighthouse rocks" },
        ] },
    });
    set_state(&alice, &room, ("m.room.topic", ""), topic);
    let topic = latest_event_id(&alice, &room);
    send_text(&alice, &room, "something else");
    assert_eq!(find(&alice, "LIGHTHOUSE"), [&*topic, &name, &message]);
    assert_eq!(find(&alice, "keeper ålesund"), [&*message]);
    assert_eq!(find(&alice, "lighth"), [&*topic, &name, &message]);
    assert_eq!(find(&alice, "rocks"), [&*topic]);
    assert!(find(&alice, "lighthouse nowhere").is_empty());
    assert!(find(&alice, "spark").is_empty());
    assert!(find(&alice, " ?! ").is_empty());
    for (key, event) in [
        ("content.body", &message),
        ("content.name", &name),
        ("content.topic", &topic),
    ] {
        let page = search(
            &alice,
            json!({ "search_term": "lighthouse", "keys": [key] }),
        );
        assert_eq!(ids(&page), [event], "{key}");
        assert_eq!(page["highlights"], json!(["lighthouse"]));
    }
}

#[test]
fn nobody_finds_or_counts_what_they_may_not_see() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let history = json!({
        "type": "m.room.history_visibility", "content": { "history_visibility": "joined" },
    });
    let room = create_room(
        &alice,
        json!({ "preset": "public_chat", "initial_state": [history] }),
    );
    send_text(&alice, &room, "secret before");
    assert!(find(&bob, "secret").is_empty());
    join(&bob, &room);
    assert!(find(&bob, "secret").is_empty());
    let between = send_text(&alice, &room, "secret between");
    let redacted = send_text(&alice, &room, "secret mistake");
    assert_eq!(find(&bob, "secret"), [&*redacted, &between]);
    let redact = format!("redact/{}/1", percent_encode(&redacted));
    expect_ok(alice.put(&room_path(&room, &redact), json!({})));
    assert_eq!(find(&bob, "secret"), [&*between]);
    leave(&bob, &room);
    let after = send_text(&alice, &room, "secret after");
    assert_eq!(find(&bob, "secret"), [&*between], "until they left");
    assert_eq!(find(&alice, "secret").first(), Some(&after));
    expect_ok(bob.post(&room_path(&room, "forget"), json!({})));
    assert!(find(&bob, "secret").is_empty());
}

#[test]
fn messages_of_ignored_users_are_not_found() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let by_alice = send_text(&alice, &room, "a word");
    send_text(&bob, &room, "a word");
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
        percent_encode(&alice.user_id)
    );
    let ignored = json!({ "ignored_users": { &bob.user_id: {} } });
    expect_ok(alice.put(&path, ignored));
    assert_eq!(find(&alice, "word"), [by_alice]);
}

#[test]
fn results_are_ordered_by_rank_or_age_and_filtered() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let rooms = [(); 2].map(|()| create_room_with(&[&alice, &bob]));
    let best = send_text(&alice, &rooms[0], "tide tide");
    let middle = send_text(&bob, &rooms[1], "the tide");
    let newest = send_text(&alice, &rooms[0], "tidewater");
    let by = |order: &str| search(&alice, json!({ "search_term": "tide", "order_by": order }));
    assert_eq!(ids(&by("recent")), [&newest, &middle, &best]);
    assert_eq!(ids(&by("rank")), [&best, &middle, &newest]);
    let default = search(&alice, json!({ "search_term": "tide" }));
    assert_eq!(default, by("rank"));
    let ranks = by("rank")["results"].clone();
    assert!(ranks[0]["rank"].as_f64() > ranks[1]["rank"].as_f64());
    for (filter, expected) in [
        (json!({ "rooms": [rooms[1]] }), vec![&middle]),
        (json!({ "not_rooms": [rooms[1]] }), vec![&best, &newest]),
        (json!({ "senders": [bob.user_id] }), vec![&middle]),
        (json!({ "types": ["m.room.name"] }), vec![]),
        (json!({ "limit": 1 }), vec![&best]),
    ] {
        let page = search(&alice, json!({ "search_term": "tide", "filter": filter }));
        assert_eq!(ids(&page), expected, "{filter}");
    }
    let wrong = json!({ "search_term": "tide", "order_by": "taste" });
    let wrong = json!({ "search_categories": { "room_events": wrong } });
    let wrong = alice.post("/_matrix/client/v3/search", wrong);
    expect_error(&wrong, 400, "M_INVALID_PARAM");
    let token = "/_matrix/client/v3/search?next_batch=x";
    let with_token = json!({ "search_categories": { "room_events": { "search_term": "x" } } });
    expect_error(&alice.post(token, with_token), 400, "M_INVALID_PARAM");
}

#[test]
fn pages_and_groups_have_each_result_once_while_new_messages_come() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let rooms = [(); 2].map(|()| create_room_with(&[&alice, &bob]));
    let mut sent = Vec::new();
    for index in 0..24 {
        let sender = if index % 3 == 0 { &bob } else { &alice };
        sent.push(send_text(sender, &rooms[index % 2], "a wave"));
    }
    sent.reverse();
    let criteria = json!({
        "search_term": "wave", "order_by": "recent", "filter": { "limit": 7 },
        "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
    });
    let first = search(&alice, criteria.clone());
    assert_eq!(first["count"], 24);
    send_text(&alice, &rooms[0], "a newer wave");
    let (mut found, mut page) = (Vec::new(), first.clone());
    loop {
        found.extend(ids(&page).into_iter().map(ToOwned::to_owned));
        match page["next_batch"].as_str() {
            Some(token) => page = search_page(&alice, &criteria, Some(token)),
            None => break,
        }
    }
    assert_eq!(found, sent);

    let groups = &first["groups"]["room_id"];
    for room in &rooms {
        let of_room: Vec<_> = sent
            .iter()
            .enumerate()
            .filter(|(index, _)| rooms[(23 - index) % 2] == *room)
            .map(|(_, id)| id.clone())
            .collect();
        let group = &groups[room];
        let mut found: Vec<String> =
            serde_json::from_value(group["results"].clone()).expect("event ids");
        let mut next = group["next_batch"].as_str().map(ToOwned::to_owned);
        while let Some(token) = next {
            let page = search_page(&alice, &criteria, Some(&token));
            found.extend(ids(&page).into_iter().map(ToOwned::to_owned));
            next = page["next_batch"].as_str().map(ToOwned::to_owned);
        }
        assert_eq!(found, of_room);
    }
    let group = &first["groups"]["sender"][&bob.user_id];
    let token = group["next_batch"].as_str().expect("more results of bob");
    let page = search_page(&alice, &criteria, Some(token));
    let senders = page["results"].as_array().expect("results").iter();
    let senders: Vec<_> = senders.map(|it| &it["result"]["sender"]).collect();
    assert_eq!(
        senders.len() + group["results"].as_array().map_or(0, Vec::len),
        8
    );
    assert!(senders.iter().all(|sender| **sender == bob.user_id));
}

#[test]
fn a_result_has_its_context_and_its_rooms_state_if_they_are_asked_for() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let sent: Vec<String> = (0..5)
        .map(|index| send_text(&alice, &room, &format!("number {index}")))
        .collect();
    let plain = search(&alice, json!({ "search_term": "2" }));
    assert_eq!(plain["results"][0]["context"]["events_before"], json!([]));
    assert_eq!(plain.get("state"), None);
    let context = json!({ "before_limit": 1, "after_limit": 2, "include_profile": true });
    let page = search(
        &alice,
        json!({ "search_term": "2", "event_context": context, "include_state": true }),
    );
    let context = &page["results"][0]["context"];
    let ids = |events: &Value| {
        let events = events.as_array().expect("events").iter();
        events
            .map(|event| event["event_id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&context["events_before"]), [&*sent[1]]);
    assert_eq!(ids(&context["events_after"]), [&*sent[3], &sent[4]]);
    assert_eq!(
        context["profile_info"][&alice.user_id]["displayname"],
        "alice"
    );
    let start = context["start"].as_str().expect("a token");
    let before = format!("messages?dir=b&limit=1&from={start}");
    let before = expect_ok(alice.get(&room_path(&room, &before)));
    assert_eq!(before["chunk"][0]["event_id"], *sent[0]);
    let state = page["state"][&room].as_array().expect("a state");
    assert!(
        state
            .iter()
            .any(|event| event["type"] == "m.room.power_levels")
    );
    let whole = expect_ok(alice.get(&room_path(&room, "state")));
    assert_eq!(Some(state.len()), whole.as_array().map(Vec::len));
}

#[test]
fn what_was_indexed_is_found_with_what_was_not_and_after_a_restart() {
    let mut server = TestServer::with("registration = \"open\"\nrate_limits = false");
    let (room, token) = {
        let alice = server.register("alice");
        let room = create_room_with(&[&alice]);
        for index in 0..700 {
            send_text(&alice, &room, &format!("message {index}"));
        }
        assert_eq!(find(&alice, "699").len(), 1);
        assert_eq!(find(&alice, "message 3").len(), 1);
        (room, alice.token.clone())
    };
    server.restart();
    let alice = server.user_with_token(&token);
    send_text(&alice, &room, "a message after the restart");
    let page = search(&alice, json!({ "search_term": "message" }));
    assert_eq!(page["count"], 701);
}

#[test]
fn a_search_that_is_switched_off_says_so() {
    let server = TestServer::with("registration = \"open\"\nsearch = false");
    let alice = server.register("alice");
    let body = json!({ "search_categories": { "room_events": { "search_term": "x" } } });
    let answer = alice.post("/_matrix/client/v3/search", body);
    expect_error(&answer, 400, "M_UNKNOWN");
}
