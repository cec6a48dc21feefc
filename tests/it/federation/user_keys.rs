//! Keys of other servers' users, as clients get them.

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::device_lists::share;
use crate::{
    cross_signing::{Identity, SIGNATURES, SIGNING},
    home::{Home, Person},
    rooms::done,
    web::Web,
};

const KEYS: &str = "/_matrix/client/v3/keys";
const ALGORITHM: &str = "signed_curve25519";
/// The name of the server that answers too much, once it has one.
static NAME: OnceLock<String> = OnceLock::new();

fn identity(who: &Person<'_>) -> Value {
    let id = &who.device_id;
    json!({
        "user_id": who.user_id,
        "device_id": id,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { format!("ed25519:{id}"): "key" },
        "signatures": { &who.user_id: { format!("ed25519:{id}"): "signature" } },
        "of.the.future": { "kept": [1, 2] },
    })
}

/// Hands in the keys of a device: two that are given out once, `A` and `B`.
fn upload(who: &Person<'_>) {
    let key = json!({ "key": "aaaa", "signatures": {} });
    let once = json!({ format!("{ALGORITHM}:A"): key, format!("{ALGORITHM}:B"): key });
    let body = json!({ "device_keys": identity(who), "one_time_keys": once });
    done(who.post(&format!("{KEYS}/upload"), body));
}

fn claim(who: &Person<'_>, of: &Person<'_>) -> Value {
    let wanted = json!({ &of.user_id: { &of.device_id: ALGORITHM } });
    done(who.post(&format!("{KEYS}/claim"), json!({ "one_time_keys": wanted })))
}

fn given(answer: &Value, of: &Person<'_>) -> Vec<String> {
    let keys = answer["one_time_keys"][&of.user_id][&of.device_id].as_object();
    keys.into_iter()
        .flatten()
        .map(|(id, _)| id.clone())
        .collect()
}

#[test]
fn keys_of_another_servers_user_are_shown_as_signed_and_given_out_once() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let carol = there.register("carol");
    upload(&bob);
    let asked = json!({ "device_keys": { &bob.user_id: [], &alice.user_id: [] } });
    let answer = done(alice.post(&format!("{KEYS}/query"), asked));
    assert_eq!(
        answer["device_keys"][&bob.user_id],
        json!({ &bob.device_id: identity(&bob) })
    );
    assert_eq!(answer["device_keys"][&alice.user_id], json!({}));
    assert_eq!(answer["failures"], Value::Null);
    assert_eq!(
        given(&claim(&alice, &bob), &bob),
        [format!("{ALGORITHM}:A")]
    );
    assert_eq!(
        given(&claim(&carol, &bob), &bob),
        [format!("{ALGORITHM}:B")]
    );
    assert!(given(&claim(&alice, &bob), &bob).is_empty());
}

#[test]
fn the_keys_of_who_shares_a_room_are_known_while_their_server_is_away() {
    let [here, mut there] = Home::federating();
    let (alice, carol) = (here.register("alice"), here.register("carol"));
    let (asked, shown) = {
        let (bob, dan) = (there.register("bob"), there.register("dan"));
        share(&alice, &here, &bob);
        upload(&bob);
        upload(&dan);
        let mut shown = identity(&bob);
        shown["unsigned"] = json!({});
        let asked = json!({ "device_keys": { &bob.user_id: [] } });
        let both = json!({ "device_keys": { &bob.user_id: [], &dan.user_id: [] } });
        let answer = done(alice.post(&format!("{KEYS}/query"), both));
        assert_eq!(answer["failures"], Value::Null);
        let of_stranger = &answer["device_keys"][&dan.user_id][&dan.device_id];
        assert_eq!(*of_stranger, identity(&dan));
        (asked, json!({ &bob.user_id: { &bob.device_id: shown } }))
    };
    there.stop();
    for who in [&alice, &carol] {
        let answer = done(who.post(&format!("{KEYS}/query"), asked.clone()));
        assert_eq!(answer["device_keys"], shown);
        assert_eq!(answer["failures"], Value::Null);
    }
}

#[test]
fn a_server_that_is_gone_is_named_and_the_others_answer() {
    let [here, mut there] = Home::federating();
    let gone = there.name().to_string();
    let bob = format!("@bob:{gone}");
    there.stop();
    let alice = here.register("alice");
    upload(&alice);
    let asked = json!({ "timeout": 2000, "device_keys": { &bob: [], &alice.user_id: [] } });
    let answer = done(alice.post(&format!("{KEYS}/query"), asked));
    assert!(answer["failures"][&gone]["errcode"].is_string(), "{answer}");
    assert!(answer["device_keys"][&alice.user_id][&alice.device_id].is_object());
    assert_eq!(answer["device_keys"][&bob], Value::Null);
    let wanted =
        json!({ &bob: { "PHONE": ALGORITHM }, &alice.user_id: { &alice.device_id: ALGORITHM } });
    let asked = json!({ "timeout": 2000, "one_time_keys": wanted });
    let answer = done(alice.post(&format!("{KEYS}/claim"), asked));
    assert!(answer["failures"][&gone]["errcode"].is_string(), "{answer}");
    assert_eq!(given(&answer, &alice), [format!("{ALGORITHM}:A")]);
}

#[test]
fn a_server_that_does_not_answer_leaves_time_for_those_that_do() {
    let [here, mut gone, there] = Home::federating();
    let (alice, carol) = (here.register("alice"), there.register("carol"));
    upload(&carol);
    let bob = gone.register("bob");
    share(&alice, &here, &bob);
    let bob = bob.user_id.clone();
    gone.stop();
    let asked = json!({ "timeout": 2000, "device_keys": { &bob: [], &carol.user_id: [] } });
    let answer = done(alice.post(&format!("{KEYS}/query"), asked));
    let failures = answer["failures"].as_object().expect("one failed");
    assert!(failures.keys().eq([gone.name().as_str()]), "{answer}");
    let of_carol = &answer["device_keys"][&carol.user_id][&carol.device_id];
    assert_eq!(*of_carol, identity(&carol));
}

#[test]
fn of_what_a_server_answers_only_that_is_shown_which_it_was_asked_for() {
    let [here] = Home::federating();
    let alice = here.register("alice");
    let server = Web::answering(0, |path| {
        let name = NAME.get()?;
        let (bob, eve) = (format!("@bob:{name}"), format!("@eve:{name}"));
        let keys = |user: &str, device: &str| {
            json!({
                "user_id": user, "device_id": device, "algorithms": [], "keys": {},
                "signatures": {},
            })
        };
        let master = |user: &str| json!({ "user_id": user, "usage": ["master"], "keys": {} });
        let devices = json!({
            "PHONE": keys(&bob, "PHONE"), "OTHER": keys(&bob, "OTHER"),
            "LAPTOP": keys(&bob, "ANOTHER"), "TABLET": keys(&eve, "TABLET"),
        });
        let key = json!({ "key": "aaaa", "signatures": {} });
        let given = json!({
            format!("{ALGORITHM}:A"): key, format!("{ALGORITHM}:B"): key, "other:C": key,
        });
        let answer = match path {
            "/_matrix/federation/v1/user/keys/query" => json!({
                "device_keys": { &bob: devices, &eve: { "PHONE": keys(&eve, "PHONE") } },
                "master_keys": { &bob: master(&eve), &eve: master(&eve) },
                "self_signing_keys": { &bob: master(&bob) },
            }),
            "/_matrix/federation/v1/user/keys/claim" => json!({
                "one_time_keys": {
                    &bob: { "PHONE": given, "OTHER": given, "LAPTOP": { "other:C": key } },
                    &eve: { "PHONE": given },
                },
            }),
            _ => return None,
        };
        Some(answer.to_string().into_bytes())
    });
    let name = NAME.get_or_init(|| server.name());
    let bob = format!("@bob:{name}");
    let asked = json!({ "device_keys": { &bob: ["PHONE", "LAPTOP", "TABLET"] } });
    let answer = done(alice.post(&format!("{KEYS}/query"), asked));
    let ids = |of: &Value| -> Vec<String> {
        let of = of.as_object().into_iter().flatten();
        of.map(|(id, _)| id.clone()).collect()
    };
    assert_eq!(ids(&answer["device_keys"]), [&*bob]);
    assert_eq!(ids(&answer["device_keys"][&bob]), ["PHONE"]);
    assert_eq!(answer["master_keys"], Value::Null);
    assert_eq!(ids(&answer["self_signing_keys"]), [&*bob]);
    let wanted = json!({ &bob: { "PHONE": ALGORITHM, "LAPTOP": ALGORITHM } });
    let answer = done(alice.post(&format!("{KEYS}/claim"), json!({ "one_time_keys": wanted })));
    assert_eq!(ids(&answer["one_time_keys"]), [&*bob]);
    assert_eq!(ids(&answer["one_time_keys"][&bob]), ["PHONE"]);
    let given = ids(&answer["one_time_keys"][&bob]["PHONE"]);
    assert_eq!(given, [format!("{ALGORITHM}:A")]);
}

#[test]
fn a_signature_on_another_servers_user_is_shown_to_its_maker_and_must_be_on_the_users_key() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    share(&alice, &here, &bob);
    let (of_alice, of_bob, other) = (Identity::new(), Identity::new(), Identity::new());
    done(alice.post(SIGNING, of_alice.keys(&alice.user_id)));
    done(bob.post(SIGNING, of_bob.keys(&bob.user_id)));
    let query = || {
        let asked = json!({ "device_keys": { &bob.user_id: [] } });
        done(alice.post(&format!("{KEYS}/query"), asked))["master_keys"][&bob.user_id].clone()
    };
    assert!(query().is_object());
    let sign = |identity: &Identity| {
        let master = identity.master.key(&bob.user_id, "master");
        let signed = of_alice.others.sign(master, &alice.user_id);
        let uploaded = json!({ &bob.user_id: { identity.master.public(): signed } });
        let failures = done(alice.post(SIGNATURES, uploaded))["failures"].clone();
        failures[&bob.user_id][identity.master.public()]["errcode"].clone()
    };
    assert_eq!(sign(&other), "M_INVALID_PARAM");
    assert_eq!(sign(&of_bob), Value::Null);
    assert!(query()["signatures"][&alice.user_id][of_alice.others.id()].is_string());
}
