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
    let ask = |from: &str, to: &str| {
        let path = format!(
            "{CLIENT}/keys/changes?from={}&to={}",
            escaped(from),
            escaped(to)
        );
        alice.get(&path)
    };
    let both = done(ask(next(&first), next(&third)));
    assert_eq!(both, json!({ "changed": [], "left": [bob.user_id] }));
    join(&bob, &room);
    let renamed = done(ask(next(&first), next(&second)));
    assert_eq!(renamed, json!({ "changed": [bob.user_id], "left": [] }));
    let nothing = done(ask(next(&third), next(&second)));
    assert_eq!(nothing, json!({ "changed": [], "left": [] }));
    refused(&ask("nonsense", next(&third)), 400, "M_INVALID_PARAM");
}
