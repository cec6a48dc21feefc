//! Dehydrated devices (MSC3814).

use serde_json::{Value, json};

use crate::{
    e2ee_keys::{claim, query, upload_keys},
    test_server::{TestServer, TestUser, expect_error, expect_ok},
    to_device::{note_numbers, send_note, send_to_device},
};

const PATH: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

/// The body that uploads the dehydrated device `id` with two one-time keys and a fallback key.
fn upload_body(user: &TestUser<'_>, id: &str) -> Value {
    let key = |name: &str| json!({ "key": format!("{id} {name}"), "signatures": {} });
    json!({
        "device_id": id,
        "initial_device_display_name": "dehydrated",
        "device_data": { "algorithm": "org.matrix.msc3814.v2", "device_pickle": id, "nonce": "n" },
        "device_keys": {
            "user_id": user.user_id, "device_id": id, "dehydrated": true,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { format!("ed25519:{id}"): "a key" }, "signatures": {},
        },
        "one_time_keys": { "signed_curve25519:A": key("A"), "signed_curve25519:B": key("B") },
        "fallback_keys": { "signed_curve25519:C": key("C") },
    })
}

fn dehydrate(user: &TestUser<'_>, id: &str) {
    let response = expect_ok(user.put(PATH, upload_body(user, id)));
    assert_eq!(response, json!({ "device_id": id }));
}

/// The user, as the dehydrated device `DEHYDRATED`.
fn as_dehydrated<'s>(user: &TestUser<'s>) -> TestUser<'s> {
    let mut dehydrated = user.clone();
    dehydrated.device_id = "DEHYDRATED".to_owned();
    dehydrated
}

/// All messages of the device. Clients that page by `GET` stop where there is no token, those that
/// page by `POST` where there are no events: both see the same.
fn read_events(user: &TestUser<'_>, id: &str) -> Vec<u64> {
    let path = format!("{PATH}/{id}/events");
    let (mut by_get, mut page) = (Vec::new(), expect_ok(user.get(&path)));
    while let Some(token) = page.get("next_batch") {
        by_get.extend(note_numbers(&page["events"]));
        let token = token.as_str().expect("a token, or none");
        page = expect_ok(user.get(&format!("{path}?from={token}")));
    }
    let (mut by_post, mut page) = (Vec::new(), expect_ok(user.post(&path, json!({}))));
    while page["events"] != json!([]) {
        by_post.extend(note_numbers(&page["events"]));
        page = expect_ok(user.post(&path, json!({ "next_batch": page["next_batch"] })));
    }
    assert_eq!(by_get, by_post);
    by_get
}

#[test]
fn dehydrated_device_receives_to_device_messages_after_logout_and_restart() {
    let mut server = TestServer::new();
    let token = {
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        expect_error(&alice.get(PATH), 404, "M_NOT_FOUND");
        expect_error(&alice.delete(PATH, json!({})), 404, "M_NOT_FOUND");
        dehydrate(&alice, "DEHYDRATED");
        expect_ok(alice.post("/_matrix/client/v3/logout", json!({})));
        let keys = query(&bob, &alice)["device_keys"][&alice.user_id].clone();
        let ids: Vec<&String> = keys.as_object().expect("devices").keys().collect();
        assert_eq!(ids, ["DEHYDRATED"]);
        assert_eq!(keys["DEHYDRATED"]["dehydrated"], true);
        let dehydrated = as_dehydrated(&alice);
        let claimed: Vec<_> = (0..4).filter_map(|_| claim(&bob, &dehydrated)).collect();
        assert_eq!(
            claimed,
            ["A", "B", "C", "C"].map(|name| format!("signed_curve25519:{name}"))
        );
        (0..205).for_each(|n| send_note(&bob, &dehydrated, n));
        bob.token.clone()
    };
    server.restart();
    let (alice, bob) = (server.log_in("alice"), server.user_with_token(&token));
    let dehydrated = expect_ok(alice.get(PATH));
    assert_eq!(dehydrated["device_id"], "DEHYDRATED");
    assert_eq!(dehydrated["device_data"]["device_pickle"], "DEHYDRATED");
    // A client that was interrupted starts again from the beginning.
    for _ in 0..2 {
        assert_eq!(read_events(&alice, "DEHYDRATED"), Vec::from_iter(0..205));
    }
    expect_error(
        &alice.post(&format!("{PATH}/OTHER/events"), json!({})),
        403,
        "M_FORBIDDEN",
    );
    expect_error(
        &bob.post(&format!("{PATH}/DEHYDRATED/events"), json!({})),
        403,
        "M_FORBIDDEN",
    );
    let wrong_token = json!({ "next_batch": "s1_0_0_0_0" });
    expect_error(
        &alice.post(&format!("{PATH}/DEHYDRATED/events"), wrong_token),
        400,
        "M_INVALID_PARAM",
    );
    let deleted = expect_ok(alice.delete(PATH, json!({})));
    assert_eq!(deleted, json!({ "device_id": "DEHYDRATED" }));
    expect_error(&alice.get(PATH), 404, "M_NOT_FOUND");
    assert_eq!(devices(&alice), std::slice::from_ref(&alice.device_id));
}

fn devices(user: &TestUser<'_>) -> Vec<String> {
    let response = expect_ok(user.get("/_matrix/client/v3/devices"));
    let devices = response["devices"].as_array().expect("a list");
    let ids = devices.iter().map(|device| &device["device_id"]);
    ids.map(|id| id.as_str().expect("an id").to_owned())
        .collect()
}

#[test]
fn new_dehydrated_device_replaces_the_previous_one() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    dehydrate(&alice, "FIRST");
    expect_ok(send_to_device(
        &bob,
        (&alice.user_id, "*"),
        "t",
        json!({ "n": 1 }),
    ));
    dehydrate(&alice, "SECOND");
    assert_eq!(
        devices(&alice).len(),
        2,
        "the own device and the second dehydrated one"
    );
    assert_eq!(read_events(&alice, "SECOND"), [0; 0]);
    let keys = query(&bob, &alice)["device_keys"][&alice.user_id].clone();
    assert!(keys["FIRST"].is_null() && keys["SECOND"].is_object());
    // It can be deleted like any other device.
    let path = "/_matrix/client/v3/devices/SECOND";
    expect_ok(alice.request_with_password(http::Method::DELETE, path, json!({})));
    expect_error(&alice.get(PATH), 404, "M_NOT_FOUND");
}

#[test]
fn reuploaded_dehydrated_device_keeps_claimed_keys_and_messages() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    dehydrate(&alice, "DEHYDRATED");
    let dehydrated = as_dehydrated(&alice);
    let claimed = claim(&bob, &dehydrated);
    assert_eq!(claimed.as_deref(), Some("signed_curve25519:A"));
    send_note(&bob, &dehydrated, 7);
    dehydrate(&alice, "DEHYDRATED");
    assert_eq!(
        claim(&bob, &dehydrated).as_deref(),
        Some("signed_curve25519:B")
    );
    assert_eq!(read_events(&alice, "DEHYDRATED"), [7]);
}

#[test]
fn invalid_upload_is_rejected_and_login_with_the_same_id_ends_the_dehydrated_device() {
    let server = TestServer::new();
    let alice = server.register("alice");
    upload_keys(&alice, json!({}));
    let own = upload_body(&alice, &alice.device_id);
    expect_error(&alice.put(PATH, own), 400, "M_INVALID_PARAM");
    assert!(alice.is_logged_in());
    let mut of_bob = upload_body(&alice, "DEHYDRATED");
    of_bob["device_keys"]["user_id"] = json!("@bob:localhost");
    expect_error(&alice.put(PATH, of_bob), 400, "M_INVALID_PARAM");
    let mut large = upload_body(&alice, "DEHYDRATED");
    large["device_data"]["device_pickle"] = json!("x".repeat(200_000));
    expect_error(&alice.put(PATH, large), 413, "M_TOO_LARGE");
    for data in [json!(5), json!("data"), json!([{}]), json!(null)] {
        let mut body = upload_body(&alice, "DEHYDRATED");
        body["device_data"] = data;
        expect_error(&alice.put(PATH, body), 400, "M_BAD_JSON");
    }

    // A login with its device id replaces it.
    dehydrate(&alice, "DEHYDRATED");
    let login = server.log_in_with("alice", json!({ "device_id": "DEHYDRATED" }));
    let logged_in = server.user_from_login(&expect_ok(login));
    assert_eq!(logged_in.device_id, "DEHYDRATED");
    expect_error(&alice.get(PATH), 404, "M_NOT_FOUND");
    let keys = query(&alice, &logged_in)["device_keys"][&alice.user_id].clone();
    assert!(keys["DEHYDRATED"].is_null(), "{keys}");
}
