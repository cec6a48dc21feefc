use std::{path::Path, sync::Arc, time::Duration};

use ruma::{RoomVersionId, events::StateEventType, profile::ProfileFieldValue};
use serde_json::{Value, json};
use smol::Timer;

use super::{
    local,
    world::{World, with_world},
};
use crate::{
    clock::Clock,
    executor::Executor,
    pool::Pool,
    rooms::{
        Actor, Error, Local,
        background::{jobs::BackgroundJobs, member_events},
        policy_server::PolicySigner,
        state::content,
        unsigned_event::UnsignedEvent,
    },
    store::{
        Effect, Options, Reader, Records, RoomNum, Rows, Store, Tx, UserNum,
        records::{Backup, Membership},
    },
    users::{key_backup, profiles},
};

fn rename(world: &World, user: &Actor, name: &str) -> Result<(), Error> {
    let name = ProfileFieldValue::DisplayName(name.to_owned());
    let change = profiles::Change::set(&name).expect("a name");
    if profiles::apply(world.tx, user.num, &change).expect("the name can be changed") {
        member_events::schedule_update(world.tx, user.num)?;
    }
    Ok(())
}

fn name_in(world: &World, user: &Actor, room: RoomNum) -> Result<Value, Error> {
    Ok(world.get(room, ("m.room.member", user.id.as_str()))?["displayname"].take())
}

#[test]
fn a_new_display_name_is_sent_to_every_joined_room_only() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let mut rooms = Vec::new();
        for _ in 0..20 {
            let room = world.public(&alice, &RoomVersionId::V12)?;
            world.join(&bob, room)?;
            rooms.push(room);
        }
        let (left, invited) = (rooms[3], world.create(&alice, &json!({}))?);
        world.leave(&bob, left)?;
        world.invite(&alice, &bob, invited)?;
        rename(world, &bob, "Robert")?;
        assert!(
            world.run_member_updates(bob.num)? > 1,
            "it takes more than one batch"
        );
        for room in rooms.iter().filter(|room| **room != left) {
            assert_eq!(name_in(world, &bob, *room)?, "Robert");
            assert_eq!(world.membership(&bob, *room)?, Membership::Join);
        }
        assert_eq!(name_in(world, &bob, left)?, Value::Null);
        assert_eq!(world.membership(&bob, invited)?, Membership::Invite);
        let length = world.length(rooms[0])?;
        rename(world, &bob, "Rob")?;
        rename(world, &bob, "Robert")?;
        world.run_member_updates(bob.num)?;
        assert_eq!(
            world.length(rooms[0])?,
            length,
            "a profile that the room has is not sent again"
        );
        Ok(())
    });
}

#[test]
fn a_room_that_forbids_the_event_does_not_stop_the_others() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let strict = world.public(&alice, &RoomVersionId::V12)?;
        let open = world.public(&alice, &RoomVersionId::V12)?;
        for room in [strict, open] {
            world.join(&bob, room)?;
        }
        world.ban(&alice, &bob, strict)?;
        // As if the ban had come during the batch.
        let row = world.tx.memberships()?.load((bob.num, strict))?;
        let mut row = row.expect("a membership");
        row.membership = Membership::Join;
        world.tx.memberships()?.put((bob.num, strict), &row)?;
        rename(world, &bob, "Robert")?;
        world.run_member_updates(bob.num)?;
        assert_eq!(world.membership(&bob, strict)?, Membership::Ban);
        assert_eq!(name_in(world, &bob, open)?, "Robert");
        Ok(())
    });
}

#[test]
fn a_deactivated_user_leaves_all_rooms_invites_and_knocks() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let mut rooms = Vec::new();
        for n in 0..20 {
            let room = world.create(&alice, &json!({}))?;
            if n == 0 {
                let rule = json!({ "join_rule": "knock" });
                world.set(&alice, room, ("m.room.join_rules", ""), &rule)?;
                world.knock(&bob, room)?;
            } else {
                world.invite(&alice, &bob, room)?;
            }
            if n > 10 {
                world.join(&bob, room)?;
            }
            rooms.push(room);
        }
        world.ban(&alice, &bob, rooms[19])?;
        let account = world.tx.accounts()?.load(bob.num)?;
        let mut account = account.expect("an account");
        account.deactivated = true;
        world.tx.accounts()?.put(bob.num, &account)?;
        member_events::schedule_update(world.tx, bob.num)?;
        assert!(world.run_member_updates(bob.num)? > 1);
        for room in &rooms[..19] {
            assert_eq!(world.membership(&bob, *room)?, Membership::Leave);
        }
        assert_eq!(world.membership(&bob, rooms[19])?, Membership::Ban);
        Ok(())
    });
}

struct NoPolicyServers;

impl PolicySigner for NoPolicyServers {
    async fn request_signature(&self, event: &UnsignedEvent) {
        panic!("{event:?} needs no signature");
    }
}

/// Runs `test` over the store in `directory`, where background jobs run if `with_jobs`.
fn run<T>(
    directory: &Path,
    local: &Local,
    with_jobs: bool,
    test: impl AsyncFnOnce(&Store) -> T,
) -> T {
    let options = Options {
        directory: directory.to_owned(),
        cache: 4 << 20,
    };
    let store = Store::open(&options, Pool::default()).expect("the store opens");
    let background_jobs = Arc::new(BackgroundJobs::default());
    let executor = Executor::default();
    smol::block_on(executor.run(async {
        let jobs = background_jobs.clone();
        let apply = move |effects: &[Effect]| effects.iter().for_each(|effect| jobs.apply(effect));
        let publishing = executor.spawn(store.clone().publish(apply));
        let (at, local) = (store.clone(), local.clone());
        let working = with_jobs.then(|| {
            executor.spawn(async move {
                background_jobs
                    .run(&at, &local, &Clock::default(), &NoPolicyServers)
                    .await
            })
        });
        let result = test(&store).await;
        store.close().await;
        publishing.await;
        drop(working);
        result
    }))
}

/// Waits until bob has the display name `name` in the room.
async fn has_name(store: &Store, room: RoomNum, name: &str) {
    loop {
        let kind = StateEventType::RoomMember;
        let content: Option<Value> = store
            .read(|s| content::current(s, room, &kind, "@bob:here"))
            .expect("the room can be read");
        if content.is_some_and(|content| content["displayname"] == name) {
            return;
        }
        Timer::after(Duration::from_millis(1)).await;
    }
}

#[test]
fn pending_jobs_run_after_a_restart_although_one_fails() {
    let directory = tempfile::tempdir().expect("a directory");
    let local = local();
    let with_local = local.clone();
    let room = run(directory.path(), &local, false, async |store| {
        let job = move |tx: &Tx| {
            let local = with_local.clone();
            let world = World { tx, local };
            let bob = world.user("bob")?;
            let room = world.public(&bob, &RoomVersionId::V12)?;
            rename(&world, &bob, "Robert")?;
            // The user does not exist, so this job, which is the first, fails.
            member_events::schedule_update(tx, UserNum(0))?;
            Ok::<_, Error>(room)
        };
        store.write(job).await.expect("a room is made")
    });
    let with_local = local.clone();
    run(directory.path(), &local, true, async |store| {
        has_name(store, room, "Robert").await;
        let job = move |tx: &Tx| {
            let local = with_local.clone();
            let world = World { tx, local };
            rename(&world, &world.user("bob")?, "Rob")
        };
        store.write(job).await.expect("bob is renamed");
        has_name(store, room, "Rob").await;
    });
}

#[test]
fn the_keys_of_a_deleted_backup_are_deleted_also_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let local = local();
    let delete = |number: u32| {
        move |tx: &Tx| {
            let user = UserNum(1);
            let backup = Backup {
                info: "{}".to_owned(),
                etag: 0,
                count: 1000,
            };
            tx.backups()?.put((user, number), &backup)?;
            for id in 0..1000 {
                let session = id.to_string();
                tx.backup_keys()?
                    .insert((user, number, "!room", &*session), "{}")?;
            }
            key_backup::delete_all(tx, user)
        }
    };
    run(directory.path(), &local, false, async |store| {
        store.write(delete(1)).await.expect("it is deleted");
        let left = store.read(|s| s.backup_keys()?.len());
        assert_eq!(left.expect("it can be read"), 1000);
    });
    run(directory.path(), &local, true, async |store| {
        let all_gone = async || {
            while !store
                .read(|s| s.backup_keys()?.is_empty())
                .expect("a table")
            {
                Timer::after(Duration::from_millis(1)).await;
            }
        };
        all_gone().await;
        store.write(delete(2)).await.expect("it is deleted");
        all_gone().await;
    });
}
