//! Devices that people leave on the server, for what they are sent while they have no other.

use serde_json::{Value, json};

use crate::{
    home::{Home, Person, refused},
    keys::{claim, query, upload_keys},
    rooms::done,
    to_device::{note, numbers_of, send},
};

const PATH: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

/// The device `id` as a client of `who` leaves it, with two keys to be given out and a last one.
fn sealed(who: &Person<'_>, id: &str) -> Value {
    let key = |name: &str| json!({ "key": format!("{id} {name}"), "signatures": {} });
    json!({
        "device_id": id,
        "initial_device_display_name": "left behind",
        "device_data": { "algorithm": "org.matrix.msc3814.v2", "device_pickle": id, "nonce": "n" },
        "device_keys": {
            "user_id": who.user_id, "device_id": id, "dehydrated": true,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { format!("ed25519:{id}"): "a key" }, "signatures": {},
        },
        "one_time_keys": { "signed_curve25519:A": key("A"), "signed_curve25519:B": key("B") },
        "fallback_keys": { "signed_curve25519:C": key("C") },
    })
}

fn leave_behind(who: &Person<'_>, id: &str) {
    let answer = done(who.put(PATH, sealed(who, id)));
    assert_eq!(answer, json!({ "device_id": id }));
}

/// The person as the device that they left.
fn asleep<'h>(who: &Person<'h>) -> Person<'h> {
    let mut sealed = who.clone();
    sealed.device_id = "SEALED".to_owned();
    sealed
}

/// What the device was sent, page by page. Clients that ask by `GET` look whether there is a token to go
/// on with, others whether there were events.
fn read(who: &Person<'_>, id: &str) -> Vec<u64> {
    let path = format!("{PATH}/{id}/events");
    let (mut by_get, mut page) = (Vec::new(), done(who.get(&path)));
    while let Some(token) = page.get("next_batch") {
        by_get.extend(numbers_of(&page["events"]));
        let token = token.as_str().expect("a token, or none");
        page = done(who.get(&format!("{path}?from={token}")));
    }
    let (mut by_post, mut page) = (Vec::new(), done(who.post(&path, json!({}))));
    while page["events"] != json!([]) {
        by_post.extend(numbers_of(&page["events"]));
        page = done(who.post(&path, json!({ "next_batch": page["next_batch"] })));
    }
    assert_eq!(by_get, by_post);
    by_get
}

#[test]
fn whoever_has_no_device_left_gets_on_the_next_one_what_was_sent_meanwhile() {
    let mut home = Home::new();
    let token = {
        let (alice, bob) = (home.register("alice"), home.register("bob"));
        refused(&alice.get(PATH), 404, "M_NOT_FOUND");
        refused(&alice.delete(PATH, json!({})), 404, "M_NOT_FOUND");
        leave_behind(&alice, "SEALED");
        done(alice.post("/_matrix/client/v3/logout", json!({})));
        let keys = query(&bob, &alice)["device_keys"][&alice.user_id].clone();
        let ids: Vec<&String> = keys.as_object().expect("devices").keys().collect();
        assert_eq!(ids, ["SEALED"]);
        assert_eq!(keys["SEALED"]["dehydrated"], true);
        let sealed = asleep(&alice);
        let given: Vec<_> = (0..4).filter_map(|_| claim(&bob, &sealed)).collect();
        assert_eq!(
            given,
            ["A", "B", "C", "C"].map(|name| format!("signed_curve25519:{name}"))
        );
        (0..205).for_each(|n| note(&bob, &sealed, n));
        bob.token.clone()
    };
    home.restart();
    let (alice, bob) = (home.log_in("alice"), home.with_token(&token));
    let left = done(alice.get(PATH));
    assert_eq!(left["device_id"], "SEALED");
    assert_eq!(left["device_data"]["device_pickle"], "SEALED");
    // Whoever does not get to the end begins anew, on another device if need be.
    for _ in 0..2 {
        assert_eq!(read(&alice, "SEALED"), Vec::from_iter(0..205));
    }
    refused(
        &alice.post(&format!("{PATH}/OTHER/events"), json!({})),
        403,
        "M_FORBIDDEN",
    );
    refused(
        &bob.post(&format!("{PATH}/SEALED/events"), json!({})),
        403,
        "M_FORBIDDEN",
    );
    let nonsense = json!({ "next_batch": "s1_0_0_0_0" });
    refused(
        &alice.post(&format!("{PATH}/SEALED/events"), nonsense),
        400,
        "M_INVALID_PARAM",
    );
    let gone = done(alice.delete(PATH, json!({})));
    assert_eq!(gone, json!({ "device_id": "SEALED" }));
    refused(&alice.get(PATH), 404, "M_NOT_FOUND");
    assert_eq!(devices(&alice), std::slice::from_ref(&alice.device_id));
}

fn devices(who: &Person<'_>) -> Vec<String> {
    let answer = done(who.get("/_matrix/client/v3/devices"));
    let devices = answer["devices"].as_array().expect("a list");
    let ids = devices.iter().map(|device| &device["device_id"]);
    ids.map(|id| id.as_str().expect("an id").to_owned())
        .collect()
}

#[test]
fn one_is_left_at_a_time_and_the_one_before_it_ends() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    leave_behind(&alice, "FIRST");
    done(send(&bob, (&alice.user_id, "*"), "t", json!({ "n": 1 })));
    leave_behind(&alice, "SECOND");
    assert_eq!(devices(&alice).len(), 2, "its own, and the second");
    assert_eq!(read(&alice, "SECOND"), [0; 0]);
    let keys = query(&bob, &alice)["device_keys"][&alice.user_id].clone();
    assert!(keys["FIRST"].is_null() && keys["SECOND"].is_object());
    // It goes as other devices do.
    let path = "/_matrix/client/v3/devices/SECOND";
    let ended = alice.ask_with_password(http::Method::DELETE, path, json!({}));
    done(ended);
    refused(&alice.get(PATH), 404, "M_NOT_FOUND");
}

#[test]
fn one_that_is_left_again_keeps_what_was_given_out_and_what_it_was_sent() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    leave_behind(&alice, "SEALED");
    let sealed = asleep(&alice);
    let claimed = claim(&bob, &sealed);
    assert_eq!(claimed.as_deref(), Some("signed_curve25519:A"));
    note(&bob, &sealed, 7);
    leave_behind(&alice, "SEALED");
    assert_eq!(claim(&bob, &sealed).as_deref(), Some("signed_curve25519:B"));
    assert_eq!(read(&alice, "SEALED"), [7]);
}

#[test]
fn a_device_that_somebody_is_logged_in_on_is_not_one_that_was_left() {
    let home = Home::new();
    let alice = home.register("alice");
    upload_keys(&alice, json!({}));
    let own = sealed(&alice, &alice.device_id);
    refused(&alice.put(PATH, own), 400, "M_INVALID_PARAM");
    assert!(alice.is_logged_in());
    let mut of_bob = sealed(&alice, "SEALED");
    of_bob["device_keys"]["user_id"] = json!("@bob:localhost");
    refused(&alice.put(PATH, of_bob), 400, "M_INVALID_PARAM");
    let mut large = sealed(&alice, "SEALED");
    large["device_data"]["device_pickle"] = json!("x".repeat(200_000));
    refused(&alice.put(PATH, large), 413, "M_TOO_LARGE");

    // Who logs in under its id has another device.
    leave_behind(&alice, "SEALED");
    let login = json!({
        "type": "m.login.password", "device_id": "SEALED", "password": crate::home::PASSWORD,
        "identifier": { "type": "m.id.user", "user": "alice" },
    });
    let path = "/_matrix/client/v3/login";
    let awake = home.person(&done(home.ask(http::Method::POST, path, login)));
    assert_eq!(awake.device_id, "SEALED");
    refused(&alice.get(PATH), 404, "M_NOT_FOUND");
    let keys = query(&alice, &awake)["device_keys"][&alice.user_id].clone();
    assert!(keys["SEALED"].is_null(), "{keys}");
}
