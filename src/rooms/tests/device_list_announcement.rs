use ruma::RoomVersionId::{self, V11, V12};

use super::{bob, join, local, open_room, with_store};
use crate::{
    rooms::Error,
    store::{Position, Reader, Tx},
    users::device_lists,
};

/// What other servers call bob's list of devices: at first, and after he has joined each of two rooms, of
/// which only some have another server in them.
fn told(is_shared: [bool; 2]) -> [Position; 3] {
    with_store(async |store| {
        let local = local();
        let told = store.write(move |tx: &Tx| {
            let user = tx.user_num(bob().as_str())?;
            device_lists::device_changed(tx, user, "PHONE".into())?;
            let server = tx.server_num("there")?;
            let join_one = |version: &RoomVersionId, is_shared| {
                let room = open_room(tx, &local, version)?;
                if is_shared {
                    tx.room_servers()?.insert((room.room, server), 1)?;
                }
                join(tx, &local, &room, bob())?;
                Ok::<_, Error>(device_lists::stream_id(tx, user)?)
            };
            let first = device_lists::stream_id(tx, user)?;
            let second = join_one(&V11, is_shared[0])?;
            Ok::<_, Error>([first, second, join_one(&V12, is_shared[1])?])
        });
        told.await.expect("he joins")
    })
}

#[test]
fn the_devices_of_who_joins_are_told_again_where_a_server_is_that_knew_nothing_of_them() {
    let [first, alone, with_another] = told([false, true]);
    assert_eq!(first, alone);
    assert!(alone < with_another);
}

#[test]
fn who_joins_another_room_with_the_same_server_is_no_news_to_it() {
    let [first, new, known] = told([true, true]);
    assert!(first < new);
    assert_eq!(new, known);
}
