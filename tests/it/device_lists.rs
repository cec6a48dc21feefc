//! Of whose devices a client is told that it has to look at them again.

use serde_json::{Value, json};

use crate::{
    home::{Home, Person, refused},
    rooms::{done, escaped, join, leave, make_room, next, room_of, sync, sync_with},
};

const CLIENT: &str = "/_matrix/client/v3";

/// What a sync tells of device lists: who changed, who left.
fn told(answer: &Value) -> [Vec<&str>; 2] {
    ["changed", "left"].map(|name| {
        let users = answer["device_lists"][name].as_array();
        let users = users.map(Vec::as_slice).unwrap_or_default();
        users.iter().filter_map(Value::as_str).collect()
    })
}

fn changed(users: &[&Person<'_>]) -> [Vec<String>; 2] {
    [
        users.iter().map(|user| user.user_id.clone()).collect(),
        Vec::new(),
    ]
}

fn left(users: &[&Person<'_>]) -> [Vec<String>; 2] {
    let [users, nobody] = changed(users);
    [nobody, users]
}

fn rename(who: &Person<'_>, name: &str) {
    let path = format!("{CLIENT}/devices/{}", who.device_id);
    done(who.put(&path, json!({ "display_name": name })));
}

fn encrypt(who: &Person<'_>, room: &str) {
    let path = format!("{CLIENT}/rooms/{room}/state/m.room.encryption");
    done(who.put(&path, json!({ "algorithm": "m.megolm.v1.aes-sha2" })));
}

/// Kicks, bans, unbans or invites.
fn act(who: &Person<'_>, room: &str, action: &str, target: &Person<'_>) {
    let path = format!("{CLIENT}/rooms/{room}/{action}");
    done(who.post(&path, json!({ "user_id": target.user_id })));
}

/// What happened between two answers, as it is told at any time.
fn changes(who: &Person<'_>, from: &Value, to: &Value) -> [Vec<String>; 2] {
    let [from, to] = [from, to].map(|answer| escaped(next(answer)));
    let path = format!("{CLIENT}/keys/changes?from={from}&to={to}");
    let answer = done(who.get(&path));
    ["changed", "left"].map(|name| {
        let users = answer[name].as_array().expect("a list").iter();
        let users = users.map(|user| user.as_str().expect("a user id").to_owned());
        users.collect()
    })
}

#[test]
fn a_device_that_comes_changes_or_goes_is_told_to_those_in_a_room_with_it_also_after_a_restart() {
    let mut home = Home::new();
    let start = {
        let (alice, bob) = (home.register("alice"), home.register("bob"));
        let carol = home.register("carol");
        room_of(&[&alice, &bob]);
        let start = sync(&alice, None);
        assert_eq!(told(&start), [vec![""; 0], vec![]]);
        let new = home.log_in("bob");
        home.log_in("carol");
        let came = sync(&alice, Some(next(&start)));
        assert_eq!(told(&came), changed(&[&bob]));
        rename(&new, "laptop");
        rename(&carol, "hidden");
        let renamed = sync(&alice, Some(next(&came)));
        assert_eq!(told(&renamed), changed(&[&bob]));
        let same = sync(&alice, Some(next(&renamed)));
        assert_eq!(told(&same), changed(&[]));
        done(new.post(&format!("{CLIENT}/logout"), json!({})));
        (alice.token.clone(), next(&same).to_owned())
    };
    home.restart();
    let alice = home.with_token(&start.0);
    let gone = sync(&alice, Some(&start.1));
    assert_eq!(told(&gone), [vec![format!("@bob:{}", home.name())], vec![]]);
}

#[test]
fn a_sync_that_waits_is_woken_by_a_new_device() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    room_of(&[&alice, &bob]);
    let start = sync(&alice, None);
    let path = format!(
        "{CLIENT}/sync?since={}&timeout=60000",
        escaped(next(&start))
    );
    let device = format!("{CLIENT}/devices/{}", bob.device_id);
    let name = json!({ "display_name": "laptop" });
    let (waits, renames) = home.run(smol::future::zip(
        home.send(http::Method::GET, &path, Some(&alice.token), &Value::Null),
        async {
            smol::Timer::after(std::time::Duration::from_millis(50)).await;
            home.send(http::Method::PUT, &device, Some(&bob.token), &name)
                .await
        },
    ));
    done(renames);
    assert_eq!(told(&done(waits)), changed(&[&bob]));
}

#[test]
fn ones_own_devices_are_told_without_any_room() {
    let home = Home::new();
    let alice = home.register("alice");
    let start = sync(&alice, None);
    home.log_in("alice");
    let came = sync(&alice, Some(next(&start)));
    assert_eq!(told(&came), changed(&[&alice]));
}

#[test]
fn who_comes_in_is_told_as_changed_and_who_shares_no_room_any_more_as_left() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let rooms = [room_of(&[&alice]), room_of(&[&alice])];
    let start = sync(&alice, None);
    rooms.iter().for_each(|room| join(&bob, room));
    let came = sync(&alice, Some(next(&start)));
    assert_eq!(told(&came), changed(&[&bob]));
    leave(&bob, &rooms[0]);
    let still = sync(&alice, Some(next(&came)));
    assert_eq!(told(&still), changed(&[]));
    leave(&bob, &rooms[1]);
    // A filter that hides the room does not hide who left it.
    let filter = json!({ "room": { "rooms": [] } }).to_string();
    let gone = sync_with(&alice, &[("since", next(&still)), ("filter", &filter)]);
    assert_eq!(told(&gone), left(&[&bob]));
    rename(&bob, "not her business");
    let silent = sync(&alice, Some(next(&gone)));
    assert_eq!(told(&silent), changed(&[]));
}

#[test]
fn who_follows_into_a_new_room_is_told_to_the_one_who_made_it() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let start = sync(&alice, None);
    room_of(&[&alice, &bob]);
    let made = sync(&alice, Some(next(&start)));
    assert_eq!(told(&made), changed(&[&bob]));
}

#[test]
fn who_enters_or_leaves_an_encrypted_room_is_told_of_everybody_there() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let carol = home.register("carol");
    let room = room_of(&[&alice, &bob]);
    let other = room_of(&[&alice, &carol]);
    encrypt(&alice, &room);
    let start = sync(&carol, None);
    join(&carol, &room);
    let entered = sync(&carol, Some(next(&start)));
    assert_eq!(told(&entered), changed(&[&alice, &bob]));
    leave(&carol, &room);
    let went = sync(&carol, Some(next(&entered)));
    assert_eq!(told(&went), left(&[&bob]), "alice is still in {other}");
}

#[test]
fn who_enters_or_leaves_a_room_without_encryption_is_told_of_everybody_there_too() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let carol = home.register("carol");
    let room = room_of(&[&alice, &bob]);
    let start = sync(&carol, None);
    join(&carol, &room);
    let entered = sync(&carol, Some(next(&start)));
    assert_eq!(told(&entered), changed(&[&alice, &bob]));
    leave(&carol, &room);
    let went = sync(&carol, Some(next(&entered)));
    assert_eq!(told(&went), left(&[&alice, &bob]));
}

#[test]
fn a_room_that_becomes_encrypted_makes_everybody_there_matter() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = make_room(&alice, json!({ "preset": "public_chat" }));
    join(&bob, &room);
    let start = sync(&bob, None);
    encrypt(&alice, &room);
    let encrypted = sync(&bob, Some(next(&start)));
    assert_eq!(told(&encrypted), changed(&[&alice]));
}

#[test]
fn changes_between_two_syncs_can_be_asked_for() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let first = sync(&alice, None);
    rename(&bob, "laptop");
    let second = sync(&alice, None);
    leave(&bob, &room);
    let third = sync(&alice, None);
    assert_eq!(changes(&alice, &first, &third), left(&[&bob]));
    join(&bob, &room);
    assert_eq!(changes(&alice, &first, &second), changed(&[&bob]));
    assert_eq!(changes(&alice, &third, &second), changed(&[]));
    let path = format!("{CLIENT}/keys/changes?from=nonsense&to={}", next(&third));
    refused(&alice.get(&path), 400, "M_INVALID_PARAM");
}

#[test]
fn who_leaves_is_told_as_left_with_the_last_room_of_any_kind_whoever_leaves_it() {
    let home = Home::new();
    for (n, encrypted_first) in [true, false].into_iter().enumerate() {
        for (m, own) in [true, false].into_iter().enumerate() {
            let alice = home.register(&format!("alice{n}{m}"));
            let bob = home.register(&format!("bob{n}{m}"));
            let mut rooms = [room_of(&[&alice, &bob]), room_of(&[&alice, &bob])];
            encrypt(&alice, &rooms[0]);
            if !encrypted_first {
                rooms.reverse();
            }
            let who = if own { &alice } else { &bob };
            let start = sync(&alice, None);
            leave(who, &rooms[0]);
            let still = sync(&alice, Some(next(&start)));
            assert_eq!(told(&still), changed(&[]));
            leave(who, &rooms[1]);
            let gone = sync(&alice, Some(next(&still)));
            assert_eq!(told(&gone), left(&[&bob]));
            assert_eq!(changes(&alice, &start, &gone), left(&[&bob]));
        }
    }
}

#[test]
fn who_is_kicked_or_banned_leaves() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let carol = home.register("carol");
    for action in ["kick", "ban"] {
        let room = room_of(&[&carol, &alice, &bob]);
        let start = [&alice, &bob].map(|who| sync(who, None));
        act(&carol, &room, action, &bob);
        let alices = sync(&alice, Some(next(&start[0])));
        assert_eq!(told(&alices), left(&[&bob]));
        let bobs = sync(&bob, Some(next(&start[1])));
        assert_eq!(told(&bobs), left(&[&alice, &carol]));
        let ban = sync(&carol, None);
        act(&carol, &room, "ban", &bob);
        act(&carol, &room, "unban", &bob);
        let unbanned = sync(&carol, Some(next(&ban)));
        assert_eq!(told(&unbanned), changed(&[]), "bob had left before");
        leave(&alice, &room);
    }
}

#[test]
fn who_is_invited_and_does_not_come_shares_nothing() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice]);
    encrypt(&alice, &room);
    let start = [&alice, &bob].map(|who| sync(who, None));
    act(&alice, &room, "invite", &bob);
    let invited = sync(&alice, Some(next(&start[0])));
    assert_eq!(told(&invited), changed(&[]));
    leave(&bob, &room);
    act(&alice, &room, "invite", &bob);
    act(&alice, &room, "kick", &bob);
    for (who, start) in [&alice, &bob].into_iter().zip(&start) {
        let declined = sync(who, Some(next(start)));
        assert_eq!(told(&declined), changed(&[]));
    }
    join(&bob, &room);
    let came = sync(&bob, Some(next(&start[1])));
    assert_eq!(told(&came), changed(&[&alice]));
}

#[test]
fn who_left_before_one_came_or_came_and_left_between_two_syncs_is_not_told() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let carol = home.register("carol");
    let room = room_of(&[&bob, &carol]);
    encrypt(&bob, &room);
    let start = sync(&alice, None);
    leave(&carol, &room);
    join(&alice, &room);
    let entered = sync(&alice, Some(next(&start)));
    assert_eq!(told(&entered), changed(&[&bob]));
    join(&carol, &room);
    leave(&carol, &room);
    let same = sync(&alice, Some(next(&entered)));
    assert_eq!(told(&same), changed(&[]));
}

#[test]
fn who_goes_and_comes_back_is_changed_and_not_left() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let mut last = sync(&alice, None);
    for who in [&bob, &alice] {
        leave(who, &room);
        join(who, &room);
        let back = sync(&alice, Some(next(&last)));
        assert_eq!(told(&back), changed(&[&bob]));
        last = back;
    }
}

#[test]
fn what_happens_later_does_not_change_what_a_past_span_tells() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice, &bob]);
    let first = sync(&alice, None);
    rename(&bob, "laptop");
    let second = sync(&alice, None);
    leave(&bob, &room);
    let third = sync(&alice, None);
    leave(&alice, &room);
    let fourth = sync(&alice, None);
    room_of(&[&alice, &bob]);
    assert_eq!(changes(&alice, &first, &second), changed(&[&bob]));
    assert_eq!(changes(&alice, &second, &third), left(&[&bob]));
    assert_eq!(changes(&alice, &third, &fourth), changed(&[]));
    assert_eq!(changes(&alice, &first, &fourth), left(&[&bob]));
}

#[test]
fn a_token_from_before_a_restart_tells_who_came_and_went() {
    let mut home = Home::new();
    let (token, start) = {
        let (alice, bob) = (home.register("alice"), home.register("bob"));
        let (carol, dave) = (home.register("carol"), home.register("dave"));
        let rooms = [room_of(&[&alice, &bob, &dave]), room_of(&[&carol, &dave])];
        encrypt(&carol, &rooms[1]);
        let start = sync(&alice, None);
        leave(&bob, &rooms[0]);
        join(&alice, &rooms[1]);
        leave(&alice, &rooms[0]);
        (alice.token.clone(), start)
    };
    home.restart();
    let alice = home.with_token(&token);
    let name = home.name();
    let user = |user: &str| format!("@{user}:{name}");
    let now = sync(&alice, Some(next(&start)));
    let expected = [vec![user("carol"), user("dave")], vec![user("bob")]];
    assert_eq!(told(&now), expected);
    assert_eq!(changes(&alice, &start, &now), expected);
    let erin = home.register("erin");
    let after = sync(&erin, None);
    room_of(&[&alice, &erin]);
    let met = sync(&erin, Some(next(&after)));
    assert_eq!(told(&met), changed(&[&alice]));
    let expected = [
        vec![user("carol"), user("dave"), user("erin")],
        vec![user("bob")],
    ];
    assert_eq!(told(&sync(&alice, Some(next(&start)))), expected);
}
