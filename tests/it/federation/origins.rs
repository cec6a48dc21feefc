//! What a server may not do in the name of others.

use http::{Method, StatusCode};
use ruma::{
    EventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::{
        backfill::get_backfill,
        event::get_missing_events,
        membership::{prepare_join_event, prepare_knock_event, prepare_leave_event},
        query::get_profile_information,
        transactions::send_transaction_message,
    },
    serde::Raw,
};
use serde_json::{Value, json, value::to_raw_value};

use super::{
    device_lists::create_shared_room,
    to_device::{send_edus, send_note, wait_for_notes},
};
use crate::{
    client_api::{
        change_membership, content_of, create_room, event_types, join, join_via, next_batch,
        percent_encode, room_path, sync, sync_with,
    },
    e2ee_keys::query,
    test_server::{TestServer, TestUser, expect_ok},
};

/// The status that a request of `$here` to `$there` gets.
macro_rules! status {
    ($here:expr, $there:expr, $request:expr) => {
        match $here.run($here.client().send($there.name(), $request)) {
            Ok(_) => StatusCode::OK,
            Err(hearth::federation::Error::Status(status, _)) => status,
            Err(error) => panic!("{error}"),
        }
    };
}

pub(super) use status;

fn room_id(id: &str) -> OwnedRoomId {
    RoomId::parse(id).expect("a room id")
}

fn user_id(id: &str) -> OwnedUserId {
    UserId::parse(id).expect("a user id")
}

#[test]
fn a_transaction_in_the_name_of_another_server_is_refused() {
    let [here, there] = TestServer::federating();
    let now = here.clock.timestamp();
    let transaction = |origin: &ServerName| {
        send_transaction_message::v1::Request::new("1".into(), origin.to_owned(), now)
    };
    let own = transaction(here.name());
    assert_eq!(status!(here, there, own), StatusCode::OK);
    let foreign = transaction(there.name());
    assert_eq!(status!(here, there, foreign), StatusCode::FORBIDDEN);
}

#[test]
fn only_servers_that_the_owner_names_are_answered_and_asked() {
    let [here, there, third] = TestServer::federating_with(|[_, _, third]| {
        let allowed = format!("federation = [\"{third}\"]");
        [allowed, String::new(), String::new()]
    });
    let alice = here.register("alice");
    let profile = || get_profile_information::v1::Request::new(user_id(&alice.user_id));
    assert_eq!(status!(there, here, profile()), StatusCode::FORBIDDEN);
    assert_eq!(status!(third, here, profile()), StatusCode::OK);
    let asked = here.run(here.client().send(there.name(), profile()));
    assert!(matches!(asked, Err(hearth::federation::Error::NotAllowed)));
}

#[test]
fn templates_of_membership_events_are_for_the_servers_own_users_only() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_room(&bob, json!({ "preset": "public_chat" }));
    let (room, alice, bob) = (
        room_id(&room),
        user_id(&alice.user_id),
        user_id(&bob.user_id),
    );
    let versions = vec![RoomVersionId::V12];
    let join = |user: &OwnedUserId| {
        let mut request = prepare_join_event::v1::Request::new(room.clone(), user.clone());
        request.ver.clone_from(&versions);
        request
    };
    assert_eq!(status!(here, there, join(&alice)), StatusCode::OK);
    assert_eq!(status!(here, there, join(&bob)), StatusCode::FORBIDDEN);
    let leave = prepare_leave_event::v1::Request::new(room.clone(), bob.clone());
    assert_eq!(status!(here, there, leave), StatusCode::FORBIDDEN);
    let mut knock = prepare_knock_event::v1::Request::new(room.clone(), bob.clone());
    knock.ver = versions;
    assert_eq!(status!(here, there, knock), StatusCode::FORBIDDEN);
}

#[test]
fn a_request_names_at_most_a_hundred_events() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_shared_room(&alice, &here, &bob);
    let ids = |count: usize| {
        let ids = (0..count).map(|number| EventId::parse(format!("${number:043}")));
        ids.collect::<Result<Vec<_>, _>>().expect("event ids")
    };
    let room = room_id(&room);
    for (count, expected) in [(100, StatusCode::OK), (101, StatusCode::BAD_REQUEST)] {
        let (some, many) = (ids(1), ids(count));
        for (earliest, latest) in [(&some, &many), (&many, &some)] {
            let request = get_missing_events::v1::Request::new(
                room.clone(),
                earliest.clone(),
                latest.clone(),
            );
            assert_eq!(status!(there, here, request), expected, "{count}");
        }
        let request = get_backfill::v1::Request::new(room.clone(), many, 10u32.into());
        assert_eq!(status!(there, here, request), expected, "{count}");
    }
}

#[test]
fn a_transaction_has_at_most_50_pdus_and_100_edus() {
    let [here, there] = TestServer::federating();
    let (pdu, edu) = (
        json!({}),
        json!({ "edu_type": "org.example.x", "content": {} }),
    );
    let sent = |pdus: usize, edus: usize| {
        let (origin, now) = (here.name().to_owned(), here.clock.timestamp());
        let id = format!("{pdus}-{edus}");
        let mut request = send_transaction_message::v1::Request::new(id.into(), origin, now);
        request.pdus = vec![to_raw_value(&pdu).expect("JSON"); pdus];
        request.edus = vec![Raw::from_json(to_raw_value(&edu).expect("JSON")); edus];
        status!(here, there, request)
    };
    assert_eq!(sent(50, 100), StatusCode::OK);
    assert_eq!(sent(51, 0), StatusCode::BAD_REQUEST);
    assert_eq!(sent(0, 101), StatusCode::BAD_REQUEST);
}

#[test]
fn updates_beyond_the_limit_of_an_edu_are_dropped() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_shared_room(&alice, &here, &bob);
    let synced = sync(&bob, None);
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    let event = timeline.as_array().and_then(|events| events.last());
    let event = event.expect("an event")["event_id"].clone();
    // They come before alice, and are nobody.
    let others = |count: usize| (0..count).map(|n| format!("@0{n}:{}", here.name()));
    let receipts = |count: usize, ts: u64| {
        let users = others(count).chain([alice.user_id.clone()]);
        let receipt = json!({ "event_ids": [event], "data": { "ts": ts } });
        let read = users.map(|user| (user, receipt.clone()));
        let read: serde_json::Map<_, _> = read.collect();
        json!({ "edu_type": "m.receipt", "content": { &room: { "m.read": read } } })
    };
    let presence = |count: usize, message: &str| {
        let users = others(count).chain([alice.user_id.clone()]);
        let update = |user| {
            json!({
                "user_id": user, "presence": "online", "last_active_ago": 1,
                "status_msg": message,
            })
        };
        let push: Vec<_> = users.map(update).collect();
        json!({ "edu_type": "m.presence", "content": { "push": push } })
    };
    let edus = [presence(199, "applied"), presence(200, "dropped")];
    let synced = sync_after((&here, &there), &bob, &edus);
    let events = synced["presence"]["events"].as_array().expect("presence");
    let mut messages = events.iter().map(|event| &event["content"]["status_msg"]);
    assert!(messages.all(|message| message == "applied"), "{synced}");

    // The first receipt for an event counts.
    let synced = sync_after((&here, &there), &bob, &[receipts(500, 1), receipts(499, 2)]);
    let ephemeral = &synced["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"];
    let read = &ephemeral[event.as_str().expect("an id")]["m.read"];
    assert_eq!(read[&alice.user_id]["ts"], 2, "{synced}");
}

#[test]
fn device_list_updates_for_users_of_another_server_are_dropped() {
    let [here, there, third] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let carol = third.register("carol");
    let room = create_shared_room(&alice, &here, &bob);
    join_via(&carol, &room, &here);
    there.wait_until(async || {
        let path = room_path(&room, "joined_members");
        let token = Some(&*bob.token);
        let members = there.send(Method::GET, &path, token, &Value::Null).await.1;
        members["joined"][&carol.user_id].is_object()
    });
    // Their lists are kept from now on.
    for user in [&alice, &carol] {
        query(&bob, user);
    }
    let update = |user: &TestUser<'_>| {
        json!({
            "edu_type": "m.device_list_update",
            "content": { "user_id": user.user_id, "device_id": "EVIL", "stream_id": 1000, "prev_id": [] },
        })
    };
    let synced = sync_after((&here, &there), &bob, &[&carol, &alice].map(update));
    let changed = &synced["device_lists"]["changed"];
    assert_eq!(*changed, json!([alice.user_id]), "{synced}");
}

/// Sends EDUs of which only the last may have an effect on a sync of `observer`; returns that sync.
fn sync_after(
    (here, there): (&TestServer, &TestServer),
    observer: &TestUser<'_>,
    edus: &[Value],
) -> Value {
    let since = next_batch(&sync_with(observer, &[("set_presence", "offline")])).to_owned();
    send_edus(here, there, &since, edus);
    let parameters = [
        ("since", &*since),
        ("timeout", "10000"),
        ("set_presence", "offline"),
    ];
    sync_with(observer, &parameters)
}

#[test]
fn typing_of_users_who_are_not_in_the_room_or_of_another_server_is_dropped() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let outsider = here.register("outsider").user_id;
    let room = create_shared_room(&alice, &here, &bob);
    let typing = |user: &String| {
        let content = json!({ "room_id": room, "user_id": user, "typing": true });
        json!({ "edu_type": "m.typing", "content": content })
    };
    let edus = [&bob.user_id, &outsider, &alice.user_id].map(typing);
    let synced = sync_after((&here, &there), &bob, &edus);
    let ephemeral = &synced["rooms"]["join"][&room]["ephemeral"]["events"][0];
    assert_eq!(ephemeral["content"]["user_ids"], json!([alice.user_id]));
}

#[test]
fn presence_of_users_of_another_server_is_dropped() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let carol = there.register("carol");
    let room = create_shared_room(&alice, &here, &bob);
    join(&carol, &room);
    let update = |user: &TestUser<'_>| {
        json!({
            "user_id": user.user_id, "presence": "online", "last_active_ago": 1,
            "status_msg": "x".repeat(2000),
        })
    };
    let push = [&carol, &alice].map(update);
    let edu = json!({ "edu_type": "m.presence", "content": { "push": push } });
    let synced = sync_after((&here, &there), &bob, &[edu]);
    let events = synced["presence"]["events"].as_array().expect("presence");
    let senders: Vec<_> = events.iter().map(|event| &event["sender"]).collect();
    assert_eq!(senders, [&json!(alice.user_id)]);
    let message = events[0]["content"]["status_msg"].as_str();
    assert_eq!(message.map(str::len), Some(1024));
}

#[test]
fn an_invitation_is_ended_by_who_sent_it_and_by_nobody_else() {
    let [here, there, third] = TestServer::federating();
    let (alice, dora, bob) = (
        here.register("alice"),
        here.register("dora"),
        there.register("bob"),
    );
    let carol = third.register("carol");
    let moderators = json!({
        "users": { carol.user_id.as_str(): 50, dora.user_id.as_str(): 50, alice.user_id.as_str(): 100 },
    });
    let room = create_room(
        &alice,
        json!({
            "room_version": "11",
            "preset": "public_chat",
            "power_level_content_override": moderators,
        }),
    );
    join(&dora, &room);
    join_via(&carol, &room, &here);
    let target = json!({ "user_id": bob.user_id });
    let is_invited = || sync(&bob, None)["rooms"]["invite"][&room].is_object();
    let state = format!("state/m.room.member/{}", percent_encode(&bob.user_id));
    let (kick, state) = (room_path(&room, "kick"), room_path(&room, &state));
    for (round, (server, moderator)) in (0..).zip([(&third, &carol), (&here, &dora)]) {
        expect_ok(change_membership(&alice, &room, "invite", target.clone()));
        assert!(is_invited());
        // The invitation has to arrive there first.
        server.wait_until(async || {
            let token = Some(&*moderator.token);
            server.send(Method::POST, &kick, token, &target).await.0 == 200
        });
        // The transaction with the kick ends before the next one begins.
        for number in [2 * round, 2 * round + 1] {
            send_note(moderator, &bob.user_id, number);
            while !wait_for_notes(&bob, 1).contains(&number) {}
        }
        assert!(is_invited());
        here.wait_until(async || {
            let token = Some(&*alice.token);
            let member = here.send(Method::GET, &state, token, &Value::Null).await.1;
            member["membership"] == "leave"
        });
    }
    expect_ok(change_membership(&alice, &room, "invite", target.clone()));
    assert!(is_invited());
    expect_ok(change_membership(&alice, &room, "kick", target));
    there.wait_until(async || {
        let token = Some(&*bob.token);
        let path = "/_matrix/client/v3/sync";
        let synced = there.send(Method::GET, path, token, &Value::Null).await.1;
        synced["rooms"]["invite"][&room].is_null()
    });
}

#[test]
fn the_state_of_an_invitation_is_what_a_user_needs_to_decide() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let secret = json!({ "type": "org.example.secret", "content": { "secret": 1 } });
    let room = create_room(
        &alice,
        json!({ "preset": "private_chat", "name": "den", "initial_state": [secret] }),
    );
    let target = json!({ "user_id": bob.user_id });
    expect_ok(change_membership(&alice, &room, "invite", target));
    let synced = sync(&bob, None);
    let state = &synced["rooms"]["invite"][&room]["invite_state"]["events"];
    let types = event_types(state);
    for kind in [
        "m.room.create",
        "m.room.name",
        "m.room.join_rules",
        "m.room.member",
    ] {
        assert!(types.contains(&kind), "{types:?}");
    }
    for kind in [
        "org.example.secret",
        "m.room.power_levels",
        "m.room.history_visibility",
    ] {
        assert!(!types.contains(&kind), "{types:?}");
    }
    assert_eq!(*content_of(state, "m.room.name"), json!({ "name": "den" }));
}
