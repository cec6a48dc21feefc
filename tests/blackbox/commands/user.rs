//! `hearth user`.

use std::fs;

use serde_json::{Value, json};

use super::{Owner, log_in, sync};
use crate::common::{client_api::register, http::Client};

fn password_of(response: &Value) -> String {
    response["password"].as_str().unwrap().to_owned()
}

#[test]
fn a_made_up_password_logs_in_and_is_not_logged() {
    let owner = Owner::new();
    let server = owner.start();
    let mut passwords = Vec::new();
    let added = owner.json(&["user", "add", "Alice", "--name", "Alice A"]);
    assert_eq!(added["user_id"], "@alice:localhost");
    let first = password_of(&added);
    assert_eq!(log_in(server.port, "alice", &first).status, 200);
    let second = password_of(&owner.json(&["user", "password", "@alice", "--generate"]));
    assert_eq!(log_in(server.port, "alice", &first).status, 403);
    assert_eq!(log_in(server.port, "alice", &second).status, 200);
    let rescue = owner.json(&["user", "rescue", "@alice:localhost"]);
    assert_eq!(rescue["devices"], 2);
    assert_eq!(rescue["backed_up_keys"], Value::Null);
    let third = password_of(&rescue);
    assert_eq!(log_in(server.port, "alice", &third).status, 200);
    let printed = owner.run(&["user", "rescue", "alice"]);
    assert!(printed.contains("key backup"), "{printed}");
    passwords.extend([first, second, third]);
    let log = fs::read_to_string(owner.path().join("log")).unwrap();
    assert!(
        log.contains("@alice:localhost was added by the owner"),
        "{log}"
    );
    assert!(
        !passwords.iter().any(|password| log.contains(password)),
        "{log}"
    );
}

#[test]
fn a_new_user_is_named_by_a_user_id_of_this_server_too() {
    let owner = Owner::new();
    let server = owner.start();
    for (name, expected) in [
        ("@alice:localhost", "@alice:localhost"),
        ("@bob", "@bob:localhost"),
        ("carol:localhost", "@carol:localhost"),
    ] {
        let added = owner.json(&["user", "add", name, "--generate"]);
        assert_eq!(added["user_id"], expected);
    }
    let error = owner.fails(&["user", "add", "@dora:other.example", "--generate"]);
    assert!(error.contains("this server is localhost"), "{error}");
    drop(server);
}

#[test]
fn the_password_is_the_first_line_of_the_standard_input_with_password_stdin() {
    let owner = Owner::new();
    let server = owner.start();
    let add = ["user", "add", "alice", "--password-stdin"];
    let output = owner.output(&add, "correct horse battery\nnot this\n");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        log_in(server.port, "alice", "correct horse battery").status,
        200
    );
    let set = ["user", "password", "alice", "--password-stdin"];
    let output = owner.output(&set, "short\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let output = owner.output(&set, "staple of a battery");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        log_in(server.port, "alice", "staple of a battery").status,
        200
    );
}

#[test]
fn a_new_password_logs_out_devices_on_request_only() {
    let owner = Owner::new();
    let server = owner.start();
    let token = register(server.port, "alice").unwrap();
    owner.run(&["user", "password", "alice", "--generate"]);
    assert_eq!(sync(server.port, &token).0, 200);
    owner.run(&["user", "password", "alice", "--generate", "--logout"]);
    assert_eq!(sync(server.port, &token), (401, json!("M_UNKNOWN_TOKEN")));
}

#[test]
fn the_first_account_of_a_command_is_an_administrator_and_others_become_one() {
    let owner = Owner::new();
    let server = owner.start();
    owner.run(&["user", "add", "alice", "--generate"]);
    owner.run(&["user", "add", "bob", "--generate"]);
    owner.run(&["user", "add", "carol", "--generate", "--admin"]);
    let admins = || -> Vec<bool> {
        let list = owner.json(&["user", "list"]);
        let users = list["users"].as_array().unwrap().iter();
        users.map(|user| user["admin"].as_bool().unwrap()).collect()
    };
    assert_eq!(admins(), [true, false, true]);
    owner.run(&["user", "admin", "bob"]);
    owner.run(&["user", "admin", "--remove", "alice"]);
    assert_eq!(admins(), [false, true, true]);
    drop(server);
}

#[test]
fn a_locked_or_suspended_user_is_refused_until_it_ends_administrators_included() {
    let owner = Owner::new();
    let server = owner.start();
    let alice = register(server.port, "alice").unwrap();
    let printed = owner.run(&["user", "lock", "alice"]);
    assert_eq!(printed, "@alice:localhost is locked\n");
    assert_eq!(sync(server.port, &alice), (401, json!("M_USER_LOCKED")));
    owner.run(&["user", "lock", "--release", "alice"]);
    assert_eq!(sync(server.port, &alice).0, 200);

    let create_room = || {
        let mut client = Client::connect(server.port, Some(&format!("Bearer {alice}"))).unwrap();
        let room = client.request("POST", "/_matrix/client/v3/createRoom", Some(&json!({})));
        room.unwrap().status
    };
    owner.run(&["user", "suspend", "alice"]);
    assert_eq!(create_room(), 403);
    let list = owner.run(&["user", "list"]);
    assert!(list.contains("admin, suspended"), "{list}");
    owner.run(&["user", "suspend", "--release", "alice"]);
    assert_eq!(create_room(), 200);
}

#[test]
fn a_deactivated_account_is_gone_for_ever() {
    let owner = Owner::new();
    let server = owner.start();
    let alice = register(server.port, "alice").unwrap();
    let error = owner.fails(&["user", "deactivate", "alice"]);
    assert!(error.contains("--yes"), "{error}");
    assert_eq!(sync(server.port, &alice).0, 200);
    owner.run(&["user", "deactivate", "--yes", "alice"]);
    assert_eq!(sync(server.port, &alice).0, 401);
    let password = "correct horse battery staple";
    assert_eq!(log_in(server.port, "alice", password).status, 403);
    for change in [
        &["user", "password", "alice", "--generate"][..],
        &["user", "lock", "alice"],
        &["user", "suspend", "alice"],
        &["user", "admin", "alice"],
        &["user", "rescue", "alice"],
        &["user", "deactivate", "--yes", "alice"],
    ] {
        let error = owner.fails(change);
        assert!(
            error.contains("@alice:localhost is deactivated"),
            "{change:?}: {error}"
        );
    }
    owner.fails(&["user", "add", "alice", "--generate"]);
    // What was kept can still be erased.
    owner.run(&["user", "deactivate", "--yes", "--erase", "alice"]);
    owner.fails(&["user", "deactivate", "--yes", "--erase", "alice"]);
    assert_eq!(owner.json(&["user", "show", "alice"])["deactivated"], true);
}

#[test]
fn sessions_are_listed_and_logged_out() {
    let owner = Owner::new();
    let server = owner.start();
    let first = register(server.port, "alice").unwrap();
    let login = log_in(server.port, "alice", "correct horse battery staple");
    let login: Value = serde_json::from_slice(&login.body).unwrap();
    let (second, device) = (login["access_token"].as_str(), login["device_id"].as_str());
    let (second, device) = (second.unwrap(), device.unwrap());
    let sessions = owner.json(&["user", "sessions", "alice"]);
    let sessions = sessions["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    assert!(
        sessions
            .iter()
            .any(|session| session["device_id"] == device)
    );
    owner.run(&["user", "logout", "alice", "--device", device]);
    assert_eq!(sync(server.port, second).0, 401);
    assert_eq!(sync(server.port, &first).0, 200);
    let printed = owner.run(&["user", "logout", "alice"]);
    assert_eq!(printed, "1 devices were logged out\n");
    assert_eq!(sync(server.port, &first).0, 401);
}
