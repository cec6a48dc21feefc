//! The keys with which users sign keys, and what they have signed.

use http::Method;
use serde_json::{Value, json};

use crate::{
    home::{Home, PASSWORD, refused},
    keys::{Signing, device, query, upload_keys},
    rooms::{done, next, room_of, sync},
};

pub const SIGNING: &str = "/_matrix/client/v3/keys/device_signing/upload";
pub const SIGNATURES: &str = "/_matrix/client/v3/keys/signatures/upload";

/// The keys with which a user signs.
pub struct Identity {
    pub master: Signing,
    pub own: Signing,
    pub others: Signing,
}

impl Identity {
    pub fn new() -> Self {
        Self {
            master: Signing::new(),
            own: Signing::new(),
            others: Signing::new(),
        }
    }

    pub fn keys(&self, user: &str) -> Value {
        json!({
            "master_key": self.master.key(user, "master"),
            "self_signing_key": self.master.sign(self.own.key(user, "self_signing"), user),
            "user_signing_key": self.master.sign(self.others.key(user, "user_signing"), user),
        })
    }
}

#[test]
fn of_two_first_signing_keys_at_once_one_needs_a_password() {
    let home = Home::new();
    let alice = home.register("alice");
    let (one, other) = (Identity::new(), Identity::new());
    let user = alice.user_id.as_str();
    let bodies = [one.keys(user), other.keys(user)];
    let send = |body| home.send(Method::POST, SIGNING, Some(&alice.token), body);
    let answers = home.run(home.all(bodies.iter().map(send).collect()));
    let mut statuses: Vec<u16> = answers.into_iter().map(|(status, _)| status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
}

#[test]
fn a_new_master_key_ends_what_the_one_before_has_signed() {
    let home = Home::new();
    let alice = home.register("alice");
    let (first, second) = (Identity::new(), Identity::new());
    let user = alice.user_id.as_str();
    let alone = json!({ "self_signing_key": first.keys(user)["self_signing_key"] });
    refused(&alice.post(SIGNING, alone), 400, "M_MISSING_PARAM");
    done(alice.post(SIGNING, first.keys(user)));
    let master = json!({ "master_key": second.keys(user)["master_key"] });
    done(alice.ask_with_password(Method::POST, SIGNING, master));
    let found = query(&alice, &alice);
    assert!(found["master_keys"][user].is_object());
    assert_eq!(found["self_signing_keys"][user], Value::Null);
    assert_eq!(found["user_signing_keys"][user], Value::Null);
}

#[test]
fn a_signing_key_has_a_name_of_its_own_and_ends_with_the_account() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let mut identity = Identity::new();
    let user = alice.user_id.as_str();
    done(alice.post(SIGNING, identity.keys(user)));
    let found = query(&bob, &alice);
    assert!(found["master_keys"][user].is_object());
    identity.own = Signing::new();
    let mut twice = identity.keys(user);
    twice["self_signing_key"] = identity
        .master
        .sign(identity.master.key(user, "self_signing"), user);
    let refusal = alice.ask_with_password(Method::POST, SIGNING, twice);
    refused(&refusal, 403, "M_FORBIDDEN");
    let device = json!({
        "type": "m.login.password", "password": PASSWORD, "device_id": identity.own.public(),
        "identifier": { "type": "m.id.user", "user": "alice" },
    });
    done(home.ask(Method::POST, "/_matrix/client/v3/login", device));
    let refusal = alice.ask_with_password(Method::POST, SIGNING, identity.keys(user));
    refused(&refusal, 403, "M_FORBIDDEN");
    let path = "/_matrix/client/v3/account/deactivate";
    done(alice.ask_with_password(Method::POST, path, json!({})));
    let found = query(&bob, &alice);
    assert_eq!(found["master_keys"][user], Value::Null);
}

#[test]
fn the_first_signing_keys_need_no_password_and_later_ones_do() {
    let home = Home::new();
    let alice = home.register("alice");
    let (first, second) = (Identity::new(), Identity::new());
    let user = alice.user_id.as_str();
    let mut unsigned = first.keys(user);
    unsigned["self_signing_key"] = second
        .master
        .sign(first.own.key(user, "self_signing"), user);
    refused(&alice.post(SIGNING, unsigned), 400, "M_INVALID_SIGNATURE");
    for _ in 0..2 {
        done(alice.post(SIGNING, first.keys(user)));
    }
    let (status, _) = alice.post(SIGNING, second.keys(user));
    assert_eq!(status, 401);
    done(alice.ask_with_password(Method::POST, SIGNING, second.keys(user)));
    let found = query(&alice, &alice);
    let master = &found["master_keys"][user]["keys"];
    assert_eq!(
        master,
        &json!({ second.master.id(): second.master.public() })
    );
}

#[test]
fn users_see_the_signatures_that_are_for_them() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let (of_alice, of_bob) = (Identity::new(), Identity::new());
    done(alice.post(SIGNING, of_alice.keys(&alice.user_id)));
    done(bob.post(SIGNING, of_bob.keys(&bob.user_id)));
    let (key, keys) = device(&alice);
    upload_keys(&alice, json!({ "device_keys": keys }));

    let signed_device = of_alice.own.sign(keys.clone(), &alice.user_id);
    let master = of_alice.master.key(&alice.user_id, "master");
    let device_key_id = format!("ed25519:{}", alice.device_id);
    let signed_master = key.sign_as(master, &alice.user_id, &device_key_id);
    let other_master = of_bob.master.key(&bob.user_id, "master");
    let signed_other = of_alice.others.sign(other_master.clone(), &alice.user_id);
    let uploaded = json!({
        &alice.user_id: { &alice.device_id: signed_device, of_alice.master.public(): signed_master },
        &bob.user_id: { of_bob.master.public(): signed_other },
    });
    assert_eq!(done(alice.post(SIGNATURES, uploaded)), json!({}));

    for viewer in [&alice, &bob] {
        let found = query(viewer, &alice);
        let device = &found["device_keys"][&alice.user_id][&alice.device_id];
        assert!(device["signatures"][&alice.user_id][of_alice.own.id()].is_string());
        assert!(device["signatures"][&alice.user_id][&device_key_id].is_string());
        let master = &found["master_keys"][&alice.user_id];
        assert!(master["signatures"][&alice.user_id][&device_key_id].is_string());
        let is_own = viewer.user_id == alice.user_id;
        assert_eq!(
            found["user_signing_keys"][&alice.user_id].is_object(),
            is_own
        );
        let trust = &query(viewer, &bob)["master_keys"][&bob.user_id]["signatures"][&alice.user_id];
        assert_eq!(trust[of_alice.others.id()].is_string(), is_own);
    }

    // What the device has signed goes with it.
    let other = home.log_in("alice");
    done(alice.post("/_matrix/client/v3/logout", json!({})));
    let alice = other;
    let master = query(&bob, &alice)["master_keys"][&alice.user_id].clone();
    assert!(master.is_object());
    assert_eq!(
        master["signatures"][&alice.user_id][&device_key_id],
        Value::Null
    );

    let forged = of_bob.others.sign(other_master, &alice.user_id);
    let uploaded = json!({ &bob.user_id: { of_bob.master.public(): forged } });
    let failures = done(alice.post(SIGNATURES, uploaded))["failures"].clone();
    let failure = &failures[&bob.user_id][of_bob.master.public()]["errcode"];
    assert_eq!(failure, "M_INVALID_SIGNATURE");
}

#[test]
fn whose_keys_a_user_has_signed_is_told_to_the_users_own_devices_and_to_nobody_else() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    room_of(&[&alice, &bob]);
    let other_device = home.log_in("alice");
    let (of_alice, of_bob) = (Identity::new(), Identity::new());
    done(alice.post(SIGNING, of_alice.keys(&alice.user_id)));
    done(bob.post(SIGNING, of_bob.keys(&bob.user_id)));
    let [own, others] = [&other_device, &bob].map(|who| sync(who, None));

    let master = of_bob.master.key(&bob.user_id, "master");
    let signed = of_alice.others.sign(master, &alice.user_id);
    let uploaded = json!({ &bob.user_id: { of_bob.master.public(): signed } });
    for _ in 0..2 {
        done(alice.post(SIGNATURES, uploaded.clone()));
    }

    let told = sync(&other_device, Some(next(&own)));
    assert_eq!(told["device_lists"]["changed"], json!([bob.user_id]));
    let told = sync(&other_device, Some(next(&told)));
    assert_eq!(told["device_lists"], Value::Null);
    let told = sync(&bob, Some(next(&others)));
    assert_eq!(told["device_lists"], Value::Null);
}

#[test]
fn only_a_key_that_is_there_is_signed_and_under_its_own_name() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let (of_alice, of_bob) = (Identity::new(), Identity::new());
    done(alice.post(SIGNING, of_alice.keys(&alice.user_id)));
    let sign = |user: &str, name: &str, key: Value| {
        let signed = of_alice.others.sign(key, &alice.user_id);
        let uploaded = json!({ user: { name: signed } });
        let answer = done(alice.post(SIGNATURES, uploaded));
        answer["failures"][user][name]["errcode"].clone()
    };
    let (bob_id, name) = (bob.user_id.as_str(), of_bob.master.public());
    let master = of_bob.master.key(bob_id, "master");
    assert_eq!(sign(bob_id, &name, master.clone()), "M_NOT_FOUND");
    done(bob.post(SIGNING, of_bob.keys(bob_id)));
    assert_eq!(sign(bob_id, "other", master.clone()), "M_INVALID_PARAM");
    let mut changed = master.clone();
    changed["usage"] = json!(["master", "more"]);
    assert_eq!(sign(bob_id, &name, changed), "M_INVALID_PARAM");
    assert_eq!(sign(bob_id, &name, master), Value::Null);
}

#[test]
fn no_device_is_called_as_a_signing_key_is() {
    let home = Home::new();
    let alice = home.register("alice");
    let identity = Identity::new();
    done(alice.post(SIGNING, identity.keys(&alice.user_id)));
    for key in [&identity.master, &identity.own, &identity.others] {
        let login = json!({
            "type": "m.login.password", "password": PASSWORD, "device_id": key.public(),
            "identifier": { "type": "m.id.user", "user": "alice" },
        });
        let answer = home.ask(Method::POST, "/_matrix/client/v3/login", login);
        refused(&answer, 400, "M_INVALID_PARAM");
    }
}
