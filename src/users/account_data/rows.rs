use ruma::RoomId;

use crate::{
    media::references,
    store::{
        self, Effect, Position, Reader, Records, RoomNum, Rows, Tx, UserNum, records::AccountData,
    },
    users::Error,
};

/// The room number of global account data, which belong to no room.
pub const GLOBAL: RoomNum = RoomNum::MAX;

const MAX_CONTENT_BYTES: usize = 256 * 1024;
/// Of all that clients of one user have stored. It goes through every initial sync.
const MAX_TOTAL_BYTES: usize = 4 * 1024 * 1024;
/// A row counts so much beside its content.
const ROW_BYTES: usize = 256;
/// What the server itself stores of each room, which does not count.
pub const FULLY_READ: &str = "m.fully_read";
/// Of a type, or of the name of a tag.
pub(super) const MAX_NAME_BYTES: usize = 255;

/// The stored data of type `kind`. Of the push rules that is only what differs from the server's defaults.
pub fn load(
    reader: &impl Reader,
    user: UserNum,
    room: RoomNum,
    kind: &str,
) -> Result<Option<AccountData>, store::Error> {
    reader.account_data()?.load((user, room, kind))
}

/// Stores `content`, a JSON object, as the data of type `kind`.
pub fn put(
    tx: &Tx,
    user: UserNum,
    room: RoomNum,
    kind: &str,
    content: &str,
) -> Result<Position, store::Error> {
    let position = tx.next_position()?;
    let before = load(tx, user, room, kind)?;
    references::add(tx, content)?;
    let data = AccountData {
        position,
        content: content.to_owned(),
    };
    tx.account_data()?.put((user, room, kind), &data)?;
    let mut log = tx.account_data_log()?;
    if let Some(before) = before {
        references::remove(tx, &before.content)?;
        log.remove((user, before.position))?;
    }
    log.insert((user, position), (room, kind))?;
    tx.effect(Effect::UserChanged(user, position));
    Ok(position)
}

pub(in crate::users) fn remove_all(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    for row in tx.account_data()?.prefix(user)? {
        let (key, data) = row?;
        references::remove(tx, &data.record(&key)?.content)?;
    }
    tx.account_data()?.remove_prefix(user)?;
    tx.account_data_log()?.remove_prefix(user)
}

/// Removes the data of `user` for a room that is being deleted.
pub fn remove_of_room(tx: &Tx, user: UserNum, room: RoomNum) -> Result<(), store::Error> {
    let mut table = tx.account_data()?;
    let mut removed = Vec::new();
    for row in table.prefix((user, room))? {
        let (key, data) = row?;
        removed.push(data.record(&key)?);
    }
    table.remove_prefix((user, room))?;
    drop(table);
    for data in removed {
        references::remove(tx, &data.content)?;
        tx.account_data_log()?.remove((user, data.position))?;
    }
    Ok(())
}

/// The number of a room in which `user` has, or had, a membership.
pub(super) fn room_of(
    reader: &impl Reader,
    user: UserNum,
    room_id: &RoomId,
) -> Result<RoomNum, Error> {
    const NO_ROOM: Error = Error::NotFound("you have never been in this room");
    let room = {
        let room_nums = reader.room_nums()?;
        let row = room_nums.get(room_id.as_str())?;
        row.ok_or(NO_ROOM)?.value()
    };
    if !reader.memberships()?.has((user, room))? {
        return Err(NO_ROOM);
    }
    Ok(room)
}

/// Stores what a client wants to store.
///
/// # Errors
/// [`Error::TooLarge`].
pub(super) fn put_of_client(
    tx: &Tx,
    user: UserNum,
    room: RoomNum,
    kind: &str,
    content: &str,
) -> Result<(), Error> {
    check_size(content)?;
    if !fits(tx, user, room, kind, content)? {
        return Err(Error::TooLarge(
            "all account data of a user have at most 4 MiB",
        ));
    }
    put(tx, user, room, kind, content)?;
    Ok(())
}

/// Whether `user` may store `content`, beside all their other data.
pub fn fits(
    r: &impl Reader,
    user: UserNum,
    room: RoomNum,
    kind: &str,
    content: &str,
) -> Result<bool, store::Error> {
    let mut total = content.len() + ROW_BYTES;
    for row in r.account_data()?.prefix(user)? {
        let (key, data) = row?;
        let (_, other_room, other_kind) = key.value();
        if (other_room, other_kind) != (room, kind) && other_kind != FULLY_READ {
            total += data.value().size() + ROW_BYTES;
        }
    }
    Ok(total <= MAX_TOTAL_BYTES)
}

pub(super) fn check_size(content: &str) -> Result<(), Error> {
    if content.len() > MAX_CONTENT_BYTES {
        return Err(Error::TooLarge("account data have at most 256 KiB"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{FULLY_READ, GLOBAL, MAX_TOTAL_BYTES, fits, put};
    use crate::{rooms::tests::with_store, store::Tx};

    #[test]
    fn each_row_of_account_data_counts_for_more_than_its_content_except_what_the_server_stores() {
        with_store(async |store| {
            for (kind, bytes, expected) in [
                ("org.example.large", MAX_TOTAL_BYTES - 1000, true),
                ("org.example.large", MAX_TOTAL_BYTES - 300, false),
                (FULLY_READ, MAX_TOTAL_BYTES, true),
            ] {
                let job = move |tx: &Tx| {
                    let user = tx.user_num(&format!("@user{bytes}:a.example"))?;
                    put(tx, user, GLOBAL, kind, &"x".repeat(bytes))?;
                    fits(tx, user, GLOBAL, "org.example.other", "{}")
                };
                let fits = store.write(job).await.expect("it is stored");
                assert_eq!(fits, expected, "{kind} {bytes}");
            }
        });
    }
}
