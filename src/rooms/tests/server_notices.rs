use ruma::{MilliSecondsSinceUnixEpoch, UInt, UserId, user_id};

use super::world::{World, now, with_world};
use crate::{
    rooms::{
        Actor, Error,
        background::member_events,
        membership::server_notice_room,
        room,
        server_notices::{self, ServerNotice},
        state::current,
    },
    store::{Reader, Records, Rows, records::Membership},
};

fn notices() -> &'static UserId {
    user_id!("@notices:here")
}

fn announce(world: &World, id: &str, now: MilliSecondsSinceUnixEpoch) -> Result<(), Error> {
    server_notices::announce(world.tx, id, (notices(), now), "hello")
}

/// Runs the batches that are pending; how many it took.
fn run_batches(world: &World) -> Result<usize, Error> {
    let mut batches = 1;
    while server_notices::run_batch(world.tx, &world.local, now())? {
        batches += 1;
    }
    Ok(batches)
}

fn deactivate(world: &World, user: &Actor) -> Result<(), Error> {
    let account = world.tx.accounts()?.load(user.num)?;
    let mut account = account.expect("an account");
    account.deactivated = true;
    world.tx.accounts()?.put(user.num, &account)?;
    Ok(())
}

#[test]
fn an_announcement_takes_batches_and_reaches_each_active_user_once() {
    with_world(|world| {
        let users: Result<Vec<Actor>, Error> =
            (0..20).map(|n| world.user(&format!("user{n}"))).collect();
        let users = users?;
        deactivate(world, &users[5])?;
        announce(world, "1", now())?;
        announce(world, "1", now())?;
        assert!(run_batches(world)? > 1, "no batch has all users");
        for (n, user) in users.iter().enumerate() {
            let room = server_notice_room::of_user(world.tx, user.num)?;
            assert_eq!(room.is_none(), n == 5);
            let Some(room) = room else { continue };
            assert_eq!(world.membership(user, room)?, Membership::Invite);
            let types = world.event_types(room)?;
            let messages = types.iter().filter(|(kind, _)| kind == "a message");
            assert_eq!(messages.count(), 1);
        }
        announce(world, "1", now())?;
        assert_eq!(run_batches(world)?, 1, "the id is known");
        Ok(())
    });
}

#[test]
fn the_ids_of_announcements_are_kept_for_a_day_and_limited() {
    with_world(|world| {
        world.user("alice")?;
        for n in 0..100 {
            announce(world, &n.to_string(), now())?;
        }
        let refused = announce(world, "one more", now());
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
        run_batches(world)?;
        announce(world, "one more", now()).expect_err("they are kept");
        let day = UInt::from(24 * 60 * 60 * 1000 + 1u32);
        announce(world, "one more", MilliSecondsSinceUnixEpoch(now().0 + day))?;
        assert_eq!(world.tx.announcements()?.len()?, 1);
        Ok(())
    });
}

#[test]
fn an_account_with_the_name_of_the_notices_user_sends_no_notices() {
    with_world(|world| {
        let [alice, notices] = world.users(["alice", "notices"])?;
        let notice = ServerNotice::message("hello")?;
        let sent = server_notices::send(
            world.tx,
            &world.local,
            (&notices.id, now()),
            &alice.id,
            &notice,
            None,
        );
        assert!(matches!(sent, Err(Error::Invalid(_))), "{sent:?}");
        let announced = announce(world, "1", now());
        assert!(matches!(announced, Err(Error::Invalid(_))), "{announced:?}");
        Ok(())
    });
}

#[test]
fn a_deactivated_user_leaves_the_room_of_server_notices() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        announce(world, "1", now())?;
        run_batches(world)?;
        let mut rooms = Vec::new();
        for user in [&alice, &bob] {
            let room = server_notice_room::of_user(world.tx, user.num)?.expect("a room");
            rooms.push(room);
        }
        world.join(&bob, rooms[1])?;
        for user in [&alice, &bob] {
            deactivate(world, user)?;
            member_events::schedule_update(world.tx, user.num)?;
            world.run_member_updates(user.num)?;
        }
        assert_eq!(world.membership(&alice, rooms[0])?, Membership::Leave);
        assert_eq!(world.membership(&bob, rooms[1])?, Membership::Leave);
        Ok(())
    });
}

#[test]
fn a_damaged_room_of_one_user_does_not_keep_an_announcement_from_the_others() {
    with_world(|world| {
        let users = world.users(["alice", "bob"])?;
        announce(world, "1", now())?;
        run_batches(world)?;
        let mut rooms = Vec::new();
        for user in &users {
            rooms.extend(server_notice_room::of_user(world.tx, user.num)?);
        }
        let levels = current::get(world.tx, rooms[0], "m.room.power_levels", "")?;
        world.tx.events()?.remove(levels.expect("power levels"))?;
        let last = |room| Ok::<_, Error>(room::heads(world.tx, room)?.last_place);
        let before = last(rooms[1])?;
        announce(world, "2", now())?;
        run_batches(world)?;
        assert!(last(rooms[1])? > before);
        Ok(())
    });
}

#[test]
fn another_sender_makes_another_room() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let notice = ServerNotice::message("hello")?;
        let mut rooms = Vec::new();
        for sender in [
            notices(),
            user_id!("@announcer:here"),
            user_id!("@announcer:here"),
        ] {
            let sender = (sender, now());
            server_notices::send(world.tx, &world.local, sender, &alice.id, &notice, None)?;
            rooms.extend(server_notice_room::of_user(world.tx, alice.num)?);
        }
        assert_ne!(rooms[0], rooms[1]);
        assert_eq!(rooms[1], rooms[2]);
        Ok(())
    });
}
