//! Cross-signing keys and signatures.

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{create_room_with, next_batch, sync},
    e2ee_keys::{SigningKey, device_keys, query, upload_keys},
    test_server::{TestServer, expect_error, expect_ok},
};

pub const UPLOAD_CROSS_SIGNING_KEYS: &str = "/_matrix/client/v3/keys/device_signing/upload";
pub const UPLOAD_SIGNATURES: &str = "/_matrix/client/v3/keys/signatures/upload";

pub struct CrossSigningKeys {
    pub master: SigningKey,
    pub self_signing: SigningKey,
    pub user_signing: SigningKey,
}

impl CrossSigningKeys {
    pub fn new() -> Self {
        Self {
            master: SigningKey::new(),
            self_signing: SigningKey::new(),
            user_signing: SigningKey::new(),
        }
    }

    /// The body of `/keys/device_signing/upload`.
    pub fn upload_body(&self, user: &str) -> Value {
        json!({
            "master_key": self.master.key(user, "master"),
            "self_signing_key": self.master.sign(self.self_signing.key(user, "self_signing"), user),
            "user_signing_key": self.master.sign(self.user_signing.key(user, "user_signing"), user),
        })
    }
}

#[test]
fn only_one_of_two_concurrent_first_uploads_skips_the_password() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let (one, other) = (CrossSigningKeys::new(), CrossSigningKeys::new());
    let user = alice.user_id.as_str();
    let bodies = [one.upload_body(user), other.upload_body(user)];
    let send = |body| {
        server.send(
            Method::POST,
            UPLOAD_CROSS_SIGNING_KEYS,
            Some(&alice.token),
            body,
        )
    };
    let responses = server.run(server.join_all(bodies.iter().map(send).collect()));
    let mut statuses: Vec<u16> = responses.into_iter().map(|(status, _)| status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
}

#[test]
fn new_master_key_removes_self_signing_and_user_signing_keys() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let (first, second) = (CrossSigningKeys::new(), CrossSigningKeys::new());
    let user = alice.user_id.as_str();
    let without_master = json!({ "self_signing_key": first.upload_body(user)["self_signing_key"] });
    expect_error(
        &alice.post(UPLOAD_CROSS_SIGNING_KEYS, without_master),
        400,
        "M_MISSING_PARAM",
    );
    expect_ok(alice.post(UPLOAD_CROSS_SIGNING_KEYS, first.upload_body(user)));
    let master = json!({ "master_key": second.upload_body(user)["master_key"] });
    expect_ok(alice.request_with_password(Method::POST, UPLOAD_CROSS_SIGNING_KEYS, master));
    let queried = query(&alice, &alice);
    assert!(queried["master_keys"][user].is_object());
    assert_eq!(queried["self_signing_keys"][user], Value::Null);
    assert_eq!(queried["user_signing_keys"][user], Value::Null);
}

#[test]
fn key_id_must_be_unique_and_keys_are_deleted_on_deactivation() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let mut keys = CrossSigningKeys::new();
    let user = alice.user_id.as_str();
    expect_ok(alice.post(UPLOAD_CROSS_SIGNING_KEYS, keys.upload_body(user)));
    let queried = query(&bob, &alice);
    assert!(queried["master_keys"][user].is_object());
    keys.self_signing = SigningKey::new();
    let mut duplicate = keys.upload_body(user);
    duplicate["self_signing_key"] = keys
        .master
        .sign(keys.master.key(user, "self_signing"), user);
    let response = alice.request_with_password(Method::POST, UPLOAD_CROSS_SIGNING_KEYS, duplicate);
    expect_error(&response, 403, "M_FORBIDDEN");
    let device_id = json!({ "device_id": keys.self_signing.public() });
    expect_ok(server.log_in_with("alice", device_id));
    let response = alice.request_with_password(
        Method::POST,
        UPLOAD_CROSS_SIGNING_KEYS,
        keys.upload_body(user),
    );
    expect_error(&response, 403, "M_FORBIDDEN");
    let path = "/_matrix/client/v3/account/deactivate";
    expect_ok(alice.request_with_password(Method::POST, path, json!({})));
    let queried = query(&bob, &alice);
    assert_eq!(queried["master_keys"][user], Value::Null);
}

#[test]
fn first_upload_needs_no_password_but_replacement_does() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let (first, second) = (CrossSigningKeys::new(), CrossSigningKeys::new());
    let user = alice.user_id.as_str();
    let mut unsigned = first.upload_body(user);
    unsigned["self_signing_key"] = second
        .master
        .sign(first.self_signing.key(user, "self_signing"), user);
    expect_error(
        &alice.post(UPLOAD_CROSS_SIGNING_KEYS, unsigned),
        400,
        "M_INVALID_SIGNATURE",
    );
    for _ in 0..2 {
        expect_ok(alice.post(UPLOAD_CROSS_SIGNING_KEYS, first.upload_body(user)));
    }
    let (status, _) = alice.post(UPLOAD_CROSS_SIGNING_KEYS, second.upload_body(user));
    assert_eq!(status, 401);
    expect_ok(alice.request_with_password(
        Method::POST,
        UPLOAD_CROSS_SIGNING_KEYS,
        second.upload_body(user),
    ));
    let queried = query(&alice, &alice);
    let master = &queried["master_keys"][user]["keys"];
    assert_eq!(
        master,
        &json!({ second.master.id(): second.master.public() })
    );
}

#[test]
fn key_query_shows_only_signatures_visible_to_the_requester() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (alice_keys, bob_keys) = (CrossSigningKeys::new(), CrossSigningKeys::new());
    expect_ok(alice.post(
        UPLOAD_CROSS_SIGNING_KEYS,
        alice_keys.upload_body(&alice.user_id),
    ));
    expect_ok(bob.post(
        UPLOAD_CROSS_SIGNING_KEYS,
        bob_keys.upload_body(&bob.user_id),
    ));
    let (key, keys) = device_keys(&alice);
    upload_keys(&alice, json!({ "device_keys": keys }));

    let signed_device = alice_keys.self_signing.sign(keys.clone(), &alice.user_id);
    let master = alice_keys.master.key(&alice.user_id, "master");
    let device_key_id = format!("ed25519:{}", alice.device_id);
    let signed_master = key.sign_as(master, &alice.user_id, &device_key_id);
    let other_master = bob_keys.master.key(&bob.user_id, "master");
    let signed_other = alice_keys
        .user_signing
        .sign(other_master.clone(), &alice.user_id);
    let uploaded = json!({
        &alice.user_id: { &alice.device_id: signed_device, alice_keys.master.public(): signed_master },
        &bob.user_id: { bob_keys.master.public(): signed_other },
    });
    assert_eq!(
        expect_ok(alice.post(UPLOAD_SIGNATURES, uploaded)),
        json!({})
    );

    for viewer in [&alice, &bob] {
        let queried = query(viewer, &alice);
        let device = &queried["device_keys"][&alice.user_id][&alice.device_id];
        assert!(device["signatures"][&alice.user_id][alice_keys.self_signing.id()].is_string());
        assert!(device["signatures"][&alice.user_id][&device_key_id].is_string());
        let master = &queried["master_keys"][&alice.user_id];
        assert!(master["signatures"][&alice.user_id][&device_key_id].is_string());
        let is_own = viewer.user_id == alice.user_id;
        assert_eq!(
            queried["user_signing_keys"][&alice.user_id].is_object(),
            is_own
        );
        let own_signatures =
            &query(viewer, &bob)["master_keys"][&bob.user_id]["signatures"][&alice.user_id];
        assert_eq!(
            own_signatures[alice_keys.user_signing.id()].is_string(),
            is_own
        );
    }

    // Logout deletes the signatures of the device.
    let new_device = server.log_in("alice");
    expect_ok(alice.post("/_matrix/client/v3/logout", json!({})));
    let alice = new_device;
    let master = query(&bob, &alice)["master_keys"][&alice.user_id].clone();
    assert!(master.is_object());
    assert_eq!(
        master["signatures"][&alice.user_id][&device_key_id],
        Value::Null
    );

    let forged = bob_keys.user_signing.sign(other_master, &alice.user_id);
    let uploaded = json!({ &bob.user_id: { bob_keys.master.public(): forged } });
    let failures = expect_ok(alice.post(UPLOAD_SIGNATURES, uploaded))["failures"].clone();
    let failure = &failures[&bob.user_id][bob_keys.master.public()]["errcode"];
    assert_eq!(failure, "M_INVALID_SIGNATURE");
}

#[test]
fn signature_upload_updates_the_device_lists_of_the_signer_only() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    create_room_with(&[&alice, &bob]);
    let other_device = server.log_in("alice");
    let (alice_keys, bob_keys) = (CrossSigningKeys::new(), CrossSigningKeys::new());
    expect_ok(alice.post(
        UPLOAD_CROSS_SIGNING_KEYS,
        alice_keys.upload_body(&alice.user_id),
    ));
    expect_ok(bob.post(
        UPLOAD_CROSS_SIGNING_KEYS,
        bob_keys.upload_body(&bob.user_id),
    ));
    let [own, others] = [&other_device, &bob].map(|user| sync(user, None));

    let master = bob_keys.master.key(&bob.user_id, "master");
    let signed = alice_keys.user_signing.sign(master, &alice.user_id);
    let uploaded = json!({ &bob.user_id: { bob_keys.master.public(): signed } });
    for _ in 0..2 {
        expect_ok(alice.post(UPLOAD_SIGNATURES, uploaded.clone()));
    }

    let response = sync(&other_device, Some(next_batch(&own)));
    assert_eq!(response["device_lists"]["changed"], json!([bob.user_id]));
    let response = sync(&other_device, Some(next_batch(&response)));
    assert_eq!(response["device_lists"], Value::Null);
    let response = sync(&bob, Some(next_batch(&others)));
    assert_eq!(response["device_lists"], Value::Null);
}

#[test]
fn signature_upload_requires_an_existing_unchanged_key() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let (alice_keys, bob_keys) = (CrossSigningKeys::new(), CrossSigningKeys::new());
    expect_ok(alice.post(
        UPLOAD_CROSS_SIGNING_KEYS,
        alice_keys.upload_body(&alice.user_id),
    ));
    let sign = |user: &str, name: &str, key: Value| {
        let signed = alice_keys.user_signing.sign(key, &alice.user_id);
        let uploaded = json!({ user: { name: signed } });
        let response = expect_ok(alice.post(UPLOAD_SIGNATURES, uploaded));
        response["failures"][user][name]["errcode"].clone()
    };
    let (bob_id, name) = (bob.user_id.as_str(), bob_keys.master.public());
    let master = bob_keys.master.key(bob_id, "master");
    assert_eq!(sign(bob_id, &name, master.clone()), "M_NOT_FOUND");
    expect_ok(bob.post(UPLOAD_CROSS_SIGNING_KEYS, bob_keys.upload_body(bob_id)));
    assert_eq!(sign(bob_id, "other", master.clone()), "M_INVALID_PARAM");
    let mut changed = master.clone();
    changed["usage"] = json!(["master", "more"]);
    assert_eq!(sign(bob_id, &name, changed), "M_INVALID_PARAM");
    assert_eq!(sign(bob_id, &name, master), Value::Null);
}

#[test]
fn login_with_a_cross_signing_key_as_device_id_is_rejected() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let keys = CrossSigningKeys::new();
    expect_ok(alice.post(UPLOAD_CROSS_SIGNING_KEYS, keys.upload_body(&alice.user_id)));
    for key in [&keys.master, &keys.self_signing, &keys.user_signing] {
        let response = server.log_in_with("alice", json!({ "device_id": key.public() }));
        expect_error(&response, 400, "M_INVALID_PARAM");
    }
}
