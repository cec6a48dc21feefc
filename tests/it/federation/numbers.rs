//! Numbers that canonical JSON forbids, and strings that are no Unicode, cost only the PDU or EDU that has them.

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
    client_api::{create_room, join_via, next_batch, percent_encode, room_path, sync, sync_with},
    test_server::{TestServer, TestUser, expect_error, expect_ok, parse},
};

/// Sends a message with this content to every device of `to`.
fn send_content(user: &TestUser<'_>, to: &str, transaction: &str, content: Value) {
    let path = format!("/_matrix/client/v3/sendToDevice/org.example.note/{transaction}");
    expect_ok(user.put(&path, json!({ "messages": { to: { "*": content } } })));
}

#[test]
fn numbers_and_strings_of_another_server_cost_only_the_pdu_or_edu_that_has_them() {
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
        note("m3", r#"{"n": 3, "x": "\ud800"}"#),
        r#"{"edu_type": "m.typing", "content": {"room_id": "\udc00"}}"#.to_owned(),
        note("m2", r#"{"n": 2}"#),
    ];
    let pdus = [
        format!(
            r#"{{"room_id": "{room}", "depth": 9007199254740992, "unsigned": {{"age": 0.5}}}}"#
        ),
        format!(r#"{{"room_id": "{room}", "origin_server_ts": 1e400}}"#),
        format!(r#"{{"room_id": "{room}", "content": {{"body": "\ud800"}}}}"#),
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

/// The raw text of the response to a request.
fn text(
    server: &TestServer,
    user: &TestUser<'_>,
    method: &str,
    path: &str,
    body: &str,
) -> (u16, String) {
    let request = http::Request::builder().method(method).uri(path);
    let request = request.header("authorization", format!("Bearer {}", user.token));
    let request = request.body(body.as_bytes().to_vec()).expect("a request");
    let response = server.respond(request);
    let text = String::from_utf8(response.body().clone()).expect("UTF-8");
    (response.status().as_u16(), text)
}

#[test]
fn numbers_that_canonical_json_forbids_are_sent_in_rooms_of_versions_before_6_only() {
    const SENT: &str = r#"{"msgtype":"m.text","body":"x","n":[0.50,9007199254740992,1e21,-0]}"#;
    const SEEN: &str = r#"[0.5,9007199254740992,1e+21,0]"#;
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    for version in ["3", "5", "6", "12"] {
        let body = json!({ "preset": "public_chat", "room_version": version });
        let room = create_room(&alice, body);
        join_via(&bob, &room, &here);
        let message = room_path(&room, "send/m.room.message/t1");
        let state = room_path(&room, "state/org.example.numbers/");
        for path in [&message, &state] {
            let (status, answer) = text(&here, &alice, "PUT", path, SENT);
            if version == "6" || version == "12" {
                assert_eq!(status, 400, "{version} {answer}");
                assert!(answer.contains("M_BAD_JSON"), "{answer}");
                continue;
            }
            assert_eq!(status, 200, "{version} {answer}");
            let id: Value = serde_json::from_str(&answer).expect("JSON");
            let id = percent_encode(id["event_id"].as_str().expect("an id"));
            let event = room_path(&room, &format!("event/{id}"));
            there.wait_until(async || {
                let token = Some(&*bob.token);
                there
                    .send(http::Method::GET, &event, token, &Value::Null)
                    .await
                    .0
                    == 200
            });
            for (server, user) in [(&here, &alice), (&there, &bob)] {
                let paths = [
                    event.clone(),
                    room_path(&room, "messages?dir=b&limit=100"),
                    "/_matrix/client/v3/sync".to_owned(),
                ];
                for path in paths {
                    let (status, answer) = text(server, user, "GET", &path, "");
                    assert!(
                        status == 200 && answer.contains(SEEN),
                        "{version} {path} {answer}"
                    );
                }
            }
        }
        for kind in ["m.room.member", "m.room.power_levels"] {
            let path = room_path(&room, &format!("state/{kind}/{}", alice.user_id));
            let content = r#"{"membership":"join","n":0.5}"#;
            assert_eq!(text(&here, &alice, "PUT", &path, content).0, 400);
        }
    }
}
