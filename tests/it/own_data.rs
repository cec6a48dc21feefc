//! What belongs to one user is neither read nor changed by another.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{change_membership, create_room, create_room_with, join, leave, room_path},
    test_server::{TestServer, expect_error, expect_ok},
};

const CLIENT: &str = "/_matrix/client/v3";

#[test]
fn the_data_of_another_user_is_neither_read_nor_changed() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(&alice, json!({}));
    let filter = expect_ok(alice.post(
        &format!("{CLIENT}/user/{}/filter", alice.user_id),
        json!({}),
    ));
    let filter = filter["filter_id"].as_str().expect("a filter id");
    let paths = |user: &str| {
        let (own, in_room) = (
            format!("{CLIENT}/user/{user}"),
            format!("{CLIENT}/user/{user}/rooms/{room}"),
        );
        [
            (Method::PUT, format!("{own}/account_data/m.x"), json!({})),
            (Method::GET, format!("{own}/account_data/m.x"), Value::Null),
            (
                Method::PUT,
                format!("{in_room}/account_data/m.x"),
                json!({}),
            ),
            (
                Method::GET,
                format!("{in_room}/account_data/m.x"),
                Value::Null,
            ),
            (Method::PUT, format!("{in_room}/tags/u.x"), json!({})),
            (Method::GET, format!("{in_room}/tags"), Value::Null),
            (Method::DELETE, format!("{in_room}/tags/u.x"), Value::Null),
            (Method::POST, format!("{own}/filter"), json!({})),
            (Method::GET, format!("{own}/filter/{filter}"), Value::Null),
            (
                Method::POST,
                format!("{own}/openid/request_token"),
                json!({}),
            ),
            (
                Method::PUT,
                format!("{CLIENT}/presence/{user}/status"),
                json!({ "presence": "online" }),
            ),
            (
                Method::PUT,
                format!("{CLIENT}/rooms/{room}/typing/{user}"),
                json!({ "typing": true, "timeout": 1 }),
            ),
            (
                Method::PUT,
                format!("{CLIENT}/profile/{user}/displayname"),
                json!({ "displayname": "x" }),
            ),
            (
                Method::DELETE,
                format!("{CLIENT}/profile/{user}/displayname"),
                Value::Null,
            ),
        ]
    };
    for (method, path, body) in paths(&alice.user_id) {
        expect_ok(alice.request(method.clone(), &path, body.clone()));
        expect_error(&bob.request(method, &path, body), 403, "M_FORBIDDEN");
    }
}

#[test]
fn the_devices_of_another_user_are_unknown() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let path = format!("{CLIENT}/devices/{}", alice.device_id);
    expect_error(&bob.get(&path), 404, "M_NOT_FOUND");
    let name = json!({ "display_name": "mine" });
    expect_error(&bob.put(&path, name), 404, "M_NOT_FOUND");
    // Deleting a device that one does not have succeeds, without effect.
    expect_ok(bob.request_with_password(Method::DELETE, &path, json!({})));
    assert!(alice.is_logged_in());
    let device = expect_ok(alice.get(&path));
    assert_eq!(device["display_name"], Value::Null);
}

#[test]
fn joined_members_are_listed_for_joined_members_only() {
    let server = TestServer::new();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    let room = create_room_with(&[&alice, &bob]);
    let members = room_path(&room, "joined_members");
    expect_ok(bob.get(&members));
    leave(&bob, &room);
    let body = json!({ "user_id": carol.user_id });
    expect_ok(change_membership(&alice, &room, "invite", body));
    for user in [&bob, &carol] {
        expect_error(&user.get(&members), 403, "M_FORBIDDEN");
    }
    join(&carol, &room);
    expect_ok(carol.get(&members));
}
