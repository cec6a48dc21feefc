//! What `GET /_matrix/client/versions` announces, and what clients do because of it.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use crate::{
    client_api::{create_room, percent_encode, room_path, send_event, send_in_thread, send_text},
    test_server::{TestServer, expect_error, expect_ok},
};

/// An announced version or flag, what clients do because of it (matrix-js-sdk and Element Web, the
/// matrix-rust-sdk, matrix-nio, Cinny, the Dart SDK), and a request that they then send.
type Announcement = (&'static str, &'static str, &'static str, &'static str);

const ANNOUNCEMENTS: &[Announcement] = &[
    (
        "v1.1",
        "all: paths with v3",
        "GET",
        "/_matrix/client/v3/account/whoami",
    ),
    (
        "v1.2",
        "all: spaces are browsed by their hierarchy",
        "GET",
        "/_matrix/client/v1/rooms/!r:localhost/hierarchy",
    ),
    (
        "v1.3",
        "Dart: refresh tokens",
        "POST",
        "/_matrix/client/v3/refresh",
    ),
    (
        "v1.4",
        "all: threads, counted and read by themselves; js: their events from /relations",
        "GET",
        "/_matrix/client/v1/rooms/!r:localhost/threads",
    ),
    (
        "v1.5",
        "no client",
        "GET",
        "/_matrix/client/v3/account/whoami",
    ),
    (
        "v1.6",
        "Element Web: jump to date",
        "GET",
        "/_matrix/client/v1/rooms/!r:localhost/timestamp_to_event?ts=1&dir=f",
    ),
    (
        "v1.7",
        "js: intentional mentions; bridges: asynchronous uploads",
        "POST",
        "/_matrix/media/v1/create",
    ),
    (
        "v1.8",
        "no client",
        "GET",
        "/_matrix/client/v3/account/whoami",
    ),
    (
        "v1.9",
        "no client",
        "GET",
        "/_matrix/client/v3/account/whoami",
    ),
    (
        "v1.10",
        "all: contacts of the administrators",
        "GET",
        "/.well-known/matrix/support",
    ),
    (
        "v1.11",
        "all: media with the access token; js: previews at the client-server path",
        "GET",
        "/_matrix/client/v1/media/download/localhost/x",
    ),
    (
        "v1.12",
        "all: servers to join through as via",
        "POST",
        "/_matrix/client/v3/join/!r:localhost?via=localhost",
    ),
    (
        "v1.13",
        "Element Web, rust: reports of rooms",
        "POST",
        "/_matrix/client/v3/rooms/!r:localhost/report",
    ),
    (
        "v1.14",
        "rust: reports of users",
        "POST",
        "/_matrix/client/v3/users/@bob:localhost/report",
    ),
    (
        "fi.mau.msc2246",
        "rust: asynchronous uploads, also without v1.7",
        "POST",
        "/_matrix/media/unstable/fi.mau.msc2246/create",
    ),
    (
        "org.matrix.e2e_cross_signing",
        "Element Web: sets up cross-signing after login",
        "POST",
        "/_matrix/client/v3/keys/device_signing/upload",
    ),
    (
        "org.matrix.msc2285.stable",
        "js: private read receipts, also without v1.4",
        "POST",
        "/_matrix/client/v3/rooms/!r:localhost/read_markers",
    ),
    (
        "org.matrix.msc2432",
        "Element Web: the local aliases of a room in its settings",
        "GET",
        "/_matrix/client/unstable/org.matrix.msc2432/rooms/!r:localhost/aliases",
    ),
    (
        "org.matrix.msc3030",
        "rust: jump to date, also without v1.6",
        "GET",
        "/_matrix/client/unstable/org.matrix.msc3030/rooms/!r:localhost/timestamp_to_event?ts=1&dir=f",
    ),
    (
        "org.matrix.msc3266",
        "js: room summaries at the stable path",
        "GET",
        "/_matrix/client/v1/room_summary/!r:localhost",
    ),
    (
        "org.matrix.msc3440.stable",
        "js, Element Web: threads with m.thread, also without v1.4",
        "GET",
        "/_matrix/client/v1/rooms/!r:localhost/relations/$e/m.thread",
    ),
    (
        "org.matrix.msc3715.stable",
        "js: the events of a thread from its start on, also without v1.4",
        "GET",
        "/_matrix/client/v1/rooms/!r:localhost/relations/$e/m.thread?dir=f",
    ),
    (
        "org.matrix.msc3771",
        "bridges: receipts in threads, also without v1.4",
        "POST",
        "/_matrix/client/v3/rooms/!r:localhost/receipt/m.read/$e",
    ),
    (
        "org.matrix.msc3827.stable",
        "Element Web: searches public spaces and rooms apart",
        "POST",
        "/_matrix/client/v3/publicRooms",
    ),
    (
        "org.matrix.msc3882",
        "rust: login by a token of another device, also without v1.7",
        "POST",
        "/_matrix/client/unstable/org.matrix.msc3882/login/get_token",
    ),
    (
        "org.matrix.msc3916",
        "rust: media with the access token, also without v1.11",
        "GET",
        "/_matrix/client/unstable/org.matrix.msc3916/media/download/localhost/x",
    ),
    (
        "org.matrix.msc3916.stable",
        "Cinny, Dart, rust: media with the access token, also without v1.11",
        "GET",
        "/_matrix/client/v1/media/thumbnail/localhost/x?width=1&height=1",
    ),
    (
        "org.matrix.msc3981",
        "js: reactions and edits in a thread with its events, also without v1.10",
        "GET",
        "/_matrix/client/v1/rooms/!r:localhost/relations/$e?recurse=true",
    ),
    (
        "org.matrix.msc4155",
        "Element Web: users and servers whose invites are blocked or ignored",
        "PUT",
        "/_matrix/client/v3/user/@alice:localhost/account_data/org.matrix.msc4155.invite_permission_config",
    ),
    (
        "org.matrix.msc4380.stable",
        "Element Web, rust: m.invite_permission_config to block invites",
        "PUT",
        "/_matrix/client/v3/user/@alice:localhost/account_data/m.invite_permission_config",
    ),
    (
        "org.matrix.simplified_msc3575",
        "Element X and the matrix-rust-sdk: sync in this way alone",
        "POST",
        "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
    ),
    (
        "uk.half-shot.msc2666.query_mutual_rooms",
        "js, Cinny: the rooms that one shares with a user",
        "GET",
        "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms?user_id=@bob:localhost",
    ),
    (
        "uk.half-shot.msc2666.query_mutual_rooms.stable",
        "rust: the rooms that one shares with a user, also without v1.19",
        "GET",
        "/_matrix/client/v1/mutual_rooms?user_id=@bob:localhost",
    ),
    (
        "uk.tcpip.msc4133",
        "Cinny, FluffyChat: custom profile fields",
        "GET",
        "/_matrix/client/unstable/uk.tcpip.msc4133/profile/@alice:localhost/m.tz",
    ),
    (
        "uk.tcpip.msc4133.stable",
        "js: custom profile fields at the stable path, also without v1.16",
        "GET",
        "/_matrix/client/v3/profile/@alice:localhost/m.tz",
    ),
    (
        "uk.timedout.msc4323",
        "rust: administrators suspend accounts",
        "GET",
        "/_matrix/client/unstable/uk.timedout.msc4323/admin/suspend/@alice:localhost",
    ),
];

/// A flag that is not announced, what clients do where it is, and a request that they then send, if there is one.
type NotAnnounced = (
    &'static str,
    &'static str,
    Option<(&'static str, &'static str)>,
);

/// Flags that matrix-js-sdk, the matrix-rust-sdk, the Dart SDK or Synapse have, and that are not announced
/// because what clients then do is not served.
const NOT_ANNOUNCED: &[NotAnnounced] = &[
    ("com.beeper.msc4169", "no SDK: redactions by /send", None),
    (
        "fi.mau.msc2659.stable",
        "bridges: have the server ping them",
        Some(("POST", "/_matrix/client/v1/appservice/bridge/ping")),
    ),
    (
        "fi.mau.msc2815",
        "clients of moderators: the content of redacted events",
        None,
    ),
    (
        "io.element.e2ee_forced.public",
        "Element: whether new rooms must be encrypted, which no setting says here",
        None,
    ),
    (
        "io.element.msc4502",
        "Synapse: an experiment without clients",
        None,
    ),
    (
        "org.matrix.label_based_filtering",
        "no SDK: filters by org.matrix.labels",
        None,
    ),
    (
        "org.matrix.msc3026.busy_presence",
        "js: offers the presence busy",
        None,
    ),
    (
        "org.matrix.msc3391",
        "js: deletes account data",
        Some((
            "DELETE",
            "/_matrix/client/unstable/org.matrix.msc3391/user/@alice:localhost/account_data/a",
        )),
    ),
    (
        "org.matrix.msc3773",
        "js: unread counts of threads without v1.4, by a private name of the filter",
        None,
    ),
    (
        "org.matrix.msc3874",
        "js: /messages with a filter of relation types",
        None,
    ),
    (
        "org.matrix.msc3881",
        "js: enables and disables pushers of other devices",
        None,
    ),
    ("org.matrix.msc3912", "js: redacts related events too", None),
    (
        "org.matrix.msc4028",
        "rust: decrypts notifications itself, of all encrypted events",
        None,
    ),
    (
        "org.matrix.msc4069",
        "js: changes a profile without the rooms",
        None,
    ),
    (
        "org.matrix.msc4108",
        "js, rust: login by QR code",
        Some((
            "POST",
            "/_matrix/client/unstable/org.matrix.msc4108/rendezvous",
        )),
    ),
    (
        "org.matrix.msc4140",
        "Dart, js, rust: delayed events, which end calls",
        Some((
            "GET",
            "/_matrix/client/unstable/org.matrix.msc4140/delayed_events",
        )),
    ),
    (
        "org.matrix.msc4143",
        "js: the transports of calls",
        Some((
            "GET",
            "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports",
        )),
    ),
    (
        "org.matrix.msc4306",
        "rust: subscribes to threads",
        Some((
            "GET",
            "/_matrix/client/unstable/io.element.msc4306/rooms/!r:localhost/thread/$e/subscription",
        )),
    ),
    ("org.matrix.msc4354", "js: sticky events", None),
];

fn announced(server: &TestServer) -> BTreeSet<String> {
    let response = expect_ok(server.get("/_matrix/client/versions"));
    let versions = response["versions"].as_array().expect("versions");
    let versions = versions.iter().filter_map(Value::as_str).map(str::to_owned);
    let flags = response["unstable_features"].as_object().expect("flags");
    assert!(flags.values().all(|flag| *flag == true), "{flags:?}");
    versions.chain(flags.keys().cloned()).collect()
}

#[test]
fn endpoints_of_every_announced_version_and_flag_are_served() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let listed: BTreeSet<_> = ANNOUNCEMENTS.iter().map(|row| row.0.to_owned()).collect();
    assert_eq!(announced(&server), listed);
    for (name, effect, method, path) in ANNOUNCEMENTS {
        let method: Method = method.parse().expect("a method");
        let (_, body) = alice.request(method, path, json!({}));
        assert_ne!(
            body["errcode"], "M_UNRECOGNIZED",
            "{name}: {effect}: {path}"
        );
    }
}

/// What is served must move to the other table.
#[test]
fn flags_of_what_is_not_served_are_not_announced() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let announced = announced(&server);
    for (flag, effect, request) in NOT_ANNOUNCED {
        assert!(!announced.contains(*flag), "{flag}: {effect}");
        if let Some((method, path)) = request {
            let method: Method = method.parse().expect("a method");
            let (_, body) = alice.request(method, path, json!({}));
            assert_eq!(body["errcode"], "M_UNRECOGNIZED", "{flag}: {effect}");
        }
    }
}

#[test]
fn what_the_flags_of_proposals_name_is_served() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    let id = percent_encode(&room);

    // org.matrix.msc3981, org.matrix.msc3715.stable
    let root = send_text(&alice, &room, "root");
    let reply = send_in_thread(&alice, &room, &root, "reply");
    let reaction = json!({
        "m.relates_to": { "rel_type": "m.annotation", "event_id": reply, "key": "k" },
    });
    let reaction = send_event(&alice, &room, "m.reaction", reaction);
    for rel_type in ["", "/m.annotation", "/m.annotation/m.reaction"] {
        let path = format!(
            "/_matrix/client/v1/rooms/{id}/relations/{}{rel_type}?org.matrix.msc3981.recurse=true",
            percent_encode(&root)
        );
        let page = expect_ok(alice.get(&path));
        assert_eq!(page["chunk"][0]["event_id"], json!(reaction), "{rel_type}");
        assert_eq!(page["recursion_depth"], 3);
    }
    let path = format!(
        "/_matrix/client/v1/rooms/{id}/relations/{}",
        percent_encode(&root)
    );
    let page = expect_ok(alice.get(&format!("{path}?dir=f&recurse=true")));
    assert_eq!(page["chunk"][0]["event_id"], json!(reply));

    // uk.tcpip.msc4133, uk.tcpip.msc4133.stable
    let alice_id = percent_encode(&alice.user_id);
    for prefix in ["unstable/uk.tcpip.msc4133", "v3"] {
        let profile = format!("/_matrix/client/{prefix}/profile/{alice_id}");
        let field = format!("{profile}/x.y");
        expect_ok(alice.put(&field, json!({ "x.y": "z" })));
        assert_eq!(expect_ok(alice.get(&field)), json!({ "x.y": "z" }));
        assert_eq!(expect_ok(alice.get(&profile))["x.y"], "z");
        expect_ok(alice.delete(&field, json!({})));
        assert!(expect_ok(alice.get(&profile)).get("x.y").is_none());
    }

    // org.matrix.msc3266
    for path in [
        format!("v1/room_summary/{id}"),
        format!("unstable/im.nheko.summary/rooms/{id}/summary"),
        format!("unstable/im.nheko.summary/summary/{id}"),
    ] {
        let summary = expect_ok(alice.get(&format!("/_matrix/client/{path}")));
        assert_eq!(summary["room_id"], json!(room), "{path}");
    }

    // org.matrix.msc2285.stable, org.matrix.msc2432, org.matrix.simplified_msc3575
    let markers = json!({ "m.read.private": root });
    expect_ok(alice.post(&room_path(&room, "read_markers"), markers));
    let aliases = format!("/_matrix/client/unstable/org.matrix.msc2432/rooms/{id}/aliases");
    assert_eq!(expect_ok(alice.get(&aliases)), json!({ "aliases": [] }));
    let sync = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let list = json!({ "timeline_limit": 1, "required_state": [], "ranges": [[0, 1]] });
    let response = expect_ok(alice.post(sync, json!({ "lists": { "a": list } })));
    assert!(
        response["rooms"][&room]["timeline"].is_array(),
        "{response}"
    );

    // org.matrix.msc3827.stable
    let space = json!({
        "preset": "public_chat", "visibility": "public", "creation_content": { "type": "m.space" },
    });
    let space = create_room(&alice, space);
    create_room(
        &alice,
        json!({ "preset": "public_chat", "visibility": "public" }),
    );
    let filter = json!({ "filter": { "room_types": ["m.space"] } });
    let listed = expect_ok(alice.post("/_matrix/client/v3/publicRooms", filter));
    assert_eq!(listed["chunk"].as_array().unwrap().len(), 1);
    assert_eq!(listed["chunk"][0]["room_id"], json!(space));

    // org.matrix.msc4380.stable
    let bob = server.register("bob");
    let config = format!(
        "/_matrix/client/v3/user/{}/account_data/m.invite_permission_config",
        percent_encode(&bob.user_id)
    );
    expect_ok(bob.put(&config, json!({ "default_action": "block" })));
    let invite = json!({ "user_id": bob.user_id });
    let blocked = alice.post(&room_path(&room, "invite"), invite);
    expect_error(&blocked, 403, "M_INVITE_BLOCKED");
}
