//! `hearth invite`, and registrations with its tokens.

use std::fs;

use serde_json::{Value, json};

use super::{Owner, client, log_in};
use crate::common::{
    client_api::create_public_room,
    http::Client,
    server::{Server, command, free_port},
};

const PASSWORD: &str = "correct horse battery staple";

/// A server whose registration is closed, with the account alice; her access token.
fn start_closed(owner: &Owner) -> (Server, String) {
    let port = free_port().unwrap();
    let settings = "registration = \"closed\"";
    let server = Server::start_with(command(), owner.path(), port, settings).unwrap();
    let output = owner.output(&["user", "add", "alice", "--password-stdin"], PASSWORD);
    assert!(output.status.success(), "{output:?}");
    let login: Value = serde_json::from_slice(&log_in(port, "alice", PASSWORD).body).unwrap();
    let token = login["access_token"].as_str().unwrap().to_owned();
    (server, token)
}

fn register(port: u16, user: &str, auth: Value) -> (u16, Value) {
    let body = json!({ "username": user, "password": PASSWORD, "auth": auth });
    let mut client = Client::connect(port, None).unwrap();
    let response = client.request("POST", "/_matrix/client/v3/register", Some(&body));
    let response = response.unwrap();
    (
        response.status,
        serde_json::from_slice(&response.body).unwrap(),
    )
}

/// Completes the stage of the registration token; returns the session.
fn begin(port: u16, user: &str, token: &str) -> String {
    let auth = json!({ "type": "m.login.registration_token", "token": token });
    let (status, response) = register(port, user, auth);
    assert_eq!(status, 401, "{response}");
    assert_eq!(
        response["completed"],
        json!(["m.login.registration_token"]),
        "{response}"
    );
    response["session"].as_str().unwrap().to_owned()
}

fn finish(port: u16, user: &str, session: &str) -> (u16, Value) {
    register(
        port,
        user,
        json!({ "type": "m.login.dummy", "session": session }),
    )
}

#[test]
fn an_invitation_lets_one_register_on_a_closed_server_and_join_its_rooms() {
    let owner = Owner::new();
    let (server, alice) = start_closed(&owner);
    let port = server.port;
    let (status, response) = register(port, "oma", Value::Null);
    assert_eq!(status, 403, "{response}");
    let mut alice = client(port, &alice);
    let public = create_public_room(&mut alice).unwrap();
    let private: Value = alice
        .json("POST", "/_matrix/client/v3/createRoom", Some(&json!({})))
        .unwrap();
    let private = private["room_id"].as_str().unwrap();

    let new = [
        "invite", "new", "--name", "Oma", "--room", &public, "--room", private,
    ];
    let error = owner.fails(&new);
    assert!(error.contains("--by"), "{error}");
    let invite = owner.json(&[&new[..], &["--by", "alice"]].concat());
    let token = invite["token"].as_str().unwrap();
    assert_eq!(invite["rooms"], json!([public, private]));

    let session = begin(port, "oma", token);
    finish(port, "oma", &session);
    // The response was lost, and the invitation is used up.
    let (status, response) = finish(port, "oma", &session);
    assert_eq!(status, 200, "{response}");
    let mut oma = client(port, response["access_token"].as_str().unwrap());
    let joined: Value = oma
        .json("GET", "/_matrix/client/v3/joined_rooms", None)
        .unwrap();
    let joined = joined["joined_rooms"].as_array().unwrap();
    assert!(
        joined.contains(&json!(public)) && joined.contains(&json!(private)),
        "{joined:?}"
    );

    let list = owner.json(&["invite", "list"]);
    let listed = &list["invites"][0];
    assert_eq!(
        (&listed["uses"], &listed["state"]),
        (&json!(1), &json!("used up"))
    );
    assert_eq!(listed["name"], "Oma");
    // It was the only one: registration is closed again.
    let auth = json!({ "type": "m.login.registration_token", "token": token });
    assert_eq!(register(port, "opa", auth).0, 403);
    let log = fs::read_to_string(owner.path().join("log")).unwrap();
    assert!(!log.contains(token), "{log}");
}

#[test]
fn of_two_registrations_with_a_token_for_one_the_second_fails() {
    let owner = Owner::new();
    let (server, _) = start_closed(&owner);
    // Registration stays open by another invitation.
    owner.run(&["invite", "new", "--uses", "any"]);
    let invite = owner.json(&["invite", "new"]);
    let token = invite["token"].as_str().unwrap();
    let [one, other] = ["one", "other"].map(|user| begin(server.port, user, token));
    assert_eq!(finish(server.port, "one", &one).0, 200);
    let (status, response) = finish(server.port, "other", &other);
    assert_eq!(
        (status, &response["errcode"]),
        (403, &json!("M_FORBIDDEN")),
        "{response}"
    );
    let error = response["error"].as_str().unwrap();
    assert!(error.contains("used up"), "{error}");
    assert_eq!(
        owner.json(&["user", "list"])["users"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn an_invitation_for_several_people_ends_with_its_uses_its_time_or_its_revocation() {
    let owner = Owner::new();
    let (server, _) = start_closed(&owner);
    let port = server.port;
    let token = |arguments: &[&str]| {
        let invite = owner.json(&[&["invite", "new"], arguments].concat());
        invite["token"].as_str().unwrap().to_owned()
    };
    let lasting = token(&["--uses", "any", "--for", "ever"]);
    let two = token(&["--uses", "2", "--for", "30d"]);
    let is_accepted = |user: &str, token: &str| {
        let auth = json!({ "type": "m.login.registration_token", "token": token });
        let (_, response) = register(port, user, auth);
        !response["completed"].as_array().is_none_or(Vec::is_empty)
    };
    for user in ["one", "two"] {
        let session = begin(port, user, &two);
        assert_eq!(finish(port, user, &session).0, 200);
    }
    assert!(!is_accepted("three", &two));
    assert!(is_accepted("three", &lasting));
    let printed = owner.run(&["invite", "list"]);
    assert!(
        printed.contains(&lasting)
            && printed.contains("usable")
            && printed.contains("used up")
            && printed.contains("in 30 days"),
        "{printed}"
    );
    owner.run(&["invite", "revoke", &lasting]);
    assert!(!is_accepted("three", &lasting));
    let error = owner.fails(&["invite", "revoke", &lasting]);
    assert!(error.contains("hearth invite list"), "{error}");
    for invalid in [
        &["--uses", "0"][..],
        &["--uses", "many"],
        &["--for", "long"],
        &["--for", "0d"],
        &["--for", "59s"],
        &["--for", "200years"],
        &["--by", "nobody"],
        &["--room", "!nothing:localhost"],
        &["--room", "nonsense"],
    ] {
        owner.fails(&[&["invite", "new"], invalid].concat());
    }
    for room in ["#nope:localhost", "garbage", "#nope:other.example"] {
        let error = owner.fails(&["invite", "new", "--room", room]);
        assert!(
            error.contains(room)
                && error.contains("id (`!…`)")
                && error.contains("alias of this server (`#…`)"),
            "{error}"
        );
    }
}

#[test]
fn an_invitation_is_accepted_in_capitals_too() {
    let owner = Owner::new();
    let (server, _) = start_closed(&owner);
    let invite = owner.json(&["invite", "new", "--uses", "2"]);
    let token = invite["token"].as_str().unwrap();
    let session = begin(server.port, "one", &token.to_uppercase());
    assert_eq!(finish(server.port, "one", &session).0, 200);
    let list = owner.json(&["invite", "list"]);
    assert_eq!(list["invites"][0]["uses"], 1);
    owner.run(&["invite", "revoke", &token.to_uppercase()]);
}
