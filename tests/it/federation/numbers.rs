//! Numbers that canonical JSON forbids cost only the PDU or EDU that has them.

use ruma::{
    api::federation::transactions::{edu::Edu, send_transaction_message},
    serde::Raw,
};
use serde_json::{Value, json, value::RawValue};

use super::{
    device_lists::create_shared_room,
    mock_server::MockServer,
    to_device::{send_note, wait_for_notes},
};
use crate::{
    client_api::{next_batch, sync, sync_with},
    test_server::{TestServer, TestUser, expect_error, expect_ok, parse},
};

/// Sends a message with this content to every device of `to`.
fn send_content(user: &TestUser<'_>, to: &str, transaction: &str, content: Value) {
    let path = format!("/_matrix/client/v3/sendToDevice/org.example.note/{transaction}");
    expect_ok(user.put(&path, json!({ "messages": { to: { "*": content } } })));
}

#[test]
fn numbers_of_another_server_cost_only_the_pdu_or_edu_that_has_them() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_shared_room(&alice, &here, &bob);
    let (from, to) = (&alice.user_id, &bob.user_id);
    let note = |id: &str, content: &str| {
        format!(
            r#"{{"edu_type": "m.direct_to_device", "content": {{"sender": "{from}",
            "type": "org.example.note", "message_id": "{id}",
            "messages": {{"{to}": {{"*": {content}}}}}}}}}"#
        )
    };
    let edus = [
        note("m0", r#"{"n": 0, "x": 1e400}"#),
        note("m1", r#"{"n": 1, "x": [0.5, 9007199254740992]}"#),
        format!(
            r#"{{"edu_type": "m.presence", "content": {{"push": [{{"user_id": "{from}",
            "presence": "online", "last_active_ago": 0.5}}]}}}}"#
        ),
        format!(
            r#"{{"edu_type": "m.receipt", "content": {{"{room}": {{"m.read": {{"{from}":
            {{"data": {{"ts": 0.5}}, "event_ids": ["$x"]}}}}}}}}}}"#
        ),
        r#"{"edu_type": "org.example.unknown", "content": {"x": 0.5}}"#.to_owned(),
        note("m2", r#"{"n": 2}"#),
    ];
    let pdus = [
        format!(
            r#"{{"room_id": "{room}", "depth": 9007199254740992, "unsigned": {{"age": 0.5}}}}"#
        ),
        format!(r#"{{"room_id": "{room}", "origin_server_ts": 1e400}}"#),
    ];
    let (origin, now) = (here.name().to_owned(), here.clock.timestamp());
    let mut request = send_transaction_message::v1::Request::new("t1".into(), origin, now);
    let edu = |edu: &String| Raw::<Edu>::from_json_string(edu.clone()).expect("JSON");
    request.edus = edus.iter().map(edu).collect();
    let pdu = |pdu: &String| RawValue::from_string(pdu.clone()).expect("JSON");
    request.pdus = pdus.iter().map(pdu).collect();
    let response = here.run(here.client().send(there.name(), request));
    assert!(response.expect("it is accepted").pdus.is_empty());
    assert_eq!(wait_for_notes(&bob, 2), [1, 2]);
}

#[test]
fn fractions_reach_local_and_remote_devices_alike() {
    let [here, there] = TestServer::federating();
    let (alice, carol) = (here.register("alice"), here.register("carol"));
    let bob = there.register("bob");
    let content = json!({ "n": 1, "x": [0.5, 1e-7, 1e21, 9_007_199_254_740_992_u64], "ü": "\n" });
    for to in [&bob, &carol] {
        let since = next_batch(&sync(to, None)).to_owned();
        send_content(&alice, &to.user_id, &to.user_id[..4], content.clone());
        let response = sync_with(to, &[("timeout", "10000"), ("since", &since)]);
        assert_eq!(response["to_device"]["events"][0]["content"], content);
    }
}

#[test]
fn a_number_that_no_server_can_read_is_refused() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let body = r#"{"messages": {"@alice:localhost": {"*": {"x": 1e400}}}}"#;
    let request = http::Request::put("/_matrix/client/v3/sendToDevice/org.example.note/t1")
        .header("authorization", format!("Bearer {}", alice.token))
        .body(body.as_bytes().to_vec());
    let response = server.respond(request.expect("a valid request"));
    expect_error(&parse(&response), 400, "M_BAD_JSON");
}

#[test]
fn a_server_that_knows_only_canonical_json_gets_all_other_messages() {
    let remote = MockServer::with_status(|body| {
        let is_canonical = serde_json::from_slice::<ruma::CanonicalJsonObject>(body).is_ok();
        if is_canonical { 200 } else { 401 }
    });
    let [here] = TestServer::federating();
    let alice = here.register("alice");
    let to = format!("@bob:{}", remote.name());
    send_note(&alice, &to, 1);
    send_content(&alice, &to, "fraction", json!({ "n": 2, "x": 0.5 }));
    send_note(&alice, &to, 3);
    let received = || {
        let edus = remote.accepted_edus().into_iter();
        let numbers = edus.filter_map(|edu| edu["content"]["messages"][&to]["*"]["n"].as_u64());
        numbers.collect::<Vec<_>>()
    };
    here.wait_until(async || received().len() >= 2);
    assert_eq!(received(), [1, 3]);
}
