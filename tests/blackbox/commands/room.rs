//! `hearth room`.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Owner, client};
use crate::common::client_api::{create_public_room, join, register, send_text};

/// More than are needed until a small room is deleted.
const MAX_LOOKS: usize = 10_000;

#[test]
fn rooms_and_their_members_are_shown_and_all_users_of_the_server_leave_on_request() {
    let owner = Owner::new();
    let server = owner.start();
    let [alice, bob] = ["alice", "bob"].map(|user| register(server.port, user).unwrap());
    let (mut alice, mut bob) = (client(server.port, &alice), client(server.port, &bob));
    let room = create_public_room(&mut alice).unwrap();
    join(&mut bob, &room).unwrap();
    let name = format!("/_matrix/client/v3/rooms/{room}/state/m.room.name");
    let sent = alice.request("PUT", &name, Some(&json!({ "name": "The \u{1b}[31mclub" })));
    assert_eq!(sent.unwrap().status, 200);
    let other = create_public_room(&mut alice).unwrap();

    let print_all = || {
        let list = owner.json(&["room", "list"]);
        let rooms = list["rooms"].as_array().unwrap();
        assert_eq!(rooms.len(), 2);
        assert_eq!(
            rooms[0]["room_id"], room,
            "the one with the most members is first"
        );
        let printed = owner.run(&["room", "list"]);
        assert!(printed.contains("\u{fffd}[31mclub"), "{printed}");
        let shown = owner.json(&["room", "show", &room]);
        assert_eq!(
            (&shown["joined"], &shown["joined_here"]),
            (&json!(2), &json!(2))
        );
        assert_eq!(shown["join_rule"], "public");
        let members = owner.json(&["room", "members", &room]);
        assert_eq!(members["members"].as_array().unwrap().len(), 2);
        [list, shown, members]
    };
    let running = print_all();
    assert!(server.stop(Signal::TERM).unwrap().success());
    assert_eq!(print_all(), running);

    let printed = owner.run(&["room", "leave", &room]);
    assert_eq!(printed, "2 users left\n");
    let server = owner.start();
    assert_eq!(owner.json(&["room", "leave", &room])["left"], 0);
    let members = owner.json(&["room", "members", &room]);
    assert_eq!(members["members"], json!([]));
    let rooms: Value = super::client(server.port, &register(server.port, "carol").unwrap())
        .json("GET", "/_matrix/client/v3/joined_rooms", None)
        .unwrap();
    assert_eq!(rooms["joined_rooms"], json!([]));
    assert_eq!(owner.json(&["room", "show", &other])["joined"], 1);
    for unknown in [
        "!nothing:localhost",
        "#nothing:localhost",
        "#a:other.example",
    ] {
        let error = owner.fails(&["room", "show", unknown]);
        assert!(error.contains("hearth room list"), "{error}");
    }
    owner.fails(&["room", "leave", "nonsense"]);
}

#[test]
fn nobody_enters_a_blocked_room_until_it_is_unblocked_and_its_members_stay() {
    let owner = Owner::new();
    let server = owner.start();
    let [alice, bob] = ["alice", "bob"].map(|user| register(server.port, user).unwrap());
    let (mut alice, mut bob) = (client(server.port, &alice), client(server.port, &bob));
    let room = create_public_room(&mut alice).unwrap();
    owner.run(&["room", "block", &room]);
    // Of a room that is not known here.
    owner.run(&["room", "block", "!elsewhere:other.example"]);
    let mut post = |path: &str, body: Value| {
        let response = alice.request("POST", path, Some(&body)).unwrap();
        (response.status, String::from_utf8(response.body).unwrap())
    };
    let invite = format!("/_matrix/client/v3/rooms/{room}/invite");
    let (status, error) = post(&invite, json!({ "user_id": "@bob:localhost" }));
    assert!(
        status == 403 && error.contains("blocked"),
        "{status} {error}"
    );
    let remote = "/_matrix/client/v3/join/!elsewhere:other.example?via=other.example";
    let (status, error) = post(remote, json!({}));
    assert!(
        status == 403 && error.contains("blocked"),
        "{status} {error}"
    );
    let remote = "/_matrix/client/v3/knock/!elsewhere:other.example?via=other.example";
    let (status, error) = post(remote, json!({}));
    assert!(
        status == 403 && error.contains("blocked"),
        "{status} {error}"
    );
    let refused = join(&mut bob, &room).unwrap_err().to_string();
    assert!(
        refused.contains("403") && refused.contains("blocked"),
        "{refused}"
    );
    // Its member still writes and changes the profile there.
    send_text(&mut alice, &room, "1", "hello").unwrap();
    let name = "/_matrix/client/v3/profile/@alice:localhost/displayname";
    let renamed = alice.request("PUT", name, Some(&json!({ "displayname": "A" })));
    assert_eq!(renamed.unwrap().status, 200);

    assert_eq!(owner.json(&["room", "show", &room])["blocked"], true);
    let blocked = owner.json(&["room", "blocked"]);
    assert_eq!(blocked["rooms"].as_array().unwrap().len(), 2);
    owner.run(&["room", "unblock", &room]);
    join(&mut bob, &room).unwrap();
    let error = owner.fails(&["room", "unblock", &room]);
    assert!(error.contains("hearth room blocked"), "{error}");
    owner.fails(&["room", "block", "nonsense"]);
}

#[test]
fn a_room_is_deleted_on_a_running_and_on_a_stopped_server() {
    let owner = Owner::new();
    let server = owner.start();
    let mut alice = client(server.port, &register(server.port, "alice").unwrap());
    let [first, second] = [(); 2].map(|()| create_public_room(&mut alice).unwrap());
    send_text(&mut alice, &first, "1", "hello").unwrap();
    let printed = owner.run(&["room", "delete", &first]);
    assert_eq!(printed, format!("{first} is deleted\n"));
    let error = owner.fails(&["room", "delete", &first]);
    assert!(error.contains("hearth room list"), "{error}");
    assert!(server.stop(Signal::TERM).unwrap().success());
    let deleted = owner.json(&["room", "delete", &second, "--block"]);
    assert_eq!(deleted["deleted"], true);
    assert_eq!(owner.json(&["room", "list"])["rooms"], json!([]));
    assert_eq!(
        owner.json(&["room", "blocked"])["rooms"][0]["room_id"],
        second
    );
}

#[test]
fn the_deletion_of_a_room_goes_on_after_the_server_was_killed() {
    let owner = Owner::new();
    let server = owner.start();
    let mut alice = client(server.port, &register(server.port, "alice").unwrap());
    let room = create_public_room(&mut alice).unwrap();
    for number in 0..400 {
        send_text(&mut alice, &room, &number.to_string(), "hello").unwrap();
    }
    let mut command = owner.command(&["room", "delete", &room]);
    let mut deleting = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let left = |rooms: Value| rooms["joined_rooms"] == json!([]);
    let mut is_left = || {
        let joined = alice.json("GET", "/_matrix/client/v3/joined_rooms", None);
        left(joined.unwrap())
    };
    assert!((0..MAX_LOOKS).any(|_| is_left()));
    server.stop(Signal::KILL).unwrap();
    deleting.wait().unwrap();
    let server = owner.start();
    let is_deleted = || owner.json(&["room", "list"])["rooms"] == json!([]);
    assert!((0..MAX_LOOKS).any(|_| is_deleted()));
    let error = owner.fails(&["room", "show", &room]);
    assert!(error.contains("hearth room list"), "{error}");
    let mut bob = client(server.port, &register(server.port, "bob").unwrap());
    let other = create_public_room(&mut bob).unwrap();
    send_text(&mut bob, &other, "1", "hello").unwrap();
}
