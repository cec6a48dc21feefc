//! EDUs of other servers.

use http::Method;
use serde_json::{Value, json};
use smol::future::poll_once;

use super::{
    device_lists::create_shared_room,
    to_device::{send_edus, wait_for_notes},
};
use crate::{
    client_api::{next_batch, percent_encode, room_path, sync, sync_with},
    test_server::{TestServer, expect_ok},
};

#[test]
fn edus_of_a_large_transaction_are_applied_in_their_order() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_shared_room(&alice, &here, &bob);
    let mut since = next_batch(&sync(&bob, None)).to_owned();
    let typing = |typing: bool| {
        json!({
            "edu_type": "m.typing",
            "content": { "room_id": room, "user_id": alice.user_id, "typing": typing },
        })
    };
    let unknown = json!({ "edu_type": "org.example.x", "content": { "x": "x".repeat(100_000) } });
    for is_typing in [true, false] {
        let mut edus = vec![unknown.clone()];
        edus.extend((0..41).map(|number| typing((number % 2 == 0) == is_typing)));
        send_edus(&here, &there, &is_typing.to_string(), &edus);
        let response = sync_with(&bob, &[("since", &since), ("timeout", "10000")]);
        since = next_batch(&response).to_owned();
        let ephemeral = &response["rooms"]["join"][&room]["ephemeral"]["events"][0];
        let users: &[Value] = match is_typing {
            true => &[json!(alice.user_id)],
            false => &[],
        };
        assert_eq!(ephemeral["content"]["user_ids"], json!(users), "{response}");
    }
}

#[test]
fn receipts_of_users_who_are_not_in_the_room_or_of_another_server_are_dropped() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let outsider = here.register("outsider").user_id;
    let room = create_shared_room(&alice, &here, &bob);
    let synced = sync(&bob, None);
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    let event = timeline.as_array().and_then(|events| events.last());
    let event = &event.expect("an event")["event_id"];
    let receipt = json!({ "event_ids": [event], "data": { "ts": 1 } });
    let mut read = json!({});
    for user in [&alice.user_id, &bob.user_id, &outsider] {
        read[user] = receipt.clone();
    }
    let edu = json!({
        "edu_type": "m.receipt",
        "content": { &room: { "m.read": read }, "!elsewhere:localhost": { "m.read": read } },
    });
    send_edus(&here, &there, "1", &[edu]);
    let response = sync_with(
        &bob,
        &[("since", next_batch(&synced)), ("timeout", "10000")],
    );
    let ephemeral = &response["rooms"]["join"][&room]["ephemeral"]["events"][0];
    let read = &ephemeral["content"][event.as_str().expect("an id")]["m.read"];
    assert_eq!(*read, json!({ &alice.user_id: { "ts": 1 } }), "{response}");
}

#[test]
fn an_invalid_entry_of_an_edu_costs_only_itself() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_shared_room(&alice, &here, &bob);
    let synced = sync(&bob, None);
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    let event = timeline.as_array().and_then(|events| events.last());
    let event = &event.expect("an event")["event_id"];
    let receipt = json!({ "event_ids": [event], "data": { "ts": 1 } });
    let edus = [
        json!({ "edu_type": "m.presence", "content": { "push": [
            { "user_id": "nobody", "presence": "online" },
            { "user_id": alice.user_id, "presence": "online", "status_msg": "without last_active_ago" },
        ] } }),
        json!({ "edu_type": "m.receipt", "content": {
            "no room": {},
            &room: { "m.read": { "nobody": receipt, "@0:x": 5, &alice.user_id: receipt } },
        } }),
        json!({ "edu_type": "m.direct_to_device", "content": {
            "sender": alice.user_id, "type": "org.example.note", "message_id": "1",
            "messages": { "nobody": { "*": {} }, &bob.user_id: { "*": { "n": 1 }, "D": 5 } },
        } }),
    ];
    send_edus(&here, &there, "1", &edus);
    assert_eq!(wait_for_notes(&bob, 1), [1]);
    let path = format!("/_matrix/client/v3/presence/{}/status", alice.user_id);
    let presence = expect_ok(bob.get(&path));
    assert_eq!(presence["status_msg"], "without last_active_ago");
    let read = |response: &Value| {
        let ephemeral = &response["rooms"]["join"][&room]["ephemeral"]["events"][0];
        ephemeral["content"][event.as_str().expect("an id")]["m.read"][&alice.user_id]["ts"].clone()
    };
    there.wait_until(async || read(&sync(&bob, None)) == 1);
}

#[test]
fn typing_reaches_the_users_of_other_servers() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_shared_room(&alice, &here, &bob);
    let since = next_batch(&sync(&bob, None)).to_owned();
    let path = room_path(&room, &format!("typing/{}", percent_encode(&alice.user_id)));
    expect_ok(alice.put(&path, json!({ "typing": true, "timeout": 30_000 })));
    let response = sync_with(&bob, &[("since", &since), ("timeout", "10000")]);
    let ephemeral = &response["rooms"]["join"][&room]["ephemeral"]["events"][0];
    assert_eq!(ephemeral["content"]["user_ids"], json!([alice.user_id]));
}

#[test]
fn the_receipt_of_a_client_that_hangs_up_is_sent_to_other_servers() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_shared_room(&alice, &here, &bob);
    let synced = sync_with(&bob, &[("set_presence", "offline")]);
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    let event = timeline.as_array().and_then(|events| events.last());
    let event = event.expect("an event")["event_id"]
        .as_str()
        .expect("an id");
    let path = room_path(&room, &format!("receipt/m.read/{}", percent_encode(event)));
    here.run(async {
        let token = Some(&*alice.token);
        let request = Box::pin(here.send(Method::POST, &path, token, &Value::Null));
        assert!(poll_once(request).await.is_none(), "it waits for a commit");
    });
    let mut since = next_batch(&synced).to_owned();
    // Other news, such as a device list, may come before.
    for _ in 0..10 {
        let query = [
            ("since", &*since),
            ("timeout", "10000"),
            ("set_presence", "offline"),
        ];
        let response = sync_with(&bob, &query);
        let ephemeral = &response["rooms"]["join"][&room]["ephemeral"]["events"][0];
        if ephemeral["content"][event]["m.read"][&alice.user_id].is_object() {
            return;
        }
        since = next_batch(&response).to_owned();
    }
    panic!("the receipt did not arrive");
}

#[test]
fn private_receipts_do_not_leave_the_server() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_shared_room(&alice, &here, &bob);
    let synced = sync(&alice, None);
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    let events = timeline.as_array().expect("events");
    let last = events.last().expect("an event")["event_id"].as_str();
    let event = percent_encode(last.expect("an id"));
    let mut since = next_batch(&sync(&bob, None)).to_owned();
    let read = room_path(&room, &format!("receipt/m.read.private/{event}"));
    expect_ok(alice.post(&read, json!({})));
    // EDUs of a room are sent in their order.
    let typing = room_path(&room, &format!("typing/{}", percent_encode(&alice.user_id)));
    expect_ok(alice.put(&typing, json!({ "typing": true, "timeout": 30_000 })));
    for _ in 0..10 {
        let response = sync_with(&bob, &[("since", &since), ("timeout", "10000")]);
        let ephemeral = &response["rooms"]["join"][&room]["ephemeral"]["events"];
        if let Some(events) = ephemeral.as_array().filter(|events| !events.is_empty()) {
            assert_eq!(events.len(), 1, "{response}");
            assert_eq!(events[0]["type"], "m.typing");
            return;
        }
        next_batch(&response).clone_into(&mut since);
    }
    panic!("nothing arrived");
}
