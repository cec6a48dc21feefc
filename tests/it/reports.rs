//! Reports of events, rooms and users, rooms shared with a user, TURN servers, and what servers without
//! third-party networks and identifiers answer.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room, create_room_with, join, join_via, leave, percent_encode, room_path, send_text,
    },
    test_server::{JsonResponse, TestServer, TestUser, expect_error, expect_ok},
};

fn report_event(user: &TestUser<'_>, room: &str, event: &str) -> JsonResponse {
    let tail = format!("report/{}", percent_encode(event));
    user.post(&room_path(room, &tail), json!({ "reason": "spam" }))
}

fn report_room(user: &TestUser<'_>, room: &str) -> JsonResponse {
    user.post(&room_path(room, "report"), json!({ "reason": "" }))
}

fn report_user(user: &TestUser<'_>, reported: &str) -> JsonResponse {
    let path = format!(
        "/_matrix/client/v3/users/{}/report",
        percent_encode(reported)
    );
    user.post(&path, json!({ "reason": "rude" }))
}

#[test]
fn an_event_can_be_reported_by_members_who_may_see_it() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let state = json!([{
        "type": "m.room.history_visibility", "state_key": "",
        "content": { "history_visibility": "joined" },
    }]);
    let room = create_room(
        &alice,
        json!({ "preset": "public_chat", "initial_state": state }),
    );
    let before = send_text(&alice, &room, "before bob");
    let other = create_room_with(&[&alice, &bob]);
    let elsewhere = send_text(&alice, &other, "elsewhere");
    expect_error(&report_event(&bob, &room, &before), 404, "M_NOT_FOUND");
    join(&bob, &room);
    let event = send_text(&alice, &room, "to bob");
    assert_eq!(expect_ok(report_event(&bob, &room, &event)), json!({}));
    for hidden in [before.as_str(), elsewhere.as_str(), "$unknown"] {
        expect_error(&report_event(&bob, &room, hidden), 404, "M_NOT_FOUND");
    }
    expect_error(
        &report_event(&bob, "!none:localhost", &event),
        404,
        "M_NOT_FOUND",
    );
    leave(&bob, &room);
    expect_error(&report_event(&bob, &room, &event), 404, "M_NOT_FOUND");
}

#[test]
fn a_room_can_be_reported_by_who_may_know_of_it_and_any_user_by_anyone() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let public = create_room(&alice, json!({ "preset": "public_chat" }));
    let private = create_room(&alice, json!({ "preset": "private_chat" }));
    expect_ok(report_room(&alice, &private));
    expect_ok(report_room(&bob, &public));
    expect_error(&report_room(&bob, &private), 404, "M_NOT_FOUND");
    expect_error(&report_room(&bob, "!none:localhost"), 404, "M_NOT_FOUND");
    for user in [alice.user_id.as_str(), "@nobody:localhost", "@a:elsewhere"] {
        assert_eq!(expect_ok(report_user(&bob, user)), json!({}));
    }
    // Made-up names do not displace reports, and the answer does not tell who exists.
    let listed = expect_ok(server.administer("reports", &json!({})));
    let listed = listed["reports"].as_array().expect("a list");
    let users = listed.iter().map(|report| &report["user_id"]);
    let users: Vec<_> = users.filter(|user| user.is_string()).collect();
    assert_eq!(users, [&json!(alice.user_id)], "{listed:?}");
}

#[test]
fn reports_are_rate_limited() {
    let server = TestServer::with("registration = \"open\"\nrate_limits = true");
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let limited = (0..100).find(|_| report_user(&bob, &alice.user_id).0 == 429);
    assert!(limited.is_some_and(|number| number >= 10), "{limited:?}");
}

fn mutual_rooms(user: &TestUser<'_>, other: &str) -> Value {
    let other = percent_encode(other);
    let path = format!("/_matrix/client/v1/mutual_rooms?user_id={other}");
    let stable = expect_ok(user.get(&path));
    let path =
        format!("/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms?user_id={other}");
    assert_eq!(expect_ok(user.get(&path))["joined"], stable["joined"]);
    stable
}

#[test]
fn mutual_rooms_are_those_to_which_both_are_joined() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let shared = create_room_with(&[&alice, &bob]);
    let left = create_room_with(&[&alice, &bob]);
    leave(&bob, &left);
    create_room_with(&[&alice]);
    create_room(&bob, json!({ "invite": [alice.user_id] }));
    let expected = json!({ "count": 1, "joined": [shared] });
    assert_eq!(mutual_rooms(&alice, &bob.user_id), expected);
    assert_eq!(mutual_rooms(&bob, &alice.user_id), expected);
    let none = json!({ "count": 0, "joined": [] });
    assert_eq!(mutual_rooms(&alice, "@nobody:localhost"), none);
    assert_eq!(mutual_rooms(&alice, "@nobody:elsewhere"), none);
    let path = "/_matrix/client/v1/mutual_rooms";
    for query in [
        format!("?user_id={}", alice.user_id),
        "?user_id=bob".to_owned(),
        format!("?user_id={}&from=x", bob.user_id),
    ] {
        expect_error(
            &alice.get(&format!("{path}{query}")),
            400,
            "M_INVALID_PARAM",
        );
    }
    expect_error(&alice.get(path), 400, "M_MISSING_PARAM");
}

#[test]
fn mutual_rooms_come_in_pages_also_with_users_of_other_servers() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_room_with(&[&alice]);
    join_via(&bob, &room, &here);
    let expected = json!({ "count": 1, "joined": [room] });
    assert_eq!(mutual_rooms(&alice, &bob.user_id), expected);
    let carol = here.register("carol");
    let rooms: BTreeSet<_> = (0..205)
        .map(|_| create_room_with(&[&alice, &carol]))
        .collect();
    let first = mutual_rooms(&alice, &carol.user_id);
    assert_eq!(first["count"], 205);
    let next = first["next_batch"].as_str().unwrap();
    let path = format!(
        "/_matrix/client/v1/mutual_rooms?user_id={}&from={next}",
        carol.user_id
    );
    let second = expect_ok(alice.get(&path));
    assert_eq!(
        (&second["count"], second.get("next_batch")),
        (&json!(205), None)
    );
    let pages = [&first, &second].map(|page| page["joined"].as_array().unwrap().clone());
    let listed: BTreeSet<_> = pages
        .concat()
        .iter()
        .map(|id| id.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(listed, rooms);
    assert_eq!(pages.concat().len(), 205);
}

#[test]
fn clients_get_credentials_for_the_turn_server() {
    let none = TestServer::new();
    let path = "/_matrix/client/v3/voip/turnServer";
    assert_eq!(expect_ok(none.register("alice").get(path)), json!({}));
    let server = TestServer::with(
        "registration = \"open\"\nturn_uris = [\"turn:turn.example.org?transport=udp\"]\n\
         turn_secret = \"north\"\nturn_ttl = \"2h\"",
    );
    let response = expect_ok(server.register("alice").get(path));
    assert_eq!(
        response["uris"],
        json!(["turn:turn.example.org?transport=udp"])
    );
    assert_eq!(response["ttl"], 7200);
    // The clock of tests is at 1790000000 seconds.
    assert_eq!(response["username"], "1790007200:@alice:localhost");
    assert_eq!(response["password"].as_str().unwrap().len(), 28);
    expect_error(&server.get(path), 401, "M_MISSING_TOKEN");
}

#[test]
fn no_third_party_network_is_connected() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = |tail: &str| format!("/_matrix/client/v3/thirdparty/{tail}");
    assert_eq!(expect_ok(alice.get(&path("protocols"))), json!({}));
    for tail in [
        "protocol/irc",
        "location/irc?channel=%23a",
        "location?alias=%23a:localhost",
        "user/irc?nick=a",
        "user?userid=@a:localhost",
    ] {
        expect_error(&alice.get(&path(tail)), 404, "M_NOT_FOUND");
        expect_error(&server.get(&path(tail)), 401, "M_MISSING_TOKEN");
    }
}

#[test]
fn third_party_identifiers_can_be_neither_added_nor_bound_and_there_is_no_single_sign_on() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let path = |tail: &str| format!("/_matrix/client/v3/account/3pid{tail}");
    let address = json!({ "medium": "email", "address": "a@example.org" });
    let validated = json!({ "client_secret": "s", "sid": "1" });
    let bound =
        json!({ "client_secret": "s", "sid": "1", "id_server": "i", "id_access_token": "t" });
    for (tail, body) in [
        ("", json!({ "three_pid_creds": bound })),
        ("/add", validated),
        ("/bind", bound.clone()),
        ("/delete", address.clone()),
    ] {
        expect_error(&alice.post(&path(tail), body), 403, "M_FORBIDDEN");
    }
    let unbound = expect_ok(alice.post(&path("/unbind"), address));
    assert_eq!(unbound, json!({ "id_server_unbind_result": "no-support" }));
    for path in [
        "/_matrix/client/v3/login/sso/redirect?redirectUrl=https://app.example.org",
        "/_matrix/client/v3/login/sso/redirect/x?redirectUrl=https://app.example.org",
    ] {
        expect_error(&server.get(path), 404, "M_NOT_FOUND");
    }
    let metadata = server.get("/_matrix/client/v1/auth_metadata");
    expect_error(&metadata, 404, "M_UNRECOGNIZED");
    let guest = server.request(
        Method::POST,
        "/_matrix/client/v3/register?kind=guest",
        json!({}),
    );
    expect_error(&guest, 403, "M_FORBIDDEN");
}
