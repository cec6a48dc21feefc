//! `device_lists` of `/sync`, and `/keys/changes`.

use serde_json::{Value, json};

use crate::{
    client_api::{
        create_room, create_room_with, join, leave, next_batch, percent_encode, sync, sync_with,
    },
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const CLIENT: &str = "/_matrix/client/v3";

/// The `changed` and `left` users of a sync response.
fn device_lists(response: &Value) -> [Vec<&str>; 2] {
    ["changed", "left"].map(|name| {
        let users = response["device_lists"][name].as_array();
        let users = users.map(Vec::as_slice).unwrap_or_default();
        users.iter().filter_map(Value::as_str).collect()
    })
}

fn changed(users: &[&TestUser<'_>]) -> [Vec<String>; 2] {
    [
        users.iter().map(|user| user.user_id.clone()).collect(),
        Vec::new(),
    ]
}

fn left(users: &[&TestUser<'_>]) -> [Vec<String>; 2] {
    let [users, empty] = changed(users);
    [empty, users]
}

fn rename(user: &TestUser<'_>, name: &str) {
    let path = format!("{CLIENT}/devices/{}", user.device_id);
    expect_ok(user.put(&path, json!({ "display_name": name })));
}

fn encrypt(user: &TestUser<'_>, room: &str) {
    let path = format!("{CLIENT}/rooms/{room}/state/m.room.encryption");
    expect_ok(user.put(&path, json!({ "algorithm": "m.megolm.v1.aes-sha2" })));
}

/// Sends `kick`, `ban`, `unban` or `invite`.
fn moderate(user: &TestUser<'_>, room: &str, action: &str, target: &TestUser<'_>) {
    let path = format!("{CLIENT}/rooms/{room}/{action}");
    expect_ok(user.post(&path, json!({ "user_id": target.user_id })));
}

/// The `changed` and `left` users of `/keys/changes` between two sync responses.
fn key_changes(user: &TestUser<'_>, from: &Value, to: &Value) -> [Vec<String>; 2] {
    let [from, to] = [from, to].map(|response| percent_encode(next_batch(response)));
    let path = format!("{CLIENT}/keys/changes?from={from}&to={to}");
    let response = expect_ok(user.get(&path));
    ["changed", "left"].map(|name| {
        let users = response[name].as_array().expect("a list").iter();
        let users = users.map(|user| user.as_str().expect("a user id").to_owned());
        users.collect()
    })
}

#[test]
fn login_rename_and_logout_are_reported_to_room_members_also_after_restart() {
    let mut server = TestServer::new();
    let before = {
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let carol = server.register("carol");
        create_room_with(&[&alice, &bob]);
        let before = sync(&alice, None);
        assert_eq!(device_lists(&before), [vec![""; 0], vec![]]);
        let new = server.log_in("bob");
        server.log_in("carol");
        let joined = sync(&alice, Some(next_batch(&before)));
        assert_eq!(device_lists(&joined), changed(&[&bob]));
        rename(&new, "laptop");
        rename(&carol, "hidden");
        let renamed = sync(&alice, Some(next_batch(&joined)));
        assert_eq!(device_lists(&renamed), changed(&[&bob]));
        let unchanged = sync(&alice, Some(next_batch(&renamed)));
        assert_eq!(device_lists(&unchanged), changed(&[]));
        expect_ok(new.post(&format!("{CLIENT}/logout"), json!({})));
        (alice.token.clone(), next_batch(&unchanged).to_owned())
    };
    server.restart();
    let alice = server.user_with_token(&before.0);
    let left_room = sync(&alice, Some(&before.1));
    assert_eq!(
        device_lists(&left_room),
        [vec![format!("@bob:{}", server.name())], vec![]]
    );
}

#[test]
fn device_change_wakes_a_waiting_sync() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    create_room_with(&[&alice, &bob]);
    let before = sync(&alice, None);
    let path = format!(
        "{CLIENT}/sync?since={}&timeout=60000",
        percent_encode(next_batch(&before))
    );
    let device = format!("{CLIENT}/devices/{}", bob.device_id);
    let name = json!({ "display_name": "laptop" });
    let (synced, renamed) = server.run(smol::future::zip(
        server.send(http::Method::GET, &path, Some(&alice.token), &Value::Null),
        async {
            smol::Timer::after(std::time::Duration::from_millis(50)).await;
            server
                .send(http::Method::PUT, &device, Some(&bob.token), &name)
                .await
        },
    ));
    expect_ok(renamed);
    assert_eq!(device_lists(&expect_ok(synced)), changed(&[&bob]));
}

#[test]
fn own_device_changes_are_reported_without_a_shared_room() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let before = sync(&alice, None);
    server.log_in("alice");
    let joined = sync(&alice, Some(next_batch(&before)));
    assert_eq!(device_lists(&joined), changed(&[&alice]));
}

#[test]
fn join_is_reported_as_changed_and_leaving_the_last_shared_room_as_left() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let rooms = [create_room_with(&[&alice]), create_room_with(&[&alice])];
    let before = sync(&alice, None);
    rooms.iter().for_each(|room| join(&bob, room));
    let joined = sync(&alice, Some(next_batch(&before)));
    assert_eq!(device_lists(&joined), changed(&[&bob]));
    leave(&bob, &rooms[0]);
    let after_first_leave = sync(&alice, Some(next_batch(&joined)));
    assert_eq!(device_lists(&after_first_leave), changed(&[]));
    leave(&bob, &rooms[1]);
    // A filter that excludes the room does not affect device lists.
    let filter = json!({ "room": { "rooms": [] } }).to_string();
    let left_room = sync_with(
        &alice,
        &[
            ("since", next_batch(&after_first_leave)),
            ("filter", &filter),
        ],
    );
    assert_eq!(device_lists(&left_room), left(&[&bob]));
    rename(&bob, "not shared");
    let after_rename = sync(&alice, Some(next_batch(&left_room)));
    assert_eq!(device_lists(&after_rename), changed(&[]));
}

#[test]
fn join_to_a_room_created_since_the_last_sync_is_reported_as_changed() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let before = sync(&alice, None);
    create_room_with(&[&alice, &bob]);
    let after_join = sync(&alice, Some(next_batch(&before)));
    assert_eq!(device_lists(&after_join), changed(&[&bob]));
}

#[test]
fn joining_or_leaving_an_encrypted_room_reports_all_its_members() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let carol = server.register("carol");
    let room = create_room_with(&[&alice, &bob]);
    let other = create_room_with(&[&alice, &carol]);
    encrypt(&alice, &room);
    let before = sync(&carol, None);
    join(&carol, &room);
    let joined = sync(&carol, Some(next_batch(&before)));
    assert_eq!(device_lists(&joined), changed(&[&alice, &bob]));
    leave(&carol, &room);
    let left_room = sync(&carol, Some(next_batch(&joined)));
    assert_eq!(
        device_lists(&left_room),
        left(&[&bob]),
        "alice is still in {other}"
    );
}

#[test]
fn joining_or_leaving_an_unencrypted_room_reports_all_its_members() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let carol = server.register("carol");
    let room = create_room_with(&[&alice, &bob]);
    let before = sync(&carol, None);
    join(&carol, &room);
    let joined = sync(&carol, Some(next_batch(&before)));
    assert_eq!(device_lists(&joined), changed(&[&alice, &bob]));
    leave(&carol, &room);
    let left_room = sync(&carol, Some(next_batch(&joined)));
    assert_eq!(device_lists(&left_room), left(&[&alice, &bob]));
}

#[test]
fn enabling_encryption_reports_all_members_as_changed() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room(&alice, json!({ "preset": "public_chat" }));
    join(&bob, &room);
    let before = sync(&bob, None);
    encrypt(&alice, &room);
    let encrypted = sync(&bob, Some(next_batch(&before)));
    assert_eq!(device_lists(&encrypted), changed(&[&alice]));
}

#[test]
fn keys_changes_returns_the_changes_between_two_tokens() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let first = sync(&alice, None);
    rename(&bob, "laptop");
    let second = sync(&alice, None);
    leave(&bob, &room);
    let third = sync(&alice, None);
    assert_eq!(key_changes(&alice, &first, &third), left(&[&bob]));
    join(&bob, &room);
    assert_eq!(key_changes(&alice, &first, &second), changed(&[&bob]));
    assert_eq!(key_changes(&alice, &third, &second), changed(&[]));
    let path = format!(
        "{CLIENT}/keys/changes?from=nonsense&to={}",
        next_batch(&third)
    );
    expect_error(&alice.get(&path), 400, "M_INVALID_PARAM");
}

#[test]
fn left_is_reported_with_the_last_shared_room_encrypted_or_not() {
    let server = TestServer::new();
    for (n, encrypted_first) in [true, false].into_iter().enumerate() {
        for (m, own) in [true, false].into_iter().enumerate() {
            let alice = server.register(&format!("alice{n}{m}"));
            let bob = server.register(&format!("bob{n}{m}"));
            let mut rooms = [
                create_room_with(&[&alice, &bob]),
                create_room_with(&[&alice, &bob]),
            ];
            encrypt(&alice, &rooms[0]);
            if !encrypted_first {
                rooms.reverse();
            }
            let user = if own { &alice } else { &bob };
            let before = sync(&alice, None);
            leave(user, &rooms[0]);
            let after_first_leave = sync(&alice, Some(next_batch(&before)));
            assert_eq!(device_lists(&after_first_leave), changed(&[]));
            leave(user, &rooms[1]);
            let left_room = sync(&alice, Some(next_batch(&after_first_leave)));
            assert_eq!(device_lists(&left_room), left(&[&bob]));
            assert_eq!(key_changes(&alice, &before, &left_room), left(&[&bob]));
        }
    }
}

#[test]
fn kick_and_ban_are_reported_as_left() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let carol = server.register("carol");
    for action in ["kick", "ban"] {
        let room = create_room_with(&[&carol, &alice, &bob]);
        let before = [&alice, &bob].map(|user| sync(user, None));
        moderate(&carol, &room, action, &bob);
        let alices = sync(&alice, Some(next_batch(&before[0])));
        assert_eq!(device_lists(&alices), left(&[&bob]));
        let bobs = sync(&bob, Some(next_batch(&before[1])));
        assert_eq!(device_lists(&bobs), left(&[&alice, &carol]));
        let before_ban = sync(&carol, None);
        moderate(&carol, &room, "ban", &bob);
        moderate(&carol, &room, "unban", &bob);
        let unbanned = sync(&carol, Some(next_batch(&before_ban)));
        assert_eq!(device_lists(&unbanned), changed(&[]), "bob had left before");
        leave(&alice, &room);
    }
}

#[test]
fn pending_or_declined_invite_is_not_reported() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice]);
    encrypt(&alice, &room);
    let before = [&alice, &bob].map(|user| sync(user, None));
    moderate(&alice, &room, "invite", &bob);
    let invited = sync(&alice, Some(next_batch(&before[0])));
    assert_eq!(device_lists(&invited), changed(&[]));
    leave(&bob, &room);
    moderate(&alice, &room, "invite", &bob);
    moderate(&alice, &room, "kick", &bob);
    for (user, before) in [&alice, &bob].into_iter().zip(&before) {
        let declined = sync(user, Some(next_batch(before)));
        assert_eq!(device_lists(&declined), changed(&[]));
    }
    join(&bob, &room);
    let joined = sync(&bob, Some(next_batch(&before[1])));
    assert_eq!(device_lists(&joined), changed(&[&alice]));
}

#[test]
fn user_who_left_before_own_join_or_came_and_went_between_syncs_is_not_reported() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let carol = server.register("carol");
    let room = create_room_with(&[&bob, &carol]);
    encrypt(&bob, &room);
    let before = sync(&alice, None);
    leave(&carol, &room);
    join(&alice, &room);
    let joined = sync(&alice, Some(next_batch(&before)));
    assert_eq!(device_lists(&joined), changed(&[&bob]));
    join(&carol, &room);
    leave(&carol, &room);
    let unchanged = sync(&alice, Some(next_batch(&joined)));
    assert_eq!(device_lists(&unchanged), changed(&[]));
}

#[test]
fn leave_and_rejoin_between_syncs_is_reported_as_changed() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let mut last = sync(&alice, None);
    for user in [&bob, &alice] {
        leave(user, &room);
        join(user, &room);
        let rejoined = sync(&alice, Some(next_batch(&last)));
        assert_eq!(device_lists(&rejoined), changed(&[&bob]));
        last = rejoined;
    }
}

#[test]
fn keys_changes_of_a_past_range_is_stable() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let first = sync(&alice, None);
    rename(&bob, "laptop");
    let second = sync(&alice, None);
    leave(&bob, &room);
    let third = sync(&alice, None);
    leave(&alice, &room);
    let fourth = sync(&alice, None);
    create_room_with(&[&alice, &bob]);
    assert_eq!(key_changes(&alice, &first, &second), changed(&[&bob]));
    assert_eq!(key_changes(&alice, &second, &third), left(&[&bob]));
    assert_eq!(key_changes(&alice, &third, &fourth), changed(&[]));
    assert_eq!(key_changes(&alice, &first, &fourth), left(&[&bob]));
}

#[test]
fn token_from_before_a_restart_reports_changed_and_left() {
    let mut server = TestServer::new();
    let (token, before) = {
        let (alice, bob) = (server.register("alice"), server.register("bob"));
        let (carol, dave) = (server.register("carol"), server.register("dave"));
        let rooms = [
            create_room_with(&[&alice, &bob, &dave]),
            create_room_with(&[&carol, &dave]),
        ];
        encrypt(&carol, &rooms[1]);
        let before = sync(&alice, None);
        leave(&bob, &rooms[0]);
        join(&alice, &rooms[1]);
        leave(&alice, &rooms[0]);
        (alice.token.clone(), before)
    };
    server.restart();
    let alice = server.user_with_token(&token);
    let name = server.name();
    let user = |user: &str| format!("@{user}:{name}");
    let now = sync(&alice, Some(next_batch(&before)));
    let expected = [vec![user("carol"), user("dave")], vec![user("bob")]];
    assert_eq!(device_lists(&now), expected);
    assert_eq!(key_changes(&alice, &before, &now), expected);
    let erin = server.register("erin");
    let after = sync(&erin, None);
    create_room_with(&[&alice, &erin]);
    let joined = sync(&erin, Some(next_batch(&after)));
    assert_eq!(device_lists(&joined), changed(&[&alice]));
    let expected = [
        vec![user("carol"), user("dave"), user("erin")],
        vec![user("bob")],
    ];
    assert_eq!(
        device_lists(&sync(&alice, Some(next_batch(&before)))),
        expected
    );
}

#[test]
fn a_redacted_membership_is_no_change_of_device_lists() {
    let server = TestServer::new();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    encrypt(&alice, &room);
    let before = sync(&alice, None);
    let member = format!("{CLIENT}/rooms/{room}/state?format=event");
    let state = expect_ok(alice.get(&member));
    let of_bob = |event: &&Value| event["state_key"] == bob.user_id.as_str();
    let joined = state.as_array().expect("events").iter().find(of_bob);
    let joined = joined.expect("a membership")["event_id"].as_str();
    let joined = percent_encode(joined.expect("an event id"));
    let redact = format!("{CLIENT}/rooms/{room}/redact/{joined}/1");
    expect_ok(bob.put(&redact, json!({})));
    let after = sync(&alice, Some(next_batch(&before)));
    assert_eq!(device_lists(&after), [[""; 0]; 2]);
    assert_eq!(key_changes(&alice, &before, &after), changed(&[]));
}
