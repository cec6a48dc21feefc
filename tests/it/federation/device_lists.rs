//! The devices of other servers' users: of whose clients are told, and what is kept of them.

use std::time::Duration;

use hearth::users::remote_devices::DeviceList;
use ruma::{DeviceId, UserId, api::federation::device::get_devices};
use serde_json::{Value, json};

use super::{outage::join_via, to_device::tell};
use crate::{
    cross_signing::{Identity, SIGNING},
    home::{Home, Person},
    keys::{device, upload_keys},
    rooms::{done, leave, make_room, next, sync, sync_with},
};

const CLIENT: &str = "/_matrix/client/v3";

fn rename(who: &Person<'_>, name: &str) {
    let path = format!("{CLIENT}/devices/{}", who.device_id);
    done(who.put(&path, json!({ "display_name": name })));
}

/// A room that `who` makes and `other`, of another server, joins.
pub fn share(who: &Person<'_>, server: &Home, other: &Person<'_>) -> String {
    let room = make_room(who, json!({ "preset": "public_chat" }));
    join_via(other, &room, server);
    room
}

/// Waits until a sync tells that the devices of `user` changed; where the next one goes on.
pub fn hears(who: &Person<'_>, user: &str, mut since: String) -> String {
    for _ in 0..100 {
        let answer = sync_with(who, &[("since", &since), ("timeout", "10000")]);
        since = next(&answer).to_owned();
        let changed = answer["device_lists"]["changed"].as_array();
        if changed.into_iter().flatten().any(|changed| changed == user) {
            return since;
        }
    }
    panic!("{} does not hear of {user}", who.user_id);
}

/// Waits until a sync tells that `who` shares no room with `user` any more.
fn loses(who: &Person<'_>, user: &str, mut since: String) {
    for _ in 0..100 {
        let answer = sync_with(who, &[("since", &since), ("timeout", "10000")]);
        since = next(&answer).to_owned();
        let left = answer["device_lists"]["left"].as_array();
        if left.into_iter().flatten().any(|left| left == user) {
            return;
        }
    }
    panic!("{} does not lose {user}", who.user_id);
}

/// What `server` keeps of the devices of `user`, fetched if need be.
pub async fn fetched(server: &Home, user: &str) -> Option<DeviceList> {
    let user = UserId::parse(user).expect("a user id");
    let lists = server.federation().device_lists();
    let looked_up = lists.look_up(vec![user.clone()]).await;
    let looked_up = looked_up.expect("the store works");
    let found = lists.fetch_lacking(looked_up, Duration::from_secs(10));
    found.await.expect("the store works").lists.remove(&user)
}

fn list(server: &Home, user: &str) -> Option<DeviceList> {
    server.run(fetched(server, user))
}

/// What `server` keeps of the devices of `user`: their names by their ids.
fn kept(server: &Home, user: &str) -> Option<Value> {
    list(server, user).map(names)
}

/// The names of devices by their ids.
pub fn names(list: DeviceList) -> Value {
    let devices = list.devices.into_iter();
    devices
        .map(|(id, device)| (id.to_string(), device.display_name))
        .collect()
}

/// What the server of `user` calls the list as it is.
fn version(asks: &Home, user: &str) -> u64 {
    let user = UserId::parse(user).expect("a user id");
    let server = user.server_name().to_owned();
    let request = get_devices::v1::Request::new(user);
    let answer = asks.run(asks.client().send(&server, request));
    answer.expect("it answers").stream_id.into()
}

/// An update of a device that there is not.
fn update(user: &str, device: &str, id: u64, before: u64) -> Value {
    update_after(user, device, id, &[before])
}

/// The same with these updates before it.
pub fn update_after(user: &str, device: &str, id: u64, before: &[u64]) -> Value {
    json!({
        "edu_type": "m.device_list_update",
        "content": {
            "user_id": user, "device_id": device, "device_display_name": device,
            "stream_id": id, "prev_id": before,
            "keys": {
                "user_id": user, "device_id": device, "algorithms": [],
                "keys": {}, "signatures": {},
            },
        },
    })
}

#[test]
fn a_device_that_changes_elsewhere_is_told_to_those_in_a_room_with_it() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    share(&alice, &here, &bob);
    kept(&here, &bob.user_id);
    let since = next(&sync(&alice, None)).to_owned();
    rename(&bob, "laptop");
    let since = hears(&alice, &bob.user_id, since);
    let new = there.log_in("bob");
    let since = hears(&alice, &bob.user_id, since);
    done(new.post(&format!("{CLIENT}/logout"), json!({})));
    hears(&alice, &bob.user_id, since);
}

#[test]
fn a_server_that_was_away_hears_which_devices_changed() {
    let [mut here, there] = Home::federating();
    let bob = there.register("bob");
    let (token, since) = {
        let alice = here.register("alice");
        share(&alice, &here, &bob);
        kept(&here, &bob.user_id);
        (alice.token.clone(), next(&sync(&alice, None)).to_owned())
    };
    here.stop();
    rename(&bob, "laptop");
    here.start();
    there.clock.advance(Duration::from_hours(2));
    hears(&here.with_token(&token), &bob.user_id, since);
}

#[test]
fn a_list_follows_the_updates_and_is_fetched_again_when_one_is_missing() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let user = &*bob.user_id;
    let since = next(&sync(&alice, None)).to_owned();
    share(&alice, &here, &bob);
    hears(&alice, user, since);
    assert_eq!(kept(&here, user), Some(json!({})), "no device has keys");
    // What was said of the devices at the join is known by now, or is no news any more.
    let mut since = next(&sync(&alice, None)).to_owned();
    rename(&bob, "laptop");
    since = hears(&alice, user, since);
    let laptop = (bob.device_id.clone(), json!("laptop"));
    assert_eq!(kept(&here, user), Some(Value::from_iter([laptop.clone()])));

    let last = version(&here, user);
    let next = update(user, "NEXT", last + 1, last);
    tell(&there, &here, "1", &[next.clone(), next]);
    since = hears(&alice, user, since);
    let both = [laptop, ("NEXT".to_owned(), json!("NEXT"))];
    assert_eq!(kept(&here, user), Some(Value::from_iter(both)));

    let behind_a_gap = update(user, "GAP", last + 3, last + 2);
    tell(&there, &here, "2", &[behind_a_gap]);
    hears(&alice, user, since);
    assert_eq!(
        kept(&here, user),
        Some(json!({})),
        "it is as its server has it"
    );
}

#[test]
fn the_keys_of_a_device_come_with_its_update_and_with_the_whole_list() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    share(&alice, &here, &bob);
    assert_eq!(kept(&here, &bob.user_id), Some(json!({})));
    let since = next(&sync(&alice, None)).to_owned();
    let (_, keys) = device(&bob);
    upload_keys(&bob, json!({ "device_keys": keys }));
    hears(&alice, &bob.user_id, since);
    let user = UserId::parse(&*bob.user_id).expect("a user id");
    let followed = list(&here, &bob.user_id).expect("a room is shared").devices;
    let of_device = followed[<&DeviceId>::from(&*bob.device_id)].keys.as_ref();
    let of_device = serde_json::from_str::<Value>(of_device.expect("it has keys").json().get());
    assert_eq!(of_device.expect("JSON"), keys);
    let request = get_devices::v1::Request::new(user);
    let whole = here.run(here.client().send(there.name(), request));
    let whole = whole.expect("it answers").devices;
    let only = serde_json::from_str::<Value>(whole[0].keys.json().get());
    assert_eq!((whole.len(), only.expect("JSON")), (1, keys));
}

#[test]
fn a_list_is_refreshed_after_a_week_and_forgotten_when_no_room_is_shared() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let user = &*bob.user_id;
    assert_eq!(kept(&here, user), None);
    let room = share(&alice, &here, &bob);
    assert_eq!(kept(&here, user), Some(json!({})));
    let last = version(&here, user);
    tell(&there, &here, "1", &[update(user, "OLD", last + 1, last)]);
    let old = Some(json!({ "OLD": "OLD" }));
    assert_eq!(kept(&here, user), old);
    let since = next(&sync(&alice, None)).to_owned();
    here.clock.advance(Duration::from_hours(8 * 24));
    assert_eq!(kept(&here, user), old, "nobody waits for the refreshing");
    hears(&alice, user, since);
    assert_eq!(kept(&here, user), Some(json!({})));
    leave(&alice, &room);
    assert_eq!(kept(&here, user), None);
}

#[test]
fn a_list_that_nobody_followed_for_a_while_is_fetched_before_it_is_used_again() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let user = &*bob.user_id;
    let encryption = json!({
        "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" },
    });
    let encrypted = json!({ "preset": "public_chat", "initial_state": [encryption] });
    for (turn, leaver) in [&alice, &bob].into_iter().enumerate() {
        let room = make_room(&alice, encrypted.clone());
        join_via(&bob, &room, &here);
        assert_eq!(kept(&here, user), Some(json!({})));
        let last = version(&here, user);
        let old = update(user, "OLD", last + 1, last);
        tell(&there, &here, &turn.to_string(), &[old]);
        assert_eq!(kept(&here, user), Some(json!({ "OLD": "OLD" })));
        let since = next(&sync(&alice, None)).to_owned();
        leave(leaver, &room);
        loses(&alice, user, since);
    }
    share(&alice, &here, &bob);
    assert_eq!(kept(&here, user), Some(json!({})));
}

#[test]
fn updates_of_others_than_the_servers_own_users_are_not_taken() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    share(&alice, &here, &bob);
    kept(&here, &bob.user_id);
    let since = next(&sync(&alice, None)).to_owned();
    let last = version(&here, &bob.user_id);
    let (foreign, wrong) = (&*alice.user_id, &*bob.user_id);
    let mut keys_of_another = update(wrong, "WRONG", last + 1, last);
    keys_of_another["content"]["keys"]["user_id"] = foreign.into();
    let edus = [update(foreign, "MINE", 1, 0), keys_of_another];
    tell(&there, &here, "1", &edus);
    let answer = sync(&alice, Some(&since));
    assert_eq!(answer["device_lists"], Value::Null);
    assert_eq!(kept(&here, &bob.user_id), Some(json!({})));
}

/// An update, made from the user's id and from what the list's version is called.
type Update<'a> = &'a dyn Fn(&str, u64) -> Value;

/// What becomes of a list with the device `OLD`, which its server does not have, after an update. Each is
/// made from the user's id and what the list's version is called.
fn after(updates: &[Update<'_>]) -> Value {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let user = &*bob.user_id;
    share(&alice, &here, &bob);
    assert_eq!(kept(&here, user), Some(json!({})));
    let last = version(&here, user);
    tell(&there, &here, "1", &[update(user, "OLD", last + 1, last)]);
    assert_eq!(kept(&here, user), Some(json!({ "OLD": "OLD" })));
    for (turn, update) in updates.iter().enumerate() {
        let since = next(&sync(&alice, None)).to_owned();
        let id = format!("turn {turn}");
        tell(&there, &here, &id, &[update(user, last + 1)]);
        hears(&alice, user, since);
    }
    kept(&here, user).expect("a room is shared")
}

#[test]
fn an_update_with_none_before_it_begins_a_new_sequence_and_the_list_is_fetched() {
    for id in [1, 0, u64::MAX >> 12] {
        let first = |user: &str, _| update_after(user, "NEW", id, &[]);
        assert_eq!(after(&[&first]), json!({}), "the update {id}");
    }
}

#[test]
fn a_server_that_counts_anew_is_followed_from_there() {
    let anew = |user: &str, _| update(user, "NEW", 2, 1);
    assert_eq!(after(&[&anew]), json!({}));
    let of_the_same_id = |user: &str, last| update(user, "OTHER", last, last - 1);
    assert_eq!(after(&[&of_the_same_id]), json!({}));
}

#[test]
fn an_update_may_come_after_several_of_which_all_are_needed() {
    let known = |user: &str, last| update_after(user, "NEW", last + 1, &[last - 1, last]);
    let both = json!({ "OLD": "OLD", "NEW": "NEW" });
    assert_eq!(after(&[&known]), both);
    let lost = |user: &str, last| update_after(user, "NEW", last + 3, &[last, last + 2]);
    assert_eq!(after(&[&lost]), json!({}));
}

#[test]
fn a_device_that_was_deleted_elsewhere_goes_from_the_list() {
    let new = |user: &str, last| update(user, "NEW", last + 1, last);
    let deleted = |user: &str, last| {
        let mut deleted = update(user, "OLD", last + 2, last + 1);
        let content = deleted["content"].as_object_mut().expect("an object");
        content.remove("keys");
        content.insert("deleted".to_owned(), true.into());
        deleted
    };
    assert_eq!(after(&[&new, &deleted]), json!({ "NEW": "NEW" }));
}

#[test]
fn an_update_that_comes_again_changes_nothing() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let user = &*bob.user_id;
    share(&alice, &here, &bob);
    kept(&here, user);
    let last = version(&here, user);
    let [one, two] =
        [("ONE", 1), ("TWO", 2)].map(|(device, id)| update(user, device, last + id, last + id - 1));
    tell(&there, &here, "1", &[one.clone(), two.clone()]);
    let since = next(&sync(&alice, None)).to_owned();
    tell(&there, &here, "2", &[one, two]);
    assert_eq!(sync(&alice, Some(&since))["device_lists"], Value::Null);
    let both = json!({ "ONE": "ONE", "TWO": "TWO" });
    assert_eq!(kept(&here, user), Some(both));
}

#[test]
fn new_cross_signing_keys_are_told_and_taken_into_the_list() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    share(&alice, &here, &bob);
    let before = list(&here, &bob.user_id).expect("a room is shared");
    assert!(before.master_key.is_none());
    let since = next(&sync(&alice, None)).to_owned();
    here.clock.advance(Duration::from_mins(1));
    let identity = Identity::new();
    done(bob.post(SIGNING, identity.keys(&bob.user_id)));
    hears(&alice, &bob.user_id, since);
    let list = list(&here, &bob.user_id).expect("a room is shared");
    assert_eq!(list.fetched_ts, before.fetched_ts, "nothing was fetched");
    let master = list
        .master_key
        .expect("it was told")
        .json()
        .get()
        .to_owned();
    assert!(master.contains(&identity.master.public()));
    assert!(list.self_signing_key.is_some());
}

#[test]
fn a_stale_list_is_fetched_when_its_server_shows_life_after_a_restart() {
    let [mut here, there] = Home::federating();
    let bob = there.register("bob");
    let (token, since) = {
        let alice = here.register("alice");
        let room = share(&alice, &here, &bob);
        assert_eq!(kept(&here, &bob.user_id), Some(json!({})));
        leave(&alice, &room);
        share(&alice, &here, &bob);
        (alice.token.clone(), next(&sync(&alice, None)).to_owned())
    };
    here.restart();
    let alice = here.with_token(&token);
    let hears = || {
        let told = sync(&alice, Some(&since))["device_lists"]["changed"].clone();
        told.as_array()
            .is_some_and(|changed| changed.contains(&json!(bob.user_id)))
    };
    // Any signed request shows that the server is there; right after the start that may be too early.
    let mut requests = (0..1000).map(|_| version(&there, &alice.user_id));
    assert!(requests.any(|_| hears()));
}
