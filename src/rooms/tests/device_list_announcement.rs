use ruma::RoomVersionId::{self, V11, V12};

use super::{bob, join, local, open_room, with_store};
use crate::{
    rooms::Error,
    store::{Position, Reader, Tx},
    users::device_lists,
};

/// The stream ids of bob's device list: at first, and after he has joined each of two rooms, which
/// another server is in or not.
fn stream_ids(is_shared: [bool; 2]) -> [Position; 3] {
    with_store(async |store| {
        let local = local();
        let ids = store.write(move |tx: &Tx| {
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
        ids.await.expect("he joins")
    })
}

#[test]
fn a_join_announces_the_device_list_again_if_a_server_is_new_to_the_user() {
    let [first, alone, with_another] = stream_ids([false, true]);
    assert_eq!(first, alone);
    assert!(alone < with_another);
}

#[test]
fn a_join_to_another_room_with_the_same_server_announces_nothing() {
    let [first, new, known] = stream_ids([true, true]);
    assert!(first < new);
    assert_eq!(new, known);
}
