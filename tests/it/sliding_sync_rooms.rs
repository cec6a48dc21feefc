//! Simplified sliding sync (MSC4186): filters of lists, invitations, knocks, and rooms that were left.

use http::Method;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, create_room_with, event_types, join, leave, message_bodies,
        percent_encode, room_path, send_event, send_in_thread, send_receipt, send_text, set_state,
    },
    media_deletion::redact,
    sliding_sync::{path, pos, rooms, sliding, window},
    test_server::{TestServer, TestUser, expect_ok},
};

/// A list with these filters.
fn filtered(filters: Value) -> Value {
    json!({ "lists": { "all": { "ranges": [[0, 99]], "timeline_limit": 0, "filters": filters } } })
}

fn account_data(user: &TestUser<'_>, tail: &str, content: Value) {
    let user_id = percent_encode(&user.user_id);
    expect_ok(user.put(
        &format!("/_matrix/client/v3/user/{user_id}/{tail}"),
        content,
    ));
}

#[track_caller]
fn invite(user: &TestUser<'_>, room: &str, whom: &TestUser<'_>) {
    let body = json!({ "user_id": whom.user_id });
    expect_ok(change_membership(user, room, "invite", body));
}

#[test]
fn filters_select_rooms_and_follow_their_changes() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let plain = create_room(&alice, json!({ "name": "Garden Club" }));
    let secret = create_room(
        &alice,
        json!({ "initial_state": [{
        "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" },
    }] }),
    );
    let space = create_room(&alice, json!({ "creation_content": { "type": "m.space" } }));
    let invited = create_room(&bob, json!({}));
    invite(&bob, &invited, &alice);
    account_data(
        &alice,
        "account_data/m.direct",
        json!({ &bob.user_id: [&secret] }),
    );
    let favourite = |room: &str| {
        let tail = format!("rooms/{}/tags/m.favourite", percent_encode(room));
        account_data(&alice, &tail, json!({}));
    };
    favourite(&plain);
    let child = json!({ "via": ["localhost"] });
    set_state(&alice, &space, ("m.space.child", &plain), child);
    set_state(&alice, &space, ("m.space.child", &secret), json!({}));
    let select = |filters: Value| -> Vec<String> {
        let response = sliding(&alice, None, filtered(filters.clone()));
        let count = response["lists"]["all"]["count"].as_u64();
        let selected: Vec<_> = rooms(&response).into_iter().map(str::to_owned).collect();
        assert_eq!(count, Some(selected.len() as u64), "{filters}");
        selected
    };
    let sorted = |rooms: &[&String]| {
        let mut rooms: Vec<String> = rooms.iter().copied().cloned().collect();
        rooms.sort_unstable();
        rooms
    };
    let all = [&plain, &secret, &space, &invited];
    let (favourites, of_space) = (json!(["m.favourite"]), json!([&space]));
    let cases = [
        (json!({}), sorted(&all)),
        (json!({ "is_dm": true }), sorted(&[&secret])),
        (
            json!({ "is_dm": false }),
            sorted(&[&plain, &space, &invited]),
        ),
        (json!({ "is_encrypted": true }), sorted(&[&secret])),
        (json!({ "is_invite": true }), sorted(&[&invited])),
        (
            json!({ "is_invited": false }),
            sorted(&[&plain, &secret, &space]),
        ),
        (json!({ "room_types": ["m.space"] }), sorted(&[&space])),
        (
            json!({ "room_types": [null] }),
            sorted(&[&plain, &secret, &invited]),
        ),
        (
            json!({ "not_room_types": ["m.space"] }),
            sorted(&[&plain, &secret, &invited]),
        ),
        (
            json!({ "room_types": ["m.space"], "not_room_types": ["m.space"] }),
            vec![],
        ),
        (json!({ "room_name_like": "garden" }), sorted(&[&plain])),
        (json!({ "tags": favourites }), sorted(&[&plain])),
        (
            json!({ "not_tags": favourites }),
            sorted(&[&secret, &space, &invited]),
        ),
        (
            json!({ "tags": favourites, "not_tags": favourites }),
            vec![],
        ),
        (json!({ "spaces": of_space }), sorted(&[&plain])),
        (json!({ "spaces": ["!unknown:localhost"] }), vec![]),
    ];
    for (filters, expected) in &cases {
        assert_eq!(&select(filters.clone()), expected, "{filters}");
    }
    favourite(&secret);
    account_data(
        &alice,
        "account_data/m.direct",
        json!({ &bob.user_id: [&plain] }),
    );
    set_state(
        &alice,
        &space,
        ("m.space.child", &secret),
        json!({ "via": ["localhost"] }),
    );
    set_state(
        &alice,
        &plain,
        ("m.room.name", ""),
        json!({ "name": "Chess" }),
    );
    join(&alice, &invited);
    for (filters, expected) in [
        (json!({ "tags": favourites }), sorted(&[&plain, &secret])),
        (json!({ "is_dm": true }), sorted(&[&plain])),
        (json!({ "spaces": of_space }), sorted(&[&plain, &secret])),
        (json!({ "room_name_like": "garden" }), vec![]),
        (json!({ "is_invite": true }), vec![]),
    ] {
        assert_eq!(select(filters.clone()), expected, "{filters}");
    }
}

#[test]
fn a_room_that_becomes_a_direct_one_is_sent_with_that_alone() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({}));
    let first = sliding(&alice, None, window(0, 9));
    assert_eq!(first["rooms"][&room]["is_dm"], Value::Null);
    account_data(
        &alice,
        "account_data/m.direct",
        json!({ "@bob:localhost": [&room] }),
    );
    let second = sliding(&alice, Some(pos(&first)), window(0, 9));
    assert_eq!(second["rooms"][&room]["is_dm"], true);
    assert_eq!(second["rooms"][&room]["timeline"], json!([]));
    let third = sliding(&alice, Some(pos(&second)), window(0, 9));
    assert_eq!(third["rooms"], json!({}));
}

#[test]
fn invitations_and_knocks_have_stripped_state_and_nothing_else_of_the_room() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let first = sliding(&bob, None, window(0, 9));
    let room = create_room(&alice, json!({ "name": "Kitchen" }));
    invite(&alice, &room, &bob);
    let second = sliding(&bob, Some(pos(&first)), window(0, 9));
    let invited = &second["rooms"][&room];
    assert_eq!(invited["membership"], "invite");
    assert_eq!(invited["initial"], true);
    let types = event_types(&invited["invite_state"]);
    assert!(types.contains(&"m.room.name") && types.contains(&"m.room.member"));
    for hidden in ["timeline", "required_state", "name", "joined_count"] {
        assert_eq!(invited[hidden], Value::Null, "{hidden}");
    }
    send_text(&alice, &room, "secret");
    let third = sliding(&bob, Some(pos(&second)), window(0, 9));
    assert_eq!(
        third["rooms"],
        json!({}),
        "an invited user does not see the room"
    );
    let list = json!({ "range": [0, 9], "timeline_limit": 1 });
    let stable = json!({ "conn_id": "other", "lists": { "all": list } });
    let stable = expect_ok(bob.post("/_matrix/client/v4/sync", stable));
    let types = event_types(&stable["rooms"][&room]["stripped_state"]);
    assert!(types.contains(&"m.room.name"));
    join(&bob, &room);
    let fourth = sliding(&bob, Some(pos(&third)), window(0, 9));
    let joined = &fourth["rooms"][&room];
    assert_eq!(
        (&joined["membership"], &joined["initial"]),
        (&json!("join"), &json!(true))
    );
    assert_eq!(joined["name"], "Kitchen");

    let knocked = create_room(
        &alice,
        json!({ "initial_state": [{
        "type": "m.room.join_rules", "content": { "join_rule": "knock" },
    }] }),
    );
    let knock = format!("/_matrix/client/v3/knock/{}", percent_encode(&knocked));
    expect_ok(bob.post(&knock, json!({})));
    let fifth = sliding(&bob, Some(pos(&fourth)), window(0, 9));
    assert_eq!(fifth["rooms"][&knocked]["membership"], "knock");
    let state = event_types(&fifth["rooms"][&knocked]["invite_state"]);
    assert!(state.contains(&"m.room.member"));
}

#[test]
fn invitations_of_ignored_users_are_not_in_the_list() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(&alice, json!({}));
    let ignored = json!({ "ignored_users": { &alice.user_id: {} } });
    account_data(&bob, "account_data/m.ignored_user_list", ignored);
    invite(&alice, &room, &bob);
    let response = sliding(&bob, None, window(0, 9));
    assert_eq!(
        (&response["rooms"], &response["lists"]["all"]["count"]),
        (&json!({}), &json!(0))
    );
}

#[test]
fn a_room_that_the_user_left_is_sent_once_and_only_if_it_was_before() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let body = json!({ "lists": { "all": {
        "ranges": [[0, 9]], "timeline_limit": 5,
        "required_state": [["m.room.member", "$ME"]],
    } } });
    let first = sliding(&bob, None, body.clone());
    send_text(&alice, &room, "bye");
    leave(&bob, &room);
    send_text(&alice, &room, "secret");
    let second = sliding(&bob, Some(pos(&first)), body.clone());
    let left = &second["rooms"][&room];
    assert_eq!(left["membership"], "leave");
    assert_eq!(message_bodies(&left["timeline"]), ["bye"]);
    assert_eq!(left["required_state"][0]["content"]["membership"], "leave");
    let third = sliding(&bob, Some(pos(&second)), body.clone());
    assert_eq!(
        (&third["rooms"], &third["lists"]["all"]["count"]),
        (&json!({}), &json!(0))
    );
    let other = sliding(&bob, None, body.clone());
    assert_eq!(other["rooms"], json!({}));
    let again = sliding(&bob, None, body.clone());
    join(&bob, &room);
    let rejoined = sliding(&bob, Some(pos(&again)), body);
    assert_eq!(rejoined["rooms"][&room]["initial"], true);
}

#[test]
fn a_room_from_which_the_user_was_removed_stays_in_the_list_until_it_is_forgotten() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (kicked, banned) = (
        create_room_with(&[&alice, &bob]),
        create_room_with(&[&alice, &bob]),
    );
    let never = create_room(&alice, json!({}));
    let whom = || json!({ "user_id": bob.user_id });
    for (room, action) in [(&kicked, "kick"), (&banned, "ban"), (&never, "ban")] {
        expect_ok(change_membership(&alice, room, action, whom()));
        send_text(&alice, room, "secret");
    }
    let first = sliding(&bob, None, window(0, 9));
    assert_eq!(first["lists"]["all"]["count"], 2);
    for (room, membership) in [(&kicked, "leave"), (&banned, "ban")] {
        let removed = &first["rooms"][room];
        assert_eq!(removed["membership"], membership);
        assert_eq!(event_types(&removed["timeline"]), ["m.room.member"]);
    }
    expect_ok(change_membership(&bob, &kicked, "forget", json!({})));
    let second = sliding(&bob, None, window(0, 9));
    assert_eq!(rooms(&second), [banned.as_str()]);
}

#[test]
fn a_membership_that_changes_after_the_end_of_a_stay_is_sent_alone() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let whom = json!({ "user_id": bob.user_id });
    let body = json!({ "lists": { "all": {
        "ranges": [[0, 9]], "timeline_limit": 1,
        "required_state": [["m.room.member", "$ME"], ["m.room.create", ""]],
    } } });
    for (first, second, last) in [("ban", "unban", "leave"), ("leave", "ban", "ban")] {
        let room = create_room_with(&[&alice, &bob]);
        let response = sliding(&bob, None, body.clone());
        match first {
            "leave" => leave(&bob, &room),
            _ => drop(expect_ok(change_membership(
                &alice,
                &room,
                first,
                whom.clone(),
            ))),
        }
        let response = sliding(&bob, Some(pos(&response)), body.clone());
        assert_eq!(response["rooms"][&room]["membership"], first);
        send_text(&alice, &room, "secret");
        expect_ok(change_membership(&alice, &room, second, whom.clone()));
        // A client that begins now does not have the room, nor one that was sent its last event.
        for (known, since) in [(first == "ban", Some(pos(&response))), (false, None)] {
            let response = sliding(&bob, since, body.clone());
            let Some(sent) = response["rooms"].get(&room) else {
                panic!("{second}: {response}");
            };
            assert_eq!(sent["membership"], last, "{second}");
            assert_eq!(sent["initial"] == true, !known, "{second}: {sent}");
            assert_eq!(
                event_types(&sent["timeline"]),
                ["m.room.member"],
                "{second}"
            );
            assert_eq!(sent["timeline"][0]["content"]["membership"], last);
            let state = sent["required_state"].as_array().unwrap();
            let own: Vec<_> = state
                .iter()
                .filter(|event| event["type"] == "m.room.member")
                .map(|event| &event["content"]["membership"])
                .collect();
            assert_eq!(own, [last], "{second}");
            assert_eq!(state.len(), if known { 1 } else { 2 }, "{second}: {sent}");
        }
    }
}

#[test]
fn a_refused_knock_stays_in_the_list_and_a_ban_of_a_stranger_is_not_sent() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let knocked = create_room(&alice, json!({ "initial_state": [rule] }));
    let knock = format!("/_matrix/client/v3/knock/{}", percent_encode(&knocked));
    expect_ok(bob.post(&knock, json!({})));
    let first = sliding(&bob, None, window(0, 9));
    let whom = || json!({ "user_id": bob.user_id });
    expect_ok(change_membership(&alice, &knocked, "kick", whom()));
    let second = sliding(&bob, Some(pos(&first)), window(0, 9));
    assert_eq!(second["rooms"][&knocked]["membership"], "leave");
    let third = sliding(&bob, Some(pos(&second)), window(0, 9));
    assert_eq!(third["lists"]["all"]["count"], 1);
    let banned = create_room(&alice, json!({}));
    expect_ok(change_membership(&alice, &banned, "ban", whom()));
    let subscription = json!({ "timeline_limit": 2, "required_state": [["*", "*"]] });
    let body = json!({ "room_subscriptions": { &banned: subscription } });
    assert_eq!(sliding(&bob, None, body)["rooms"], json!({}));
}

#[test]
fn all_members_are_sent_to_who_asks_for_all_and_for_those_that_are_needed() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    send_text(&alice, &room, "only of alice");
    let body = json!({
        "lists": Value::Null,
        "extensions": Value::Null,
        "room_subscriptions": { &room: {
            "timeline_limit": 1,
            "required_state": [["m.room.member", "*"], ["m.room.member", "$LAZY"]],
        } },
    });
    let response = sliding(&alice, None, body);
    let members = response["rooms"][&room]["required_state"]
        .as_array()
        .unwrap();
    assert_eq!(members.len(), 2);
}

#[test]
fn rooms_of_others_cannot_be_subscribed_to() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    let subscribe = |room: &str| {
        let body = json!({ "room_subscriptions": { room: { "timeline_limit": 10 } } });
        sliding(&bob, None, body)["rooms"].clone()
    };
    for room in [room.as_str(), "!unknown:localhost", "nonsense"] {
        assert_eq!(subscribe(room), json!({}), "{room}");
    }
    join(&bob, &room);
    leave(&bob, &room);
    send_text(&alice, &room, "secret");
    let left = subscribe(&room);
    assert_eq!(left[&room]["membership"], "leave");
    assert_eq!(message_bodies(&left[&room]["timeline"]), [""; 0]);
}

#[test]
fn a_room_is_sent_with_new_unread_counts_when_the_user_reads_it_elsewhere() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let laptop = server.log_in("bob");
    let room = create_room_with(&[&alice, &bob]);
    let mention = json!({ "body": "Bob!", "m.mentions": { "user_ids": [bob.user_id] } });
    let event = send_event(&alice, &room, "m.room.message", mention);
    let first = sliding(&bob, None, window(0, 9));
    assert_eq!(first["rooms"][&room]["notification_count"], 1);
    assert_eq!(first["rooms"][&room]["highlight_count"], 1);
    expect_ok(send_receipt(&laptop, &room, ("m.read", &event), json!({})));
    let second = sliding(&bob, Some(pos(&first)), window(0, 9));
    assert_eq!(second["rooms"][&room]["notification_count"], 0);
    assert_eq!(second["rooms"][&room]["timeline"], json!([]));
}

#[test]
fn a_room_is_sent_with_smaller_unread_counts_when_an_event_is_redacted() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let mention = json!({ "body": "Bob!", "m.mentions": { "user_ids": [bob.user_id] } });
    let event = send_event(&alice, &room, "m.room.message", mention);
    send_text(&alice, &room, "stays");
    let counts = |response: &Value| {
        let fields = ["notification_count", "highlight_count"];
        fields.map(|field| response["rooms"][&room][field].clone())
    };
    let first = sliding(&bob, None, window(0, 9));
    assert_eq!(counts(&first), [json!(2), json!(1)]);
    redact(&alice, &room, &event);
    let second = sliding(&bob, Some(pos(&first)), window(0, 9));
    assert_eq!(counts(&second), [json!(1), json!(0)]);
}

#[test]
fn an_invitation_wakes_a_request_that_waits() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(&alice, json!({}));
    let first = sliding(&bob, None, window(0, 9));
    let path = path(Some(pos(&first))).replace("timeout=0", "timeout=100000");
    let body = window(0, 9);
    let waiting = server.send(Method::POST, &path, Some(&bob.token), &body);
    let send = async {
        let body = json!({ "user_id": bob.user_id });
        server
            .send(
                Method::POST,
                &room_path(&room, "invite"),
                Some(&alice.token),
                &body,
            )
            .await
    };
    let started = std::time::Instant::now();
    let ((_, response), _) = server.run(smol::future::zip(waiting, send));
    assert_eq!(rooms(&response), [room.as_str()]);
    assert!(
        started.elapsed().as_secs() < 50,
        "it waited for the timeout"
    );
}

#[test]
fn a_limited_or_expanded_timeline_has_what_its_events_aggregate() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let root = send_text(&alice, &room, "root");
    let reply = send_in_thread(&bob, &room, &root, "reply");
    let windowed =
        |limit: u32| json!({ "lists": { "all": { "range": [0, 9], "timeline_limit": limit } } });
    let timeline = |response: &Value| response["rooms"][&room]["timeline"].clone();
    let first = sliding(&alice, None, windowed(2));
    assert_eq!(first["rooms"][&room]["limited"], true);
    let thread = &timeline(&first)[0]["unsigned"]["m.relations"]["m.thread"];
    assert_eq!(
        (&thread["count"], &thread["current_user_participated"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(thread["latest_event"]["event_id"], reply);

    let short = sliding(&bob, None, windowed(1));
    let edit = json!({
        "msgtype": "m.text", "body": "* better",
        "m.new_content": { "msgtype": "m.text", "body": "better" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": root },
    });
    let edit = send_event(&alice, &room, "m.room.message", edit);
    let live = sliding(&bob, Some(pos(&short)), windowed(1));
    assert_eq!(
        timeline(&live)[0]["event_id"],
        edit,
        "the client aggregates it itself"
    );
    let expanded = sliding(&bob, Some(pos(&live)), windowed(3));
    assert_eq!(expanded["rooms"][&room]["unstable_expanded_timeline"], true);
    let replaced = &timeline(&expanded)[0]["unsigned"]["m.relations"]["m.replace"];
    assert_eq!(replaced["event_id"], edit);
}

/// Lists with all kinds of filters, of whose rooms only the first three are in windows.
fn many_lists(connection: &str, space: &str) -> Value {
    let filters = [
        ("all", json!({})),
        ("direct", json!({ "is_dm": true })),
        ("rooms", json!({ "not_room_types": ["m.space"] })),
        ("favourites", json!({ "tags": ["m.favourite"] })),
        (
            "others",
            json!({ "not_tags": ["m.favourite"], "is_invite": false }),
        ),
        ("invites", json!({ "is_invite": true })),
        ("in the space", json!({ "spaces": [space] })),
        ("named", json!({ "room_name_like": "x" })),
    ];
    let list =
        |filters: Value| json!({ "ranges": [[0, 2]], "timeline_limit": 0, "filters": filters });
    let lists = filters
        .into_iter()
        .map(|(name, filters)| (name.to_owned(), list(filters)));
    let lists: serde_json::Map<String, Value> = lists.collect();
    json!({ "conn_id": connection, "lists": lists })
}

/// The counts of the lists, and which rooms of which lists a response has.
fn lists_and_rooms(response: &Value) -> Value {
    let rooms = response["rooms"].as_object().expect("rooms").iter();
    let rooms = rooms.map(|(id, room)| (id, &room["lists"], &room["bump_stamp"]));
    json!([response["lists"], rooms.collect::<Vec<_>>()])
}

#[test]
fn lists_that_are_kept_up_to_date_are_those_that_are_made_anew() {
    let mut server = TestServer::new();
    let mut rng = SmallRng::seed_from_u64(1);
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (alice, bob) = (alice.token.clone(), bob.token.clone());
    let mut known: Vec<String> = Vec::new();
    for round in 0..4 {
        let (made, live) = {
            let (alice, bob) = (server.user_with_token(&alice), server.user_with_token(&bob));
            if round == 0 {
                let space = json!({ "creation_content": { "type": "m.space" } });
                known.push(create_room(&alice, space));
                known.extend((0..8).map(|_| create_room_with(&[&bob, &alice])));
            }
            let space = known[0].clone();
            let mut last = sliding(&alice, None, many_lists("live", &space));
            for step in 0..40 {
                let room = known[rng.random_range(1..known.len())].clone();
                // Some are not allowed.
                let _ = match rng.random_range(0..12) {
                    0 => alice.post(&room_path(&room, "leave"), json!({})),
                    1 => alice.post(&room_path(&room, "join"), json!({})),
                    2 => alice.post(&room_path(&room, "forget"), json!({})),
                    3 => change_membership(
                        &bob,
                        &room,
                        "invite",
                        json!({ "user_id": alice.user_id }),
                    ),
                    4 => {
                        change_membership(&bob, &room, "kick", json!({ "user_id": alice.user_id }))
                    }
                    5 => {
                        let tags = format!(
                            "/_matrix/client/v3/user/{}/rooms/{}/tags/m.favourite",
                            percent_encode(&alice.user_id),
                            percent_encode(&room)
                        );
                        match rng.random_ratio(1, 2) {
                            true => alice.put(&tags, json!({})),
                            false => alice.delete(&tags, json!({})),
                        }
                    }
                    6 => {
                        account_data(
                            &alice,
                            "account_data/m.direct",
                            json!({ &bob.user_id: [&room] }),
                        );
                        continue;
                    }
                    7 => {
                        let via = match rng.random_ratio(1, 2) {
                            true => json!({ "via": ["localhost"] }),
                            false => json!({}),
                        };
                        let child = format!("state/m.space.child/{}", percent_encode(&room));
                        alice.put(&room_path(&space, &child), via)
                    }
                    8 => {
                        let name = ["x", "y"][rng.random_range(0..2)];
                        bob.put(
                            &room_path(&room, "state/m.room.name"),
                            json!({ "name": name }),
                        )
                    }
                    9 => {
                        known.push(create_room(&bob, json!({ "invite": [alice.user_id] })));
                        continue;
                    }
                    _ => bob.put(
                        &room_path(&room, &format!("send/m.room.message/{round}-{step}")),
                        json!({ "msgtype": "m.text", "body": "hello" }),
                    ),
                };
                last = sliding(&alice, Some(pos(&last)), many_lists("live", &space));
            }
            let kept = sliding(&alice, None, many_lists(&format!("{round} kept"), &space));
            let again = sliding(&alice, Some(pos(&last)), many_lists("live", &space));
            (lists_and_rooms(&kept), again["lists"].clone())
        };
        server.restart();
        let alice = server.user_with_token(&alice);
        let anew = sliding(
            &alice,
            None,
            many_lists(&format!("{round} anew"), &known[0]),
        );
        assert_eq!(made, lists_and_rooms(&anew), "round {round}");
        assert_eq!(live["rooms"]["count"], anew["lists"]["rooms"]["count"]);
    }
}
