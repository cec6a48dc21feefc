//! Joining, leaving, inviting, knocking and moderating. Unit tests cover the authorization rules.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, create_room_with, join, joined_rooms, leave, next_batch,
        room_path, sync,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

#[test]
fn room_is_joined_by_id_or_alias() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(
        &alice,
        json!({ "preset": "public_chat", "room_alias_name": "pub" }),
    );
    for path in [
        format!("/_matrix/client/v3/rooms/{room}/join"),
        format!("/_matrix/client/v3/join/{room}"),
        format!("/_matrix/client/v3/join/{room}?via=elsewhere.example&server_name=x.example"),
        "/_matrix/client/v3/join/%23pub:localhost".to_owned(),
        format!("/_matrix/client/r0/join/{room}"),
    ] {
        for body in [Value::Null, json!({}), json!({ "reason": "why not" })] {
            assert_eq!(
                bob.post(&path, body.clone()),
                (200, json!({ "room_id": room }))
            );
            assert!(joined_rooms(&bob).contains(&room));
            assert_eq!(
                bob.post(&path, body),
                (200, json!({ "room_id": room })),
                "twice"
            );
            expect_ok(change_membership(&bob, &room, "leave", Value::Null));
            assert!(joined_rooms(&bob).is_empty());
        }
    }
}

#[test]
fn joining_or_knocking_on_an_unknown_room_is_not_found() {
    let server = TestServer::new();
    let alice = server.register("alice");
    for room in [
        "!nowhere:localhost",
        "!nowhere:elsewhere.example",
        "%23nowhere:localhost",
        "%23nowhere:elsewhere.example",
    ] {
        for action in ["join", "knock"] {
            let path = format!("/_matrix/client/v3/{action}/{room}");
            expect_error(&alice.post(&path, json!({})), 404, "M_NOT_FOUND");
        }
    }
    expect_error(
        &change_membership(&alice, "!nowhere:localhost", "join", json!({})),
        404,
        "M_NOT_FOUND",
    );
    expect_error(
        &alice.post("/_matrix/client/v3/join/bananas", json!({})),
        400,
        "M_INVALID_PARAM",
    );
}

#[test]
fn invite_allows_join_and_can_be_rejected() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(&alice, json!({}));
    let invite = || {
        change_membership(
            &alice,
            &room,
            "invite",
            json!({ "user_id": bob.user_id, "reason": "hi" }),
        )
    };
    expect_error(
        &change_membership(&bob, &room, "join", json!({})),
        403,
        "M_FORBIDDEN",
    );
    expect_ok(invite());
    expect_ok(invite());
    expect_ok(change_membership(
        &bob,
        &room,
        "leave",
        json!({ "reason": "no" }),
    ));
    expect_error(
        &change_membership(&bob, &room, "join", json!({})),
        403,
        "M_FORBIDDEN",
    );
    expect_ok(invite());
    join(&bob, &room);
    expect_error(&invite(), 403, "M_FORBIDDEN");
    expect_error(
        &change_membership(
            &alice,
            &room,
            "invite",
            json!({ "user_id": "@no:localhost" }),
        ),
        404,
        "M_NOT_FOUND",
    );
    expect_error(
        &change_membership(
            &alice,
            &room,
            "invite",
            json!({ "user_id": "@b:x.example" }),
        ),
        403,
        "M_FORBIDDEN",
    );
    let threepid = json!({
        "id_server": "id.example", "id_access_token": "t",
        "medium": "email", "address": "bob@example.org",
    });
    expect_error(
        &change_membership(&alice, &room, "invite", threepid),
        403,
        "M_THREEPID_DENIED",
    );
}

#[test]
fn moderator_can_kick_ban_and_unban() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    let to_bob = |action| {
        change_membership(
            &alice,
            &room,
            action,
            json!({ "user_id": bob.user_id, "reason": "r" }),
        )
    };
    let to_alice =
        |action| change_membership(&bob, &room, action, json!({ "user_id": alice.user_id }));
    expect_error(&to_bob("kick"), 403, "M_FORBIDDEN");
    expect_error(&to_bob("unban"), 403, "M_BAD_STATE");
    join(&bob, &room);
    for action in ["kick", "ban"] {
        expect_error(&to_alice(action), 403, "M_FORBIDDEN");
    }
    expect_ok(to_bob("kick"));
    assert!(joined_rooms(&bob).is_empty());
    expect_ok(to_bob("ban"));
    expect_ok(to_bob("ban"));
    for action in ["join", "leave"] {
        expect_error(
            &change_membership(&bob, &room, action, json!({})),
            403,
            "M_FORBIDDEN",
        );
    }
    expect_error(&to_bob("invite"), 403, "M_FORBIDDEN");
    expect_ok(to_bob("unban"));
    join(&bob, &room);
}

#[test]
fn kick_and_unban_by_an_outsider_do_not_tell_who_is_in_the_room() {
    let server = TestServer::new();
    let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(|it| server.register(it));
    let room = create_room_with(&[&alice, &bob]);
    expect_ok(alice.post(
        &room_path(&room, "ban"),
        json!({ "user_id": carol.user_id }),
    ));
    let outsider = server.register("eve");
    for action in ["kick", "ban", "unban", "invite"] {
        let answers = [&alice, &bob, &carol, &dave].map(|target| {
            outsider.post(
                &room_path(&room, action),
                json!({ "user_id": target.user_id }),
            )
        });
        for answer in &answers {
            expect_error(answer, 403, "M_FORBIDDEN");
            assert_eq!(answer, &answers[0], "{action}");
        }
    }
}

#[test]
fn forget_requires_leaving_first() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    expect_error(
        &change_membership(&bob, &room, "leave", json!({})),
        403,
        "M_FORBIDDEN",
    );
    join(&bob, &room);
    expect_error(
        &change_membership(&bob, &room, "forget", json!({})),
        400,
        "M_UNKNOWN",
    );
    leave(&bob, &room);
    leave(&bob, &room);
    expect_ok(change_membership(&bob, &room, "forget", json!({})));
    expect_ok(change_membership(&bob, &room, "forget", Value::Null));
}

#[test]
fn forgetting_does_not_tell_whether_a_room_exists() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    for room in [room.as_str(), "!made-up:localhost"] {
        expect_ok(change_membership(&bob, room, "forget", json!({})));
    }
}

#[test]
fn knock_is_accepted_by_an_invite() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room = create_room(
        &alice,
        json!({ "room_alias_name": "lobby", "initial_state": [rule] }),
    );
    let knock = "/_matrix/client/v3/knock/%23lobby:localhost?via=localhost";
    let response = bob.post(knock, json!({ "reason": "it is me" }));
    assert_eq!(response, (200, json!({ "room_id": room })));
    expect_error(
        &change_membership(&bob, &room, "join", json!({})),
        403,
        "M_FORBIDDEN",
    );
    expect_ok(change_membership(
        &alice,
        &room,
        "invite",
        json!({ "user_id": bob.user_id }),
    ));
    join(&bob, &room);
    let private_room = create_room(&alice, json!({}));
    let knock = format!("/_matrix/client/v3/knock/{private_room}");
    expect_error(&bob.post(&knock, json!({})), 403, "M_FORBIDDEN");
}

#[test]
fn concurrent_joins_and_leaves_end_in_the_last_requested_membership() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room_with(&[&alice]);
    let users: Vec<_> = (0..8)
        .map(|n| server.register(&format!("user{n}")))
        .collect();
    let toggle = |(n, user): (usize, &TestUser<'_>)| {
        let (token, room, server) = (user.token.clone(), room.clone(), &server);
        async move {
            for action in ["join", "leave", "join", "leave"].iter().take(3 + n % 2) {
                let path = format!("/_matrix/client/v3/rooms/{room}/{action}");
                expect_ok(
                    server
                        .send(Method::POST, &path, Some(&token), &Value::Null)
                        .await,
                );
            }
        }
    };
    server.run(server.join_all(users.iter().enumerate().map(toggle).collect()));
    for (n, user) in users.iter().enumerate() {
        assert_eq!(joined_rooms(user).contains(&room), n % 2 == 0, "user{n}");
    }
}

#[test]
fn deactivation_leaves_every_room() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let rooms: Vec<String> = (0..12).map(|_| create_room_with(&[&alice])).collect();
    for room in &rooms {
        join(&bob, room);
    }
    let path = "/_matrix/client/v3/account/deactivate";
    expect_ok(bob.request_with_password(Method::POST, path, json!({})));
    for room in rooms {
        server.wait_until(async || {
            let path = format!("/_matrix/client/v3/rooms/{room}/kick");
            let body = json!({ "user_id": bob.user_id });
            // A user who has left cannot be kicked.
            server
                .send(Method::POST, &path, Some(&alice.token), &body)
                .await
                .0
                == 403
        });
    }
}

#[test]
fn display_name_change_is_sent_to_joined_rooms() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    join(&bob, &room);
    let before = sync(&alice, None);
    let path = format!("/_matrix/client/v3/profile/{}/displayname", bob.user_id);
    expect_ok(bob.put(&path, json!({ "displayname": "Robert" })));
    let path = format!(
        "/_matrix/client/v3/sync?timeout=1000&since={}",
        next_batch(&before)
    );
    server.wait_until(async || {
        let synced = server
            .send(Method::GET, &path, Some(&alice.token), &Value::Null)
            .await;
        let events = synced.1["rooms"]["join"][&room]["timeline"]["events"].as_array();
        events.is_some_and(|events| {
            events.iter().any(|event| {
                event["state_key"] == bob.user_id.as_str()
                    && event["content"] == json!({ "membership": "join", "displayname": "Robert" })
            })
        })
    });
}

#[test]
fn a_client_cannot_authorise_its_own_join_of_a_restricted_room() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let closed = create_room(&alice, json!({}));
    for version in ["8", "9", "10", "11", "12"] {
        let rule = json!({
            "join_rule": "restricted",
            "allow": [{ "type": "m.room_membership", "room_id": closed }],
        });
        let room = create_room(
            &alice,
            json!({
                "room_version": version,
                "initial_state": [{ "type": "m.room.join_rules", "content": rule }],
            }),
        );
        let member = |user: &str| {
            format!("/_matrix/client/v3/rooms/{room}/state/m.room.member/@{user}:localhost")
        };
        let forged = json!({
            "membership": "join",
            "join_authorised_via_users_server": "@alice:localhost",
        });
        expect_error(&bob.put(&member("bob"), forged.clone()), 403, "M_FORBIDDEN");
        assert!(joined_rooms(&bob).is_empty(), "version {version}");
        // A member who puts the content back has the field dropped.
        expect_ok(alice.put(&member("alice"), forged));
        let content = expect_ok(alice.get(&member("alice")));
        assert!(content.get("join_authorised_via_users_server").is_none());
    }
}

#[test]
fn who_shares_no_room_has_few_pending_invites_and_the_sync_of_the_invited_stays_small() {
    let server = TestServer::new();
    let [alice, bob, eve] = ["alice", "bob", "eve"].map(|name| server.register(name));
    let topic = json!({ "type": "m.room.topic", "content": { "topic": "x".repeat(55_000) } });
    let large = json!({ "initial_state": [topic], "invite": [&alice.user_id] });
    let mut accepted = 0;
    for _ in 0..25 {
        let response = eve.post("/_matrix/client/v3/createRoom", large.clone());
        match response.0 {
            200 => accepted += 1,
            _ => expect_error(&response, 400, "M_INVALID_ROOM_STATE"),
        }
    }
    assert_eq!(accepted, 20);
    let room = create_room(&bob, json!({ "invite": [&alice.user_id] }));
    let synced = sync(&alice, None);
    assert_eq!(
        synced["rooms"]["invite"]
            .as_object()
            .expect("invites")
            .len(),
        21
    );
    assert!(synced["rooms"]["invite"][&room].is_object());
    let length = synced.to_string().len();
    assert!(length < 21 * 32 * 1024, "{length}");
    // Who is with them in a room that not everybody may join can show them a space of many rooms.
    join(&alice, &room);
    for _ in 0..21 {
        create_room(&bob, json!({ "invite": [&alice.user_id] }));
    }
}
