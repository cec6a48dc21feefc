use http::{Method, Request};
use serde_json::{Value, json};

use crate::home::{Home, PASSWORD, read, refused};

const DEVICES: &str = "/_matrix/client/v3/devices";
const DELETE_DEVICES: &str = "/_matrix/client/v3/delete_devices";

#[test]
fn a_user_sees_and_names_the_own_devices() {
    let home = Home::new();
    let one = home.register("alice");
    let two = home.log_in("alice");
    home.register("bob");
    let (status, body) = one.get(DEVICES);
    assert_eq!(status, 200);
    let mut ids: Vec<_> = body["devices"].as_array().unwrap().iter().collect();
    ids.sort_by_key(|device| device["device_id"].as_str());
    let mut expected = [&one.device_id, &two.device_id];
    expected.sort();
    assert_eq!(ids.len(), 2);
    for (device, id) in ids.iter().zip(expected) {
        assert_eq!(device["device_id"], json!(id));
        assert!(device["last_seen_ts"].is_u64());
    }
    let path = format!("{DEVICES}/{}", two.device_id);
    assert_eq!(
        one.put(&path, json!({"display_name": "my phone"})),
        (200, json!({}))
    );
    assert_eq!(one.put(&path, json!({})), (200, json!({})));
    assert_eq!(one.get(&path).1["display_name"], "my phone");
}

#[test]
fn a_device_of_somebody_else_is_not_found() {
    let home = Home::new();
    let alice = home.register("alice");
    let bob = home.register("bob");
    for id in [&bob.device_id, "NONE"] {
        let path = format!("{DEVICES}/{id}");
        refused(&alice.get(&path), 404, "M_NOT_FOUND");
        for body in [json!({"display_name": "mine"}), json!({})] {
            refused(&alice.put(&path, body), 404, "M_NOT_FOUND");
        }
    }
    let path = format!("{DEVICES}/{}", bob.device_id);
    let deleted = alice.ask_with_password(Method::DELETE, &path, json!({}));
    assert_eq!(deleted, (200, json!({})), "there is none to delete");
    assert!(bob.is_logged_in());
    let long = json!({"display_name": "x".repeat(256)});
    let path = format!("{DEVICES}/{}", alice.device_id);
    refused(&alice.put(&path, long), 400, "M_INVALID_PARAM");
}

#[test]
fn devices_are_deleted_with_the_password() {
    let home = Home::new();
    let one = home.register("alice");
    let [two, three, four] = [(); 3].map(|()| home.log_in("alice"));
    let path = format!("{DEVICES}/{}", two.device_id);
    let deleted = one.ask_with_password(Method::DELETE, &path, json!({}));
    assert_eq!(deleted, (200, json!({})));
    refused(&one.get(&path), 404, "M_NOT_FOUND");
    let body = json!({"devices": [three.device_id, four.device_id, "NONE"]});
    let deleted = one.ask_with_password(Method::POST, DELETE_DEVICES, body);
    assert_eq!(deleted, (200, json!({})));
    assert!(
        ![two, three, four]
            .iter()
            .any(|device| device.is_logged_in())
    );
    assert!(one.is_logged_in());
}

#[test]
fn a_device_is_deleted_without_a_body_too() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = format!("{DEVICES}/{}", alice.device_id);
    let (status, asked) = alice.ask(Method::DELETE, &path, Value::Null);
    assert_eq!(status, 401);
    let body = json!({"auth": alice.password_stage(&asked["session"])});
    assert_eq!(alice.delete(&path, body).0, 200);
    assert!(!alice.is_logged_in());
}

#[test]
fn a_wrong_password_deletes_nothing_and_may_be_corrected() {
    let home = Home::new();
    let alice = home.register("alice");
    let bob = home.register("bob");
    let body = json!({"devices": [alice.device_id]});
    let (_, asked) = alice.post(DELETE_DEVICES, body.clone());
    let attempt = |user: &str, password: &str| {
        let mut body = body.clone();
        body["auth"] = json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
            "session": asked["session"],
        });
        alice.post(DELETE_DEVICES, body)
    };
    // Neither a wrong password nor somebody else's right one.
    for (user, password) in [("alice", "wrong password"), ("bob", PASSWORD)] {
        let answer = attempt(user, password);
        refused(&answer, 401, "M_FORBIDDEN");
        assert_eq!(answer.1["session"], asked["session"]);
        assert_eq!(answer.1["flows"], asked["flows"]);
    }
    assert!(alice.is_logged_in() && bob.is_logged_in());
    assert_eq!(attempt("@alice:localhost", PASSWORD).0, 200);
    assert!(!alice.is_logged_in());
}

#[test]
fn what_was_authenticated_is_what_is_done() {
    let home = Home::new();
    let alice = home.register("alice");
    let other = home.log_in("alice");
    let bob = home.register("bob");
    let body = json!({"devices": ["NONE"]});
    let (_, asked) = alice.post(DELETE_DEVICES, body.clone());
    let session = &asked["session"];
    let complete = json!({"devices": ["NONE"], "auth": alice.password_stage(session)});
    assert_eq!(alice.post(DELETE_DEVICES, complete.clone()).0, 200);

    // Its answer may have got lost.
    let again = json!({"devices": ["NONE"], "auth": {"session": session}});
    assert_eq!(alice.post(DELETE_DEVICES, again.clone()).0, 200);

    let changed = json!({"devices": [other.device_id], "auth": {"session": session}});
    refused(&alice.post(DELETE_DEVICES, changed), 401, "M_FORBIDDEN");
    let path = format!("{DEVICES}/{}", other.device_id);
    let elsewhere = json!({"auth": {"session": session}});
    refused(&alice.delete(&path, elsewhere), 401, "M_FORBIDDEN");
    refused(&bob.post(DELETE_DEVICES, again), 401, "M_FORBIDDEN");
    assert!(other.is_logged_in());
}

#[test]
fn the_user_of_a_stage_may_be_named_as_it_was_once() {
    let home = Home::new();
    let alice = home.register("alice");
    let body = json!({"devices": [alice.device_id]});
    let (_, asked) = alice.post(DELETE_DEVICES, body.clone());
    let mut body = body;
    body["auth"] = json!({
        "type": "m.login.password",
        "user": "alice",
        "password": PASSWORD,
        "session": asked["session"],
    });
    assert_eq!(alice.post(DELETE_DEVICES, body).0, 200);
}

#[test]
fn a_stage_names_a_user_not_an_address() {
    let home = Home::new();
    let alice = home.register("alice");
    let body = json!({
        "devices": [],
        "auth": {
            "type": "m.login.password",
            "identifier": {"type": "m.id.thirdparty", "medium": "email", "address": "a@b.c"},
            "password": PASSWORD,
        },
    });
    refused(&alice.post(DELETE_DEVICES, body), 403, "M_FORBIDDEN");
}

#[test]
fn it_is_noted_where_a_device_was_seen_last() {
    let home = Home::new();
    let alice = home.register("alice");
    let path = format!("{DEVICES}/{}", alice.device_id);
    alice.get(&path);
    // What waited for a commit goes with this one.
    home.register("bob");
    assert_eq!(alice.get(&path).1["last_seen_ip"], "127.0.0.1");
}

#[test]
fn the_body_of_a_deletion_must_be_an_object() {
    let home = Home::new();
    let alice = home.register("alice");
    refused(&alice.post(DELETE_DEVICES, json!([])), 400, "M_BAD_JSON");
    refused(
        &alice.post(DELETE_DEVICES, json!({})),
        400,
        "M_MISSING_PARAM",
    );
    let request = Request::post(DELETE_DEVICES)
        .header("authorization", format!("Bearer {}", alice.token))
        .body(b"{\"devices\":".to_vec())
        .unwrap();
    refused(&read(&home.respond(request)), 400, "M_NOT_JSON");
}
