//! Memberships as clients see them. Who may do what to whom is tested beside the code.

use http::Method;
use serde_json::{Value, json};

use crate::home::{Answer, Home, Person, refused};

/// What `person` does in `room`.
fn act(person: &Person<'_>, room: &str, deed: &str, body: Value) -> Answer {
    person.post(&format!("/_matrix/client/v3/rooms/{room}/{deed}"), body)
}

#[track_caller]
fn done(answer: &Answer) {
    assert_eq!(answer.0, 200, "{}", answer.1);
}

#[test]
fn a_room_is_joined_by_its_id_or_an_alias() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = alice.create_room(json!({ "preset": "public_chat", "room_alias_name": "pub" }));
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
            assert!(bob.joined_rooms().contains(&room));
            assert_eq!(
                bob.post(&path, body),
                (200, json!({ "room_id": room })),
                "twice"
            );
            done(&act(&bob, &room, "leave", Value::Null));
            assert!(bob.joined_rooms().is_empty());
        }
    }
}

#[test]
fn what_is_not_here_cannot_be_joined() {
    let home = Home::new();
    let alice = home.register("alice");
    for room in [
        "!nowhere:localhost",
        "!nowhere:elsewhere.example",
        "%23nowhere:localhost",
        "%23nowhere:elsewhere.example",
    ] {
        for deed in ["join", "knock"] {
            let path = format!("/_matrix/client/v3/{deed}/{room}");
            refused(&alice.post(&path, json!({})), 404, "M_NOT_FOUND");
        }
    }
    refused(
        &act(&alice, "!nowhere:localhost", "join", json!({})),
        404,
        "M_NOT_FOUND",
    );
    refused(
        &alice.post("/_matrix/client/v3/join/bananas", json!({})),
        400,
        "M_INVALID_PARAM",
    );
}

#[test]
fn an_invite_lets_in_and_can_be_rejected() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = alice.create_room(json!({}));
    let invite = || {
        act(
            &alice,
            &room,
            "invite",
            json!({ "user_id": bob.user_id, "reason": "hi" }),
        )
    };
    refused(&act(&bob, &room, "join", json!({})), 403, "M_FORBIDDEN");
    done(&invite());
    done(&invite());
    done(&act(&bob, &room, "leave", json!({ "reason": "no" })));
    refused(&act(&bob, &room, "join", json!({})), 403, "M_FORBIDDEN");
    done(&invite());
    done(&act(&bob, &room, "join", json!({})));
    refused(&invite(), 403, "M_FORBIDDEN");
    refused(
        &act(
            &alice,
            &room,
            "invite",
            json!({ "user_id": "@no:localhost" }),
        ),
        404,
        "M_NOT_FOUND",
    );
    refused(
        &act(
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
    refused(
        &act(&alice, &room, "invite", threepid),
        403,
        "M_THREEPID_DENIED",
    );
}

#[test]
fn moderators_kick_ban_and_unban() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = alice.public_room();
    let to_bob = |deed| {
        act(
            &alice,
            &room,
            deed,
            json!({ "user_id": bob.user_id, "reason": "r" }),
        )
    };
    let to_alice = |deed| act(&bob, &room, deed, json!({ "user_id": alice.user_id }));
    refused(&to_bob("kick"), 403, "M_FORBIDDEN");
    refused(&to_bob("unban"), 403, "M_BAD_STATE");
    done(&act(&bob, &room, "join", json!({})));
    for deed in ["kick", "ban"] {
        refused(&to_alice(deed), 403, "M_FORBIDDEN");
    }
    done(&to_bob("kick"));
    assert!(bob.joined_rooms().is_empty());
    done(&to_bob("ban"));
    done(&to_bob("ban"));
    for deed in ["join", "leave"] {
        refused(&act(&bob, &room, deed, json!({})), 403, "M_FORBIDDEN");
    }
    refused(&to_bob("invite"), 403, "M_FORBIDDEN");
    done(&to_bob("unban"));
    done(&act(&bob, &room, "join", json!({})));
}

#[test]
fn a_room_is_left_before_it_is_forgotten() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = alice.public_room();
    refused(&act(&bob, &room, "leave", json!({})), 403, "M_FORBIDDEN");
    done(&act(&bob, &room, "join", json!({})));
    refused(&act(&bob, &room, "forget", json!({})), 400, "M_UNKNOWN");
    done(&act(&bob, &room, "leave", json!({})));
    done(&act(&bob, &room, "leave", json!({})));
    done(&act(&bob, &room, "forget", json!({})));
    done(&act(&bob, &room, "forget", Value::Null));
}

#[test]
fn a_knock_is_let_in_by_an_invite() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let rule = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room = alice.create_room(json!({ "room_alias_name": "door", "initial_state": [rule] }));
    let knock = "/_matrix/client/v3/knock/%23door:localhost?via=localhost";
    let answer = bob.post(knock, json!({ "reason": "it is me" }));
    assert_eq!(answer, (200, json!({ "room_id": room })));
    refused(&act(&bob, &room, "join", json!({})), 403, "M_FORBIDDEN");
    done(&act(
        &alice,
        &room,
        "invite",
        json!({ "user_id": bob.user_id }),
    ));
    done(&act(&bob, &room, "join", json!({})));
    let closed = alice.create_room(json!({}));
    let knock = format!("/_matrix/client/v3/knock/{closed}");
    refused(&bob.post(&knock, json!({})), 403, "M_FORBIDDEN");
}

#[test]
fn people_who_come_and_go_at_once_end_where_they_asked_to_be() {
    let home = Home::new();
    let alice = home.register("alice");
    let room = alice.public_room();
    let people: Vec<_> = (0..8).map(|n| home.register(&format!("user{n}"))).collect();
    let come_and_go = |(n, person): (usize, &Person<'_>)| {
        let (token, room, home) = (person.token.clone(), room.clone(), &home);
        async move {
            for deed in ["join", "leave", "join", "leave"].iter().take(3 + n % 2) {
                let path = format!("/_matrix/client/v3/rooms/{room}/{deed}");
                done(
                    &home
                        .send(Method::POST, &path, Some(&token), &Value::Null)
                        .await,
                );
            }
        }
    };
    home.run(home.all(people.iter().enumerate().map(come_and_go).collect()));
    for (n, person) in people.iter().enumerate() {
        assert_eq!(person.joined_rooms().contains(&room), n % 2 == 0, "user{n}");
    }
}

#[test]
fn a_deactivated_user_leaves_every_room_and_invite() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let rooms: Vec<String> = (0..12).map(|_| alice.public_room()).collect();
    for room in &rooms {
        done(&act(&bob, room, "join", json!({})));
    }
    let path = "/_matrix/client/v3/account/deactivate";
    done(&bob.ask_with_password(Method::POST, path, json!({})));
    for room in rooms {
        home.run(home.until(async || {
            let path = format!("/_matrix/client/v3/rooms/{room}/kick");
            let body = json!({ "user_id": bob.user_id });
            // Who has left cannot be kicked.
            home.send(Method::POST, &path, Some(&alice.token), &body)
                .await
                .0
                == 403
        }));
    }
}

#[test]
fn a_new_name_reaches_those_in_the_same_room() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = alice.public_room();
    done(&act(&bob, &room, "join", json!({})));
    let sync = async |query: &str| {
        let path = format!("/_matrix/client/v3/sync?{query}");
        let (status, body) = home
            .send(Method::GET, &path, Some(&alice.token), &Value::Null)
            .await;
        assert_eq!(status, 200, "{body}");
        body
    };
    let first = home.run(sync(""));
    let path = format!("/_matrix/client/v3/profile/{}/displayname", bob.user_id);
    done(&bob.put(&path, json!({ "displayname": "Robert" })));
    let since = first["next_batch"].as_str().expect("a token");
    home.run(home.until(async || {
        let news = sync(&format!("since={since}&timeout=1000")).await;
        let told = news["rooms"]["join"][&room]["timeline"]["events"].as_array();
        told.is_some_and(|told| {
            told.iter().any(|event| {
                event["state_key"] == bob.user_id.as_str()
                    && event["content"] == json!({ "membership": "join", "displayname": "Robert" })
            })
        })
    }));
}
