//! Push notifications.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    client_api::{
        change_membership, create_room, create_room_with, join, leave, room_path, send_event,
        send_in_thread, send_receipt, send_text, set_state,
    },
    media_deletion::redact,
    mock_push_gateway::{Behaviour, MockPushGateway, pusher, pushkeys, set_pusher},
    test_server::{TestServer, TestUser, expect_error, expect_ok},
};

const HOUR: Duration = Duration::from_hours(1);

/// A gateway, and a server that allows it.
fn gateway_and_server() -> (MockPushGateway, TestServer) {
    let gateway = MockPushGateway::new();
    let server = server_for(&gateway);
    (gateway, server)
}

fn server_for(gateway: &MockPushGateway) -> TestServer {
    TestServer::with(&format!("registration = \"open\"\n{}", gateway.setting()))
}

/// Alice, Bob and Carol, in a room of Alice's.
fn three_in_a_room(server: &TestServer) -> ([TestUser<'_>; 3], String) {
    let users = ["alice", "bob", "carol"].map(|name| server.register(name));
    let room = create_room_with(&users.each_ref());
    (users, room)
}

/// The bodies of the messages among `notifications`; null for those without one.
fn bodies(notifications: &[Value]) -> Vec<&Value> {
    let bodies = notifications
        .iter()
        .map(|notification| &notification["content"]["body"]);
    bodies.collect()
}

fn read(user: &TestUser<'_>, room: &str, event: &str) {
    expect_ok(send_receipt(user, room, ("m.read", event), json!({})));
}

#[test]
fn a_message_is_pushed_with_all_fields() {
    let (gateway, server) = gateway_and_server();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    set_state(
        &alice,
        &room,
        ("m.room.name", ""),
        json!({ "name": "Kitchen" }),
    );
    let name = format!("/_matrix/client/v3/profile/{}/displayname", alice.user_id);
    expect_ok(alice.put(&name, json!({ "displayname": "Alice" })));
    let data = json!({ "url": gateway.url(), "custom": { "a": 1 } });
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({ "data": data })));
    server.wait_until(async || {
        let path = room_path(&room, &format!("state/m.room.member/{}", alice.user_id));
        let (_, member) = server
            .send(http::Method::GET, &path, Some(&alice.token), &Value::Null)
            .await;
        member["displayname"] == "Alice"
    });
    let event = send_text(&alice, &room, "dinner");
    let mut received = gateway.wait_for(&server, 1);
    let set = &mut received[0]["devices"][0]["pushkey_ts"];
    assert_eq!(set.take(), json!(1_790_000_000));
    assert_eq!(
        received[0],
        json!({
            "event_id": event,
            "room_id": room,
            "type": "m.room.message",
            "sender": alice.user_id,
            "sender_display_name": "Alice",
            "room_name": "Kitchen",
            "content": { "msgtype": "m.text", "body": "dinner" },
            "counts": { "unread": 1 },
            "devices": [{
                "app_id": "org.example.app",
                "pushkey": "key",
                "pushkey_ts": null,
                "data": { "custom": { "a": 1 } },
                // A room of two.
                "tweaks": { "sound": "default" },
            }],
        })
    );
}

#[test]
fn the_short_format_has_only_ids_the_badge_and_the_priority() {
    let (gateway, server) = gateway_and_server();
    let ([alice, bob, _], room) = three_in_a_room(&server);
    let data = json!({ "url": gateway.url(), "format": "event_id_only" });
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({ "data": data })));
    let event = send_text(&alice, &room, "dinner");
    let encrypted = send_event(
        &alice,
        &room,
        "m.room.encrypted",
        json!({ "ciphertext": "x" }),
    );
    let mut received = gateway.wait_for(&server, 2);
    for notification in &mut received {
        notification["devices"][0]["pushkey_ts"].take();
    }
    let expected = |event: &str| {
        json!({
            "event_id": event,
            "room_id": room,
            "counts": { "unread": 1 },
            "devices": [{
                "app_id": "org.example.app",
                "pushkey": "key",
                "pushkey_ts": null,
                "data": { "format": "event_id_only" },
            }],
        })
    };
    let mut plain = expected(&event);
    plain["prio"] = json!("low");
    assert_eq!(received, [plain, expected(&encrypted)]);
}

#[test]
fn tweaks_and_priority_follow_from_the_push_rule() {
    let (gateway, server) = gateway_and_server();
    let ([alice, bob, _], room) = three_in_a_room(&server);
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
    let rule = "/_matrix/client/v3/pushrules/global/content/cake";
    let actions = json!(["notify", { "set_tweak": "light", "value": "red" }]);
    expect_ok(bob.put(rule, json!({ "pattern": "cake", "actions": actions })));
    send_text(&alice, &room, "tea");
    let mentions = json!({ "user_ids": [bob.user_id] });
    let mention = json!({ "msgtype": "m.text", "body": "bob!", "m.mentions": mentions });
    send_event(&alice, &room, "m.room.message", mention);
    send_text(&alice, &room, "cake");
    let notice = json!({ "msgtype": "m.notice", "body": "nobody is notified" });
    send_event(&alice, &room, "m.room.message", notice);
    send_event(
        &alice,
        &room,
        "m.room.encrypted",
        json!({ "ciphertext": "x" }),
    );
    let received = gateway.wait_for(&server, 4);
    let shown: Vec<_> = received
        .iter()
        .map(|notification| {
            let tweaks = notification["devices"][0]["tweaks"].clone();
            (notification["prio"].clone(), tweaks)
        })
        .collect();
    let mentioned = json!({ "sound": "default", "highlight": true });
    assert_eq!(
        shown,
        [
            (json!("low"), Value::Null),
            (Value::Null, mentioned),
            (json!("low"), json!({ "light": "red" })),
            (Value::Null, Value::Null),
        ]
    );
}

#[test]
fn an_invite_is_pushed_to_the_invited_user() {
    let (gateway, server) = gateway_and_server();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
    let room = create_room(&alice, json!({ "name": "Kitchen" }));
    expect_ok(change_membership(
        &alice,
        &room,
        "invite",
        json!({ "user_id": bob.user_id }),
    ));
    let received = gateway.wait_for(&server, 1);
    let invite = &received[0];
    for (field, value) in [
        ("type", json!("m.room.member")),
        ("user_is_target", json!(true)),
        ("membership", json!("invite")),
        ("room_name", json!("Kitchen")),
        ("counts", json!({ "unread": 1 })),
        ("prio", Value::Null),
    ] {
        assert_eq!(invite[field], value, "{field}");
    }
    assert_eq!(
        invite["devices"][0]["tweaks"],
        json!({ "sound": "default" })
    );
}

#[test]
fn an_invite_that_the_user_ignores_is_neither_pushed_nor_counted() {
    let (gateway, server) = gateway_and_server();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| server.register(name));
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/org.matrix.msc4155.invite_permission_config",
        bob.user_id
    );
    expect_ok(bob.put(&path, json!({ "ignored_users": [alice.user_id] })));
    for inviter in [&alice, &carol] {
        let room = create_room(inviter, json!({}));
        let invite = json!({ "user_id": bob.user_id });
        expect_ok(change_membership(inviter, &room, "invite", invite));
    }
    let received = gateway.wait_for(&server, 1);
    assert_eq!(received[0]["sender"], carol.user_id.as_str());
    assert_eq!(received[0]["counts"]["unread"], 1);
}

#[test]
fn an_invite_that_the_push_rules_mute_is_neither_pushed_nor_counted() {
    let (gateway, server) = gateway_and_server();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
    let rule = "/_matrix/client/v3/pushrules/global/override/.m.rule.invite_for_me/enabled";
    expect_ok(bob.put(rule, json!({ "enabled": false })));
    let invited = create_room(&alice, json!({}));
    let invite = json!({ "user_id": bob.user_id });
    expect_ok(change_membership(&alice, &invited, "invite", invite));
    send_text(&alice, &room, "hello");
    let received = gateway.wait_for(&server, 1);
    assert_eq!(bodies(&received), ["hello"]);
    assert_eq!(received[0]["counts"]["unread"], 1);
    expect_ok(bob.put(rule, json!({ "enabled": true })));
    send_text(&alice, &room, "again");
    let received = gateway.wait_for(&server, 2);
    assert_eq!(received[1]["counts"]["unread"], 2, "by the rules of now");
}

#[test]
fn a_room_without_a_name_is_pushed_with_the_names_of_its_members() {
    let gateway = MockPushGateway::new();
    let [here, there] = TestServer::federating_with(|_| [gateway.setting(), String::new()]);
    let (bob, alice) = (here.register("bob"), there.register("alice"));
    let carol = here.register("carol");
    for (user, name) in [(&alice, "Alice"), (&carol, "Carol")] {
        let path = format!("/_matrix/client/v3/profile/{}/displayname", user.user_id);
        expect_ok(user.put(&path, json!({ "displayname": name })));
    }
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
    let room = create_room(&alice, json!({}));
    let invite = json!({ "user_id": bob.user_id });
    expect_ok(change_membership(&alice, &room, "invite", invite));
    let received = gateway.wait_for(&here, 1);
    assert_eq!(received[0]["room_name"], "Alice", "the invite");
    let room = create_room_with(&[&carol, &bob]);
    send_text(&carol, &room, "hello");
    let received = gateway.wait_for(&here, 2);
    assert_eq!(received[1]["room_name"], "Carol");
}

#[test]
fn an_invite_of_another_server_is_pushed_with_the_name_of_the_room() {
    let gateway = MockPushGateway::new();
    let [here, there] = TestServer::federating_with(|_| [gateway.setting(), String::new()]);
    let (bob, alice) = (here.register("bob"), there.register("alice"));
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
    let room = create_room(&alice, json!({ "name": "Kitchen" }));
    let invite = json!({ "user_id": bob.user_id });
    expect_ok(change_membership(&alice, &room, "invite", invite));
    let received = gateway.wait_for(&here, 1);
    for (field, value) in [
        ("room_id", json!(room)),
        ("room_name", json!("Kitchen")),
        ("sender", json!(alice.user_id)),
        ("user_is_target", json!(true)),
        ("counts", json!({ "unread": 1 })),
    ] {
        assert_eq!(received[0][field], value, "{field}");
    }
    let tweaks = &received[0]["devices"][0]["tweaks"];
    assert_eq!(*tweaks, json!({ "sound": "default" }));
}

#[test]
fn the_badge_counts_rooms_and_is_sent_alone_when_it_falls() {
    let (gateway, server) = gateway_and_server();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let rooms = [(); 2].map(|()| create_room_with(&[&alice, &bob]));
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
    let mut count = 0;
    let mut next_badge = || {
        count += 1;
        let received = gateway.wait_for(&server, count);
        let last = &received[count - 1];
        (
            last["event_id"].is_string(),
            last["counts"]["unread"].clone(),
        )
    };
    send_text(&alice, &rooms[0], "one");
    assert_eq!(next_badge(), (true, json!(1)));
    let second = send_text(&alice, &rooms[0], "two");
    assert_eq!(next_badge(), (true, json!(1)));
    let third = send_text(&alice, &rooms[1], "three");
    assert_eq!(next_badge(), (true, json!(2)));
    read(&bob, &rooms[0], &second);
    assert_eq!(next_badge(), (false, json!(1)));
    read(&bob, &rooms[1], &third);
    assert_eq!(next_badge(), (false, json!(0)));
    let fourth = send_text(&alice, &rooms[0], "taken back");
    assert_eq!(next_badge(), (true, json!(1)));
    redact(&alice, &rooms[0], &fourth);
    assert_eq!(next_badge(), (false, json!(0)));
    // Nothing falls any more.
    send_text(&bob, &rooms[1], "answer");
    send_text(&alice, &rooms[1], "four");
    assert_eq!(next_badge(), (true, json!(1)));
    leave(&bob, &rooms[1]);
    assert_eq!(next_badge(), (false, json!(0)), "who leaves has read");
    send_text(&alice, &rooms[0], "five");
    assert_eq!(next_badge(), (true, json!(1)));
}

#[test]
fn a_pusher_that_disables_the_badge_gets_none() {
    let (gateway, server) = gateway_and_server();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let data = json!({ "url": gateway.url(), "org.matrix.msc4076.disable_badge_count": true });
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({ "data": data })));
    let event = send_text(&alice, &room, "one");
    gateway.wait_for(&server, 1);
    read(&bob, &room, &event);
    send_text(&alice, &room, "two");
    let received = gateway.wait_for(&server, 2);
    assert_eq!(bodies(&received), ["one", "two"]);
    assert!(
        received
            .iter()
            .all(|notification| notification["counts"].is_null())
    );
}

#[test]
fn own_events_and_those_of_ignored_users_are_not_pushed() {
    let (gateway, server) = gateway_and_server();
    let ([alice, bob, carol], room) = three_in_a_room(&server);
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
    let path = format!(
        "/_matrix/client/v3/user/{}/account_data/m.ignored_user_list",
        bob.user_id
    );
    expect_ok(bob.put(
        &path,
        json!({ "ignored_users": { (carol.user_id.clone()): {} } }),
    ));
    send_text(&carol, &room, "ignored");
    let invited = create_room(&carol, json!({}));
    let invite = json!({ "user_id": bob.user_id });
    expect_ok(change_membership(&carol, &invited, "invite", invite));
    send_text(&bob, &room, "own");
    send_text(&alice, &room, "hello");
    let received = gateway.wait_for(&server, 1);
    assert_eq!(bodies(&received), ["hello"]);
    assert_eq!(received[0]["counts"]["unread"], 1);
}

#[test]
fn what_was_read_redacted_or_left_meanwhile_is_not_pushed() {
    let (gateway, mut server) = gateway_and_server();
    let tokens = ["alice", "bob"].map(|name| server.register(name).token);
    let rooms = {
        let [alice, bob] = tokens.each_ref().map(|token| server.user_with_token(token));
        let rooms = [(); 3].map(|()| create_room_with(&[&alice, &bob]));
        gateway.set(Behaviour::Fail(502));
        set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
        let first = send_text(&alice, &rooms[0], "read");
        gateway.wait_for_at_least(&server, 1);
        let root = send_text(&alice, &rooms[1], "root");
        read(&bob, &rooms[1], &root);
        let in_thread = send_in_thread(&alice, &rooms[1], &root, "read in a thread");
        let thread = json!({ "thread_id": root });
        expect_ok(send_receipt(
            &bob,
            &rooms[1],
            ("m.read", &in_thread),
            thread,
        ));
        let redacted = send_text(&alice, &rooms[1], "redacted");
        expect_ok(alice.put(
            &room_path(&rooms[1], &format!("redact/{redacted}/1")),
            json!({}),
        ));
        send_text(&alice, &rooms[1], "unread");
        send_text(&alice, &rooms[2], "left");
        leave(&bob, &rooms[2]);
        read(&bob, &rooms[0], &first);
        rooms
    };
    server.stop();
    let failed = gateway.received().len();
    gateway.set(Behaviour::Accept(Vec::new()));
    server.clock.advance(HOUR);
    server.start();
    let received = gateway.wait_for(&server, failed + 1);
    assert_eq!(bodies(&received[failed..]), ["unread"]);
    let alice = server.user_with_token(&tokens[0]);
    send_text(&alice, &rooms[0], "last");
    let received = gateway.wait_for(&server, failed + 2);
    assert_eq!(bodies(&received[failed..]), ["unread", "last"]);
}

#[test]
fn what_a_failing_gateway_did_not_take_is_pushed_in_order_when_it_is_back() {
    let (gateway, mut server) = gateway_and_server();
    let tokens = ["alice", "bob"].map(|name| server.register(name).token);
    let room = {
        let [alice, bob] = tokens.each_ref().map(|token| server.user_with_token(token));
        set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
        create_room_with(&[&alice, &bob])
    };
    for behaviour in [
        Behaviour::Fail(500),
        Behaviour::Fail(429),
        Behaviour::Answer("not JSON"),
        Behaviour::Redirect(gateway.url()),
    ] {
        let before = gateway.received().len();
        gateway.set(behaviour);
        let alice = server.user_with_token(&tokens[0]);
        for body in ["one", "two"] {
            send_text(&alice, &room, body);
        }
        gateway.wait_for_at_least(&server, before + 1);
        server.stop();
        server.clock.advance(HOUR);
        let tried = gateway.received().len();
        server.start();
        gateway.wait_for_at_least(&server, tried + 1);
        server.stop();
        server.clock.advance(HOUR);
        let failed = gateway.received().len();
        gateway.set(Behaviour::Accept(Vec::new()));
        server.start();
        let received = gateway.wait_for(&server, failed + 2);
        assert!(
            bodies(&received[before..failed])
                .iter()
                .all(|body| **body == "one")
        );
        assert_eq!(bodies(&received[failed..]), ["one", "two"]);
    }
}

#[test]
fn a_rejected_pushkey_is_removed_and_no_other() {
    let (gateway, server) = gateway_and_server();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    for pushkey in ["good", "expired"] {
        set_pusher(&bob, pusher(&gateway.url(), pushkey, json!({})));
    }
    set_pusher(&alice, pusher(&gateway.url(), "alices", json!({})));
    let rejected = ["expired", "alices", "unknown"].map(str::to_owned).to_vec();
    gateway.set(Behaviour::Accept(rejected));
    send_text(&alice, &room, "one");
    gateway.wait_for(&server, 2);
    server.wait_until(async || {
        let path = "/_matrix/client/v3/pushers";
        let request = server.send(http::Method::GET, path, Some(&bob.token), &Value::Null);
        request.await.1["pushers"].as_array().map(Vec::len) == Some(1)
    });
    assert_eq!(pushkeys(&bob), ["good"]);
    assert_eq!(pushkeys(&alice), ["alices"], "it was not in a request");
    send_text(&alice, &room, "two");
    let received = gateway.wait_for(&server, 3);
    assert_eq!(received[2]["devices"][0]["pushkey"], "good");
}

#[test]
fn a_stalling_gateway_delays_no_other() {
    let (stalling, gateway) = (MockPushGateway::new(), MockPushGateway::new());
    let ports = [&stalling, &gateway].map(|gateway| format!("\"127.0.0.1:{}\"", gateway.port));
    let server = TestServer::with(&format!(
        "registration = \"open\"\npush_gateways = [{}]",
        ports.join(",")
    ));
    stalling.set(Behaviour::Stall);
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    for number in 0..40 {
        set_pusher(
            &bob,
            pusher(&stalling.url(), &format!("stalling {number}"), json!({})),
        );
    }
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
    send_text(&alice, &room, "one");
    gateway.wait_for(&server, 1);
    send_text(&alice, &room, "two");
    gateway.wait_for(&server, 2);
    assert!(
        stalling.received().len() <= 2,
        "the share of a gateway that never answered"
    );
}

#[test]
fn a_notification_that_the_gateway_refuses_is_dropped_and_the_next_ones_are_pushed() {
    let (gateway, server) = gateway_and_server();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
    gateway.set(Behaviour::FailFor(400, "poison"));
    send_text(&alice, &room, "poison");
    send_text(&alice, &room, "two");
    let received = gateway.wait_for(&server, 4);
    assert_eq!(bodies(&received), ["poison", "poison", "poison", "two"]);
}

#[test]
fn the_newest_hundred_notifications_are_kept_for_a_gateway_that_is_away() {
    let (gateway, mut server) = gateway_and_server();
    let tokens = ["alice", "bob"].map(|name| server.register(name).token);
    {
        let [alice, bob] = tokens.each_ref().map(|token| server.user_with_token(token));
        let rooms = [(); 2].map(|()| create_room_with(&[&alice, &bob]));
        gateway.set(Behaviour::Fail(500));
        set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
        for number in 0..130 {
            send_text(&alice, &rooms[number % 2], &number.to_string());
        }
    }
    server.stop();
    let failed = gateway.received().len();
    gateway.set(Behaviour::Accept(Vec::new()));
    server.clock.advance(HOUR);
    server.start();
    let received = gateway.wait_for(&server, failed + 100);
    let expected: Vec<_> = (30..130).map(|number: usize| number.to_string()).collect();
    assert_eq!(
        bodies(&received[failed..]),
        expected.iter().collect::<Vec<_>>()
    );
}

#[test]
fn what_a_gateway_has_not_taken_for_a_day_is_dropped() {
    let (gateway, mut server) = gateway_and_server();
    let tokens = ["alice", "bob"].map(|name| server.register(name).token);
    let room = {
        let [alice, bob] = tokens.each_ref().map(|token| server.user_with_token(token));
        let room = create_room_with(&[&alice, &bob]);
        gateway.set(Behaviour::Fail(500));
        set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
        send_text(&alice, &room, "old");
        room
    };
    // After the second attempt, the failure of the first is known.
    gateway.wait_for_at_least(&server, 2);
    server.stop();
    server.clock.advance(25 * HOUR);
    let failed = gateway.received().len();
    server.start();
    gateway.wait_for_at_least(&server, failed + 1);
    gateway.set(Behaviour::Accept(Vec::new()));
    let [alice, bob] = tokens.each_ref().map(|token| server.user_with_token(token));
    send_text(&alice, &room, "new");
    // That ends the backoff.
    set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
    let received = gateway.wait_for(&server, failed + 2);
    assert_eq!(bodies(&received[failed..]), ["old", "new"]);
}

#[test]
fn nothing_is_pushed_twice_after_a_restart_and_nothing_from_before_the_pusher() {
    let (gateway, mut server) = gateway_and_server();
    let tokens = ["alice", "bob"].map(|name| server.register(name).token);
    let room = {
        let [alice, bob] = tokens.each_ref().map(|token| server.user_with_token(token));
        let room = create_room_with(&[&alice, &bob]);
        send_text(&alice, &room, "before");
        set_pusher(&bob, pusher(&gateway.url(), "key", json!({})));
        send_text(&alice, &room, "one");
        room
    };
    gateway.wait_for(&server, 1);
    for (count, body) in [(2, "two"), (3, "three")] {
        server.restart();
        let alice = server.user_with_token(&tokens[0]);
        send_text(&alice, &room, body);
        gateway.wait_for(&server, count);
    }
    assert_eq!(bodies(&gateway.received()), ["one", "two", "three"]);
}

#[test]
fn a_deactivated_user_gets_no_push() {
    let (gateway, server) = gateway_and_server();
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let room = create_room_with(&[&alice, &bob]);
    let carol = server.register("carol");
    join(&carol, &room);
    for user in [&bob, &carol] {
        set_pusher(user, pusher(&gateway.url(), &user.user_id, json!({})));
    }
    let path = "/_matrix/client/v3/account/deactivate";
    expect_ok(bob.request_with_password(http::Method::POST, path, json!({})));
    send_text(&alice, &room, "hello");
    let received = gateway.wait_for(&server, 1);
    assert_eq!(received[0]["devices"][0]["pushkey"], carol.user_id.as_str());
}

#[test]
fn a_locked_or_suspended_user_gets_no_push_and_later_none_of_what_came_meanwhile() {
    let (gateway, server) = gateway_and_server();
    // The first user is an administrator.
    let ([alice, bob, carol], room) = three_in_a_room(&server);
    for user in [&bob, &carol] {
        set_pusher(user, pusher(&gateway.url(), &user.user_id, json!({})));
    }
    let mut count = 0;
    for (action, field) in [("lock", "locked"), ("suspend", "suspended")] {
        let path = format!("/_matrix/client/v1/admin/{action}/{}", bob.user_id);
        expect_ok(alice.put(&path, json!({ field: true })));
        send_text(&alice, &room, "meanwhile");
        count += 1;
        gateway.wait_for(&server, count);
        expect_ok(alice.put(&path, json!({ field: false })));
        send_text(&alice, &room, "later");
        count += 2;
        gateway.wait_for(&server, count);
    }
    let received = gateway.received();
    let of_bob = received
        .into_iter()
        .filter(|notification| notification["devices"][0]["pushkey"] == bob.user_id.as_str());
    assert_eq!(bodies(&of_bob.collect::<Vec<_>>()), ["later", "later"]);
}

#[test]
fn a_gateway_that_is_not_listed_gets_nothing_at_a_private_address() {
    let (gateway, listed) = (MockPushGateway::new(), MockPushGateway::new());
    let server = server_for(&listed);
    let (alice, bob) = (server.register("alice"), server.register("bob"));
    let path = "/_matrix/client/v3/pushers/set";
    let refused = alice.post(path, pusher(&gateway.url(), "key", json!({})));
    expect_error(&refused, 400, "M_INVALID_PARAM");
    // Only a lookup shows that this address is private.
    let url = format!("https://localhost:{}/_matrix/push/v1/notify", gateway.port);
    let room = create_room_with(&[&alice, &bob]);
    set_pusher(&bob, pusher(&url, "private", json!({})));
    set_pusher(&bob, pusher(&listed.url(), "listed", json!({})));
    send_text(&alice, &room, "hello");
    listed.wait_for(&server, 1);
    assert_eq!(gateway.connections(), 0);
}
