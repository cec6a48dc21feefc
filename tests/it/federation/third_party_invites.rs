//! Third-party invites and `/3pid/onbind`.

use hearth::protocol::ServerKey;
use http::{Method, StatusCode};
use ruma::{
    CanonicalJsonObject, RoomId, UserId, api::federation::thirdparty::exchange_invite, serde::Raw,
    signatures::sign_json,
};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    mock_origin::{MockOrigin, server_with_another_host},
    origins::status,
};
use crate::{
    client_api::{
        change_membership, create_room, join_via, percent_encode, room_path, set_state, sync,
    },
    invite_filtering::set_filter,
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const ONBIND: &str = "/_matrix/federation/v1/3pid/onbind";

/// Creates a private room with an `m.room.third_party_invite` for the key of an identity server.
fn create_room_with_third_party_invite(user: &TestUser<'_>, key: &ServerKey) -> String {
    let room = create_room(user, json!({ "preset": "private_chat" }));
    let content = json!({
        "display_name": "b...@e...",
        "public_key": key.public_key(),
        "key_validity_url": "https://id.example/valid",
    });
    set_state(user, &room, ("m.room.third_party_invite", "token"), content);
    room
}

/// What the identity server signs of a user who has the address of the invite with `token`.
fn signed(key: &ServerKey, invitee: &str, token: &str) -> CanonicalJsonObject {
    let signed = json!({ "mxid": invitee, "token": token });
    let mut signed = serde_json::from_value(signed).expect("an object");
    sign_json("id.example", key, &mut signed).expect("it can be signed");
    signed
}

/// Sends `/3pid/onbind` for `invitee`, signed with the key of the identity server.
fn send_onbind(
    server: &TestServer,
    key: &ServerKey,
    invitee: &TestUser<'_>,
    (sender, room): (&TestUser<'_>, &str),
) {
    let signed = signed(key, &invitee.user_id, "token");
    let body = json!({
        "medium": "email", "address": "bob@example.org", "mxid": invitee.user_id,
        "invites": [{
            "medium": "email", "address": "bob@example.org", "mxid": invitee.user_id,
            "room_id": room, "sender": sender.user_id, "signed": signed,
        }],
    });
    expect_ok(server.request(Method::PUT, ONBIND, body));
}

fn is_invited(user: &TestUser<'_>, room: &str) -> bool {
    sync(user, None)["rooms"]["invite"][room] != Value::Null
}

#[test]
fn onbind_turns_a_third_party_invite_into_an_invite() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let carol = here.register("carol");
    let key = ServerKey::generate();
    let room = create_room_with_third_party_invite(&alice, &key);
    send_onbind(&there, &key, &bob, (&alice, &room));
    assert!(is_invited(&bob, &room));
    let tail = format!("state/m.room.member/{}", percent_encode(&bob.user_id));
    let member = expect_ok(alice.get(&room_path(&room, &tail)));
    assert_eq!(member["third_party_invite"]["display_name"], "b...@e...");
    send_onbind(&here, &key, &carol, (&alice, &room));
    assert!(is_invited(&carol, &room));
}

#[test]
fn onbind_signed_with_another_key_is_ignored() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let (key, other_key) = (ServerKey::generate(), ServerKey::generate());
    let room = create_room_with_third_party_invite(&alice, &key);
    send_onbind(&there, &other_key, &bob, (&alice, &room));
    assert!(!is_invited(&bob, &room));
    let carol = here.register("carol");
    send_onbind(&here, &other_key, &carol, (&alice, &room));
    assert!(!is_invited(&carol, &room));
}

#[test]
fn onbind_for_another_user_than_the_invite_names_is_refused() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let key = ServerKey::generate();
    let room = create_room_with_third_party_invite(&alice, &key);
    let signed = signed(&key, &bob.user_id, "token");
    let invite = json!({
        "medium": "email", "address": "bob@example.org", "mxid": bob.user_id,
        "room_id": room, "sender": alice.user_id, "signed": signed,
    });
    let mut body = json!({
        "medium": "email", "address": "bob@example.org", "mxid": carol.user_id, "invites": [invite],
    });
    let response = server.request(Method::PUT, ONBIND, body.clone());
    expect_error(&response, 400, "M_INVALID_PARAM");
    assert!(!is_invited(&bob, &room) && !is_invited(&carol, &room));
    let mut many = body.clone();
    many["mxid"] = json!(bob.user_id);
    many["invites"] = vec![body["invites"][0].clone(); 21].into();
    let response = server.request(Method::PUT, ONBIND, many.clone());
    expect_error(&response, 400, "M_INVALID_PARAM");
    many["mxid"] = json!("@bob:elsewhere.example");
    many["invites"] = json!([]);
    let response = server.request(Method::PUT, ONBIND, many);
    expect_error(&response, 404, "M_NOT_FOUND");
    assert!(!is_invited(&bob, &room));
    // What is signed is for bob, whatever else the request says.
    body["invites"][0]["mxid"] = json!(carol.user_id);
    server.request(Method::PUT, ONBIND, body);
    assert!(!is_invited(&carol, &room));
}

#[test]
fn an_invite_is_exchanged_only_for_the_origins_user_as_the_third_party_invite_says() {
    let [here, there, third] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let dora = here.register("dora");
    let (erin, frank) = (third.register("erin"), third.register("frank"));
    let (key, other_key) = (ServerKey::generate(), ServerKey::generate());
    let room = create_room_with_third_party_invite(&alice, &key);
    let stranger = format!("@bob:{}", here.name());
    let target = json!({ "user_id": erin.user_id });
    expect_ok(change_membership(&alice, &room, "invite", target));
    join_via(&erin, &room, &here);
    let exchange = |kind: &str, sender: &str, target: &str, membership: &str, signed| {
        let content = json!({
            "membership": membership,
            "third_party_invite": { "display_name": "b", "signed": signed },
        });
        let content = to_raw_value(&content).expect("JSON");
        let mut request = exchange_invite::v1::Request::new(
            RoomId::parse(&room).expect("a room id"),
            UserId::parse(sender).expect("a user id"),
            UserId::parse(target).expect("a user id"),
            Raw::from_json(content),
        );
        request.kind = kind.into();
        status!(there, here, request)
    };
    let (member, by, to) = ("m.room.member", &*alice.user_id, &*bob.user_id);
    let valid = || signed(&key, to, "token");
    let (forbidden, invalid) = (StatusCode::FORBIDDEN, StatusCode::BAD_REQUEST);
    let of_here = signed(&key, &stranger, "token");
    let refused = [
        (
            "another type",
            exchange("m.room.name", by, to, "invite", valid()),
            invalid,
        ),
        (
            "no invite",
            exchange(member, by, to, "join", valid()),
            invalid,
        ),
        (
            "a user of another server",
            exchange(member, by, &stranger, "invite", of_here),
            forbidden,
        ),
        (
            "a user of a third server",
            exchange(
                member,
                by,
                &frank.user_id,
                "invite",
                signed(&key, &frank.user_id, "token"),
            ),
            forbidden,
        ),
        (
            "an inviter of another server who is in the room",
            exchange(member, &erin.user_id, to, "invite", valid()),
            StatusCode::NOT_FOUND,
        ),
        (
            "signed for another",
            exchange(
                member,
                by,
                to,
                "invite",
                signed(&key, &dora.user_id, "token"),
            ),
            forbidden,
        ),
        (
            "another key",
            exchange(member, by, to, "invite", signed(&other_key, to, "token")),
            forbidden,
        ),
        (
            "no such token",
            exchange(member, by, to, "invite", signed(&key, to, "other")),
            StatusCode::NOT_FOUND,
        ),
        (
            "an inviter of another server",
            exchange(member, to, to, "invite", valid()),
            StatusCode::NOT_FOUND,
        ),
        (
            "an inviter who is not in the room",
            exchange(member, &dora.user_id, to, "invite", valid()),
            forbidden,
        ),
    ];
    for (reason, status, expected) in refused {
        assert_eq!(status, expected, "{reason}");
    }
    assert!(!is_invited(&bob, &room));
    assert_eq!(exchange(member, by, to, "invite", valid()), StatusCode::OK);
    assert!(is_invited(&bob, &room));
}

#[test]
fn a_server_that_the_acl_of_the_room_denies_exchanges_no_invite() {
    let here = server_with_another_host();
    let (alice, origin) = (here.register("alice"), MockOrigin::new(&here));
    let key = ServerKey::generate();
    let room = create_room_with_third_party_invite(&alice, &key);
    let acl = json!({ "allow": ["*"], "deny": ["localhost"] });
    set_state(&alice, &room, ("m.room.server_acl", ""), acl);
    let target = origin.user("bob");
    let signed = signed(&key, &target, "token");
    let body = json!({
        "type": "m.room.member", "room_id": room, "sender": alice.user_id, "state_key": target,
        "content": {
            "membership": "invite",
            "third_party_invite": { "display_name": "b", "signed": signed },
        },
    });
    let room = percent_encode(&room);
    let path = format!("/_matrix/federation/v1/exchange_third_party_invite/{room}");
    let response = origin.send(&here, Method::PUT, &path, &body);
    expect_error(&response, 403, "M_FORBIDDEN");
}

#[test]
fn onbind_does_not_invite_who_blocks_the_inviter() {
    let server = TestServer::new();
    let [alice, bob] = ["alice", "bob"].map(|name| server.register(name));
    let key = ServerKey::generate();
    let room = create_room_with_third_party_invite(&alice, &key);
    set_filter(&bob, json!({ "blocked_users": [alice.user_id] }));
    send_onbind(&server, &key, &bob, (&alice, &room));
    assert!(!is_invited(&bob, &room));
    set_filter(&bob, json!({}));
    send_onbind(&server, &key, &bob, (&alice, &room));
    assert!(is_invited(&bob, &room));
}
