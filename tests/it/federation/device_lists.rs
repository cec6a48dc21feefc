//! Device lists of remote users: updates, and the cached lists.

use std::{collections::BTreeMap, time::Duration};

use hearth::{
    store::records::RemoteDeviceList,
    users::{
        self,
        remote_devices::{self, Device},
    },
};
use ruma::{DeviceId, OwnedDeviceId, UserId, api::federation::device::get_devices};
use serde_json::{Value, json};

use super::to_device::{send_edus, send_note, wait_for_notes};
use crate::{
    client_api::{create_room, join_via, leave, next_batch, send_text, sync, sync_with},
    cross_signing::{CrossSigningKeys, UPLOAD_CROSS_SIGNING_KEYS},
    e2ee_keys::{device_keys, upload_keys},
    test_server::{TestServer, TestUser, expect_ok},
};

const CLIENT: &str = "/_matrix/client/v3";

fn rename_device(user: &TestUser<'_>, name: &str) {
    let path = format!("{CLIENT}/devices/{}", user.device_id);
    expect_ok(user.put(&path, json!({ "display_name": name })));
}

/// Creates a room as `user` of `server` and joins it as the remote user `other`.
pub fn create_shared_room(
    user: &TestUser<'_>,
    server: &TestServer,
    other: &TestUser<'_>,
) -> String {
    let room = create_room(user, json!({ "preset": "public_chat" }));
    join_via(other, &room, server);
    room
}

/// Waits until a sync of `observer` lists `user` in this list of `device_lists`; returns the next token.
fn wait_for_device_list(
    observer: &TestUser<'_>,
    list: &str,
    user: &str,
    mut since: String,
) -> String {
    for _ in 0..100 {
        let response = sync_with(observer, &[("since", &since), ("timeout", "10000")]);
        since = next_batch(&response).to_owned();
        let users = response["device_lists"][list].as_array();
        if users.into_iter().flatten().any(|listed| listed == user) {
            return since;
        }
    }
    panic!(
        "{} is not in `{list}` of the syncs of {}",
        user, observer.user_id
    );
}

/// Waits until a sync reports changed devices of `user`; returns the next token.
pub fn wait_for_changed(observer: &TestUser<'_>, user: &str, since: String) -> String {
    wait_for_device_list(observer, "changed", user, since)
}

/// A device list as it is cached.
pub struct CachedList {
    list: RemoteDeviceList,
    devices: BTreeMap<OwnedDeviceId, Device>,
}

/// The device list of `user` that `server` has cached, or fetches.
pub async fn cached_or_fetched(server: &TestServer, user: &str) -> Option<CachedList> {
    let user = UserId::parse(user).expect("a user id");
    let lists = server.federation().device_lists();
    let looked_up = lists.look_up(vec![user.clone()]).await;
    let (found, missing) = looked_up.expect("the store works");
    let found = lists.fetch_missing(found, missing, Duration::from_secs(10));
    let found = found.await.expect("the store works");
    let cached = server.store().read(|s| {
        let list = remote_devices::load(s, &user)?;
        let num = users::num_of(s, &user)?;
        let devices = num.map(|num| remote_devices::devices(s, num)).transpose()?;
        Ok::<_, users::Error>(list.zip(devices))
    });
    let cached = cached.expect("the store works");
    let cached = cached.filter(|_| found.stored.contains(&user));
    cached.map(|(list, devices)| CachedList { list, devices })
}

fn device_list(server: &TestServer, user: &str) -> Option<CachedList> {
    server.run(cached_or_fetched(server, user))
}

/// The display names of the devices of `user`, by device id.
fn device_names(server: &TestServer, user: &str) -> Option<Value> {
    device_list(server, user).map(names_by_id)
}

pub fn names_by_id(list: CachedList) -> Value {
    let devices = list.devices.into_iter();
    devices
        .map(|(id, device)| (id.to_string(), device.display_name))
        .collect()
}

/// The current `stream_id` of the list of `user`, as its server returns it to `requester`.
fn stream_id(requester: &TestServer, user: &str) -> u64 {
    let user = UserId::parse(user).expect("a user id");
    let server = user.server_name().to_owned();
    let request = get_devices::v1::Request::new(user);
    let response = requester.run(requester.client().send(&server, request));
    response.expect("a response").stream_id.into()
}

/// An `m.device_list_update` of a device that the server of `user` does not have.
fn update(user: &str, device: &str, stream_id: u64, prev_id: u64) -> Value {
    update_after(user, device, stream_id, &[prev_id])
}

pub fn update_after(user: &str, device: &str, stream_id: u64, prev_id: &[u64]) -> Value {
    json!({
        "edu_type": "m.device_list_update",
        "content": {
            "user_id": user, "device_id": device, "device_display_name": device,
            "stream_id": stream_id, "prev_id": prev_id,
            "keys": {
                "user_id": user, "device_id": device, "algorithms": [],
                "keys": {}, "signatures": {},
            },
        },
    })
}

#[test]
fn remote_device_changes_are_synced_to_room_members() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    create_shared_room(&alice, &here, &bob);
    device_names(&here, &bob.user_id);
    let since = next_batch(&sync(&alice, None)).to_owned();
    rename_device(&bob, "laptop");
    let since = wait_for_changed(&alice, &bob.user_id, since);
    let new = there.log_in("bob");
    let since = wait_for_changed(&alice, &bob.user_id, since);
    expect_ok(new.post(&format!("{CLIENT}/logout"), json!({})));
    wait_for_changed(&alice, &bob.user_id, since);
}

#[test]
fn a_fetch_of_a_device_list_that_has_not_changed_is_not_reported() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_shared_room(&alice, &here, &bob);
    // The first updates of the list have arrived with it.
    send_note(&bob, &alice.user_id, 1);
    assert_eq!(wait_for_notes(&alice, 1), [1]);
    let mut since = next_batch(&sync(&alice, None)).to_owned();
    let query = json!({ "device_keys": { bob.user_id.as_str(): [] } });
    // The first fetch, the cached list, and the refresh of a list that is old.
    for days in [0, 0, 8] {
        here.clock.advance(Duration::from_hours(24 * days));
        expect_ok(alice.post(&format!("{CLIENT}/keys/query"), query.clone()));
        here.wait_until(async || {
            let list = cached_or_fetched(&here, &bob.user_id).await;
            list.is_some_and(|list| here.clock.now_ms() - list.list.fetched_ts < 1000)
        });
        send_text(&alice, &room, "the next sync has something");
        let synced = sync(&alice, Some(&since));
        assert_eq!(synced["device_lists"]["changed"], Value::Null, "{synced}");
        since = next_batch(&synced).to_owned();
    }
    rename_device(&bob, "laptop");
    wait_for_changed(&alice, &bob.user_id, since);
}

#[test]
fn device_list_updates_are_delivered_after_an_outage() {
    let [mut here, there] = TestServer::federating();
    let bob = there.register("bob");
    let (token, since) = {
        let alice = here.register("alice");
        create_shared_room(&alice, &here, &bob);
        device_names(&here, &bob.user_id);
        (
            alice.token.clone(),
            next_batch(&sync(&alice, None)).to_owned(),
        )
    };
    here.stop();
    rename_device(&bob, "laptop");
    here.start();
    there.clock.advance(Duration::from_hours(2));
    wait_for_changed(&here.user_with_token(&token), &bob.user_id, since);
}

#[test]
fn device_list_applies_updates_and_is_resynced_after_a_gap() {
    let [here, there] =
        TestServer::federating_with(|_| ["", "share_device_names = true"].map(ToOwned::to_owned));
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let user = &*bob.user_id;
    let since = next_batch(&sync(&alice, None)).to_owned();
    create_shared_room(&alice, &here, &bob);
    wait_for_changed(&alice, user, since);
    assert_eq!(
        device_names(&here, user),
        Some(json!({})),
        "no device has keys"
    );
    // The join has reported the devices as changed already, or does so before this token.
    let mut since = next_batch(&sync(&alice, None)).to_owned();
    rename_device(&bob, "laptop");
    since = wait_for_changed(&alice, user, since);
    let laptop = (bob.device_id.clone(), json!("laptop"));
    assert_eq!(
        device_names(&here, user),
        Some(Value::from_iter([laptop.clone()]))
    );

    let current = stream_id(&here, user);
    let next = update(user, "NEXT", current + 1, current);
    send_edus(&there, &here, "1", &[next.clone(), next]);
    since = wait_for_changed(&alice, user, since);
    let both = [laptop, ("NEXT".to_owned(), json!("NEXT"))];
    assert_eq!(device_names(&here, user), Some(Value::from_iter(both)));

    let behind_a_gap = update(user, "GAP", current + 3, current + 2);
    send_edus(&there, &here, "2", &[behind_a_gap]);
    wait_for_changed(&alice, user, since);
    assert_eq!(
        device_names(&here, user),
        Some(json!({})),
        "it was fetched from its server"
    );
}

#[test]
fn device_keys_are_in_the_update_and_in_the_device_list() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    create_shared_room(&alice, &here, &bob);
    assert_eq!(device_names(&here, &bob.user_id), Some(json!({})));
    let since = next_batch(&sync(&alice, None)).to_owned();
    let (_, keys) = device_keys(&bob);
    upload_keys(&bob, json!({ "device_keys": keys }));
    wait_for_changed(&alice, &bob.user_id, since);
    let user = UserId::parse(&*bob.user_id).expect("a user id");
    let cached = device_list(&here, &bob.user_id)
        .expect("a room is shared")
        .devices;
    let first_device = cached[<&DeviceId>::from(&*bob.device_id)].keys.as_ref();
    let first_device =
        serde_json::from_str::<Value>(first_device.expect("it has keys").json().get());
    assert_eq!(first_device.expect("JSON"), keys);
    let request = get_devices::v1::Request::new(user);
    let response = here.run(here.client().send(there.name(), request));
    let devices = response.expect("a response").devices;
    let first_keys = serde_json::from_str::<Value>(devices[0].keys.json().get());
    assert_eq!((devices.len(), first_keys.expect("JSON")), (1, keys));
}

#[test]
fn device_list_is_refreshed_weekly_and_dropped_without_a_shared_room() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let user = &*bob.user_id;
    assert_eq!(device_names(&here, user), None);
    let room = create_shared_room(&alice, &here, &bob);
    assert_eq!(device_names(&here, user), Some(json!({})));
    let current = stream_id(&here, user);
    send_edus(
        &there,
        &here,
        "1",
        &[update(user, "OLD", current + 1, current)],
    );
    let outdated = Some(json!({ "OLD": "OLD" }));
    assert_eq!(device_names(&here, user), outdated);
    let since = next_batch(&sync(&alice, None)).to_owned();
    here.clock.advance(Duration::from_hours(8 * 24));
    assert_eq!(
        device_names(&here, user),
        outdated,
        "the request does not wait for the refresh"
    );
    wait_for_changed(&alice, user, since);
    assert_eq!(device_names(&here, user), Some(json!({})));
    leave(&alice, &room);
    assert_eq!(device_names(&here, user), None);
}

#[test]
fn untracked_device_list_is_fetched_before_it_is_used_again() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let user = &*bob.user_id;
    let encryption = json!({
        "type": "m.room.encryption", "content": { "algorithm": "m.megolm.v1.aes-sha2" },
    });
    let encrypted = json!({ "preset": "public_chat", "initial_state": [encryption] });
    for (number, user_leaving) in [&alice, &bob].into_iter().enumerate() {
        let room = create_room(&alice, encrypted.clone());
        join_via(&bob, &room, &here);
        assert_eq!(device_names(&here, user), Some(json!({})));
        let current = stream_id(&here, user);
        let outdated = update(user, "OLD", current + 1, current);
        send_edus(&there, &here, &number.to_string(), &[outdated]);
        assert_eq!(device_names(&here, user), Some(json!({ "OLD": "OLD" })));
        let since = next_batch(&sync(&alice, None)).to_owned();
        leave(user_leaving, &room);
        wait_for_device_list(&alice, "left", user, since);
    }
    create_shared_room(&alice, &here, &bob);
    assert_eq!(device_names(&here, user), Some(json!({})));
}

#[test]
fn updates_for_users_of_other_servers_are_ignored() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    create_shared_room(&alice, &here, &bob);
    device_names(&here, &bob.user_id);
    let since = next_batch(&sync(&alice, None)).to_owned();
    let current = stream_id(&here, &bob.user_id);
    let (foreign, own) = (&*alice.user_id, &*bob.user_id);
    let mut keys_of_another = update(own, "WRONG", current + 1, current);
    keys_of_another["content"]["keys"]["user_id"] = foreign.into();
    let updates = [update(foreign, "MINE", 1, 0), keys_of_another];
    send_edus(&there, &here, "1", &updates);
    let response = sync(&alice, Some(&since));
    assert_eq!(response["device_lists"], Value::Null);
    assert_eq!(device_names(&here, &bob.user_id), Some(json!({})));
}

/// Makes an update from a user id and the current `stream_id` of the user's list.
type Update<'a> = &'a dyn Fn(&str, u64) -> Value;

/// Caches a list with the device `OLD`, which the remote server does not have, and sends `updates`;
/// returns the names in the cached list. A resync is recognized by the absence of `OLD`.
fn names_after(updates: &[Update<'_>]) -> Value {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let user = &*bob.user_id;
    create_shared_room(&alice, &here, &bob);
    assert_eq!(device_names(&here, user), Some(json!({})));
    let current = stream_id(&here, user);
    send_edus(
        &there,
        &here,
        "1",
        &[update(user, "OLD", current + 1, current)],
    );
    assert_eq!(device_names(&here, user), Some(json!({ "OLD": "OLD" })));
    for (number, update) in updates.iter().enumerate() {
        let since = next_batch(&sync(&alice, None)).to_owned();
        let id = format!("update {number}");
        send_edus(&there, &here, &id, &[update(user, current + 1)]);
        wait_for_changed(&alice, user, since);
    }
    device_names(&here, user).expect("a room is shared")
}

#[test]
fn update_without_prev_id_triggers_a_resync() {
    for id in [1, 0, u64::MAX >> 12] {
        let first = |user: &str, _| update_after(user, "NEW", id, &[]);
        assert_eq!(names_after(&[&first]), json!({}), "the update {id}");
    }
}

#[test]
fn reset_stream_id_triggers_a_resync() {
    let reset = |user: &str, _| update(user, "NEW", 2, 1);
    assert_eq!(names_after(&[&reset]), json!({}));
    let same_stream_id = |user: &str, current| update(user, "OTHER", current, current - 1);
    assert_eq!(names_after(&[&same_stream_id]), json!({}));
}

#[test]
fn update_with_several_prev_ids_needs_all_of_them() {
    let complete =
        |user: &str, current| update_after(user, "NEW", current + 1, &[current - 1, current]);
    let both = json!({ "OLD": "OLD", "NEW": "NEW" });
    assert_eq!(names_after(&[&complete]), both);
    let incomplete =
        |user: &str, current| update_after(user, "NEW", current + 3, &[current, current + 2]);
    assert_eq!(names_after(&[&incomplete]), json!({}));
}

#[test]
fn deleted_remote_device_is_removed_from_the_list() {
    let new = |user: &str, current| update(user, "NEW", current + 1, current);
    let deleted = |user: &str, current| {
        let mut deleted = update(user, "OLD", current + 2, current + 1);
        let content = deleted["content"].as_object_mut().expect("an object");
        content.remove("keys");
        content.insert("deleted".to_owned(), true.into());
        deleted
    };
    assert_eq!(names_after(&[&new, &deleted]), json!({ "NEW": "NEW" }));
}

#[test]
fn repeated_update_is_idempotent() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let user = &*bob.user_id;
    create_shared_room(&alice, &here, &bob);
    device_names(&here, user);
    let current = stream_id(&here, user);
    let [first_update, second_update] = [("ONE", 1), ("TWO", 2)]
        .map(|(device, id)| update(user, device, current + id, current + id - 1));
    send_edus(
        &there,
        &here,
        "1",
        &[first_update.clone(), second_update.clone()],
    );
    let since = next_batch(&sync(&alice, None)).to_owned();
    send_edus(&there, &here, "2", &[first_update, second_update]);
    assert_eq!(sync(&alice, Some(&since))["device_lists"], Value::Null);
    let both = json!({ "ONE": "ONE", "TWO": "TWO" });
    assert_eq!(device_names(&here, user), Some(both));
}

#[test]
fn cross_signing_key_update_is_applied_without_a_fetch() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    create_shared_room(&alice, &here, &bob);
    let before = device_list(&here, &bob.user_id).expect("a room is shared");
    assert!(before.list.master_key.is_none());
    let since = next_batch(&sync(&alice, None)).to_owned();
    here.clock.advance(Duration::from_mins(1));
    let keys = CrossSigningKeys::new();
    expect_ok(bob.post(UPLOAD_CROSS_SIGNING_KEYS, keys.upload_body(&bob.user_id)));
    wait_for_changed(&alice, &bob.user_id, since);
    let list = device_list(&here, &bob.user_id)
        .expect("a room is shared")
        .list;
    let fetched_before = before.list.fetched_ts;
    assert_eq!(list.fetched_ts, fetched_before, "nothing was fetched");
    let master = list.master_key.expect("the update has it");
    assert!(master.contains(&keys.master.public()));
    assert!(list.self_signing_key.is_some());
}

#[test]
fn stale_device_list_is_resynced_once_its_server_is_reachable_after_restart() {
    let [mut here, there] = TestServer::federating();
    let bob = there.register("bob");
    let (token, since) = {
        let alice = here.register("alice");
        let room = create_shared_room(&alice, &here, &bob);
        assert_eq!(device_names(&here, &bob.user_id), Some(json!({})));
        leave(&alice, &room);
        create_shared_room(&alice, &here, &bob);
        (
            alice.token.clone(),
            next_batch(&sync(&alice, None)).to_owned(),
        )
    };
    here.restart();
    let alice = here.user_with_token(&token);
    let is_reported = || {
        let synced = sync(&alice, Some(&since))["device_lists"]["changed"].clone();
        synced
            .as_array()
            .is_some_and(|changed| changed.contains(&json!(bob.user_id)))
    };
    // Any signed request shows that the server is reachable. Right after startup, the stale lists may
    // not have been loaded yet.
    let mut requests = (0..1000).map(|_| stream_id(&there, &alice.user_id));
    assert!(requests.any(|_| is_reported()));
}

#[test]
fn device_names_are_shared_by_a_setting_only_with_servers_that_share_a_room() {
    let [asking, private, sharing] = TestServer::federating_with(|_| {
        ["", "", "share_device_names = true"].map(ToOwned::to_owned)
    });
    let alice = asking.register("alice");
    for (server, expected) in [(&private, Value::Null), (&sharing, json!("laptop"))] {
        let bob = server.register("bob");
        rename_device(&bob, "laptop");
        upload_keys(&bob, json!({ "device_keys": device_keys(&bob).1 }));
        let returned = || {
            let user = UserId::parse(&bob.user_id).expect("a user id");
            let request = get_devices::v1::Request::new(user);
            let response = asking.run(asking.client().send(server.name(), request));
            let devices = response.expect("a response").devices;
            json!(devices[0].device_display_name)
        };
        assert_eq!(returned(), Value::Null);
        create_shared_room(&alice, &asking, &bob);
        assert_eq!(returned(), expected);
        let cached =
            || device_names(&asking, &bob.user_id).expect("a list")[&bob.device_id].clone();
        assert_eq!(cached(), expected);
        // Updates have the name no more than responses.
        let since = next_batch(&sync(&alice, None)).to_owned();
        rename_device(&bob, "phone");
        wait_for_changed(&alice, &bob.user_id, since);
        let renamed = if expected.is_null() {
            Value::Null
        } else {
            json!("phone")
        };
        assert_eq!(cached(), renamed);
    }
}
