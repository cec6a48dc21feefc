//! Invitations by address that come true.

use hearth::protocol::ServerKey;
use http::Method;
use ruma::{CanonicalJsonObject, signatures::sign_json};
use serde_json::{Value, json};

use crate::{
    home::{Home, Person},
    rooms::{done, escaped, make_room, sync},
};

const ONBIND: &str = "/_matrix/federation/v1/3pid/onbind";

/// A private room of `who`, and a place in it for whom `key` vouches for.
fn room_with_a_place(who: &Person<'_>, key: &ServerKey) -> String {
    let room = make_room(who, json!({ "preset": "private_chat" }));
    let place = json!({
        "display_name": "b...@e...",
        "public_key": key.public_key(),
        "key_validity_url": "https://id.example/valid",
    });
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.third_party_invite/token",
        escaped(&room)
    );
    done(who.put(&path, place));
    room
}

/// What the identity server with `key` tells the server of `whom`, whose address it is.
fn bind(home: &Home, key: &ServerKey, whom: &Person<'_>, (sender, room): (&Person<'_>, &str)) {
    let signed = json!({ "mxid": whom.user_id, "token": "token" });
    let mut signed: CanonicalJsonObject = serde_json::from_value(signed).expect("an object");
    sign_json("id.example", key, &mut signed).expect("it is signed");
    let body = json!({
        "medium": "email", "address": "bob@example.org", "mxid": whom.user_id,
        "invites": [{
            "medium": "email", "address": "bob@example.org", "mxid": whom.user_id,
            "room_id": room, "sender": sender.user_id, "signed": signed,
        }],
    });
    done(home.ask(Method::PUT, ONBIND, body));
}

/// Whether `who` is invited to the room.
fn is_invited(who: &Person<'_>, room: &str) -> bool {
    sync(who, None)["rooms"]["invite"][room] != Value::Null
}

#[test]
fn who_was_invited_by_address_is_invited_when_the_address_turns_out_to_be_theirs() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let carol = here.register("carol");
    let key = ServerKey::generate();
    let room = room_with_a_place(&alice, &key);
    bind(&there, &key, &bob, (&alice, &room));
    assert!(is_invited(&bob, &room));
    let path = format!(
        "/_matrix/client/v3/rooms/{}/state/m.room.member/{}",
        escaped(&room),
        escaped(&bob.user_id)
    );
    let member = done(alice.get(&path));
    assert_eq!(member["third_party_invite"]["display_name"], "b...@e...");
    bind(&here, &key, &carol, (&alice, &room));
    assert!(is_invited(&carol, &room));
}

#[test]
fn an_address_is_believed_only_of_whom_the_room_named_for_it() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let (key, forger) = (ServerKey::generate(), ServerKey::generate());
    let room = room_with_a_place(&alice, &key);
    bind(&there, &forger, &bob, (&alice, &room));
    assert!(!is_invited(&bob, &room));
    let carol = here.register("carol");
    bind(&here, &forger, &carol, (&alice, &room));
    assert!(!is_invited(&carol, &room));
}
