//! What clients keep on the server for themselves (client-server API, "Client Config").
//!
//! Every change has a position and stands in `account_data_log` under it, where the next change of
//! the same type replaces it: whoever follows the log sees each type once, at its last change.

use ruma::RoomId;
use serde_json::value::RawValue;

pub mod ignored_users;
pub mod push_rules;
mod tags;

use super::{Error, Users};
use crate::store::{
    self, Effect, Position, Reader, Records, RoomNum, Rows, Tx, UserNum, records::AccountData,
};

/// Under this room number stand the data that belong to no room.
pub const GLOBAL: RoomNum = RoomNum::MAX;

/// Types that only the server sets (client-server API, "Client Config", "Server Behaviour").
const SERVER_MANAGED: [&str; 2] = ["m.fully_read", push_rules::EVENT_TYPE];

/// How large the content of one type can be, in bytes.
const LARGEST: usize = 256 * 1024;
/// How long a type or the name of a tag can be, in bytes.
pub(super) const LONGEST_NAME: usize = 255;

/// One change, as a client is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The room, or [`GLOBAL`].
    pub room: RoomNum,
    /// The type.
    pub kind: String,
    /// The content as JSON, and when it changed.
    pub data: AccountData,
}

/// The data of `kind` in `room`, which may be [`GLOBAL`], as they are stored.
///
/// # Errors
/// If the table cannot be read.
pub fn load(
    reader: &impl Reader,
    user: UserNum,
    room: RoomNum,
    kind: &str,
) -> Result<Option<AccountData>, store::Error> {
    reader.account_data()?.load((user, room, kind))
}

/// The data of `kind` in `room` as clients see them: of the push rules not only what is stored.
fn shown(
    reader: &impl Reader,
    user: UserNum,
    room: RoomNum,
    kind: &str,
) -> Result<Option<AccountData>, store::Error> {
    let stored = load(reader, user, room, kind)?;
    if (room, kind) != (GLOBAL, push_rules::EVENT_TYPE) {
        return Ok(stored);
    }
    Ok(Some(AccountData {
        position: stored.map_or(Position::MIN, |stored| stored.position),
        content: push_rules::client_content(reader, user)?,
    }))
}

/// All data of `user` in `room`, which may be [`GLOBAL`], as clients see them.
///
/// # Errors
/// If the table cannot be read.
pub fn all_in(
    reader: &impl Reader,
    user: UserNum,
    room: RoomNum,
) -> Result<Vec<Changed>, store::Error> {
    let mut all = Vec::new();
    for row in reader.account_data()?.range((user, room, "")..)? {
        let (key, data) = row?;
        let (of, at, kind) = key.value();
        if (of, at) != (user, room) {
            break;
        }
        if kind != push_rules::EVENT_TYPE {
            all.push(Changed {
                room,
                kind: kind.to_owned(),
                data: data.value().unpack()?,
            });
        }
    }
    if room == GLOBAL
        && let Some(data) = shown(reader, user, room, push_rules::EVENT_TYPE)?
    {
        all.push(Changed {
            room,
            kind: push_rules::EVENT_TYPE.to_owned(),
            data,
        });
    }
    Ok(all)
}

/// What of `user` changed after `after`, up to and including `upto`, oldest first, as clients see
/// it.
///
/// # Errors
/// If the tables cannot be read.
pub fn changed_between(
    reader: &impl Reader,
    user: UserNum,
    after: Position,
    upto: Position,
) -> Result<Vec<Changed>, store::Error> {
    let mut changed = Vec::new();
    if after >= upto {
        return Ok(changed);
    }
    let first = Position(after.0 + 1);
    let log = reader.account_data_log()?;
    for row in log.range((user, first)..=(user, upto))? {
        let (_, what) = row?;
        let (room, kind) = what.value();
        let data = shown(reader, user, room, kind)?;
        changed.push(Changed {
            room,
            kind: kind.to_owned(),
            data: data.ok_or_else(|| {
                store::Error::corrupt("account_data", (user, room, kind), "missing, but logged")
            })?,
        });
    }
    Ok(changed)
}

/// Stores `content`, a JSON object, as the data of `kind` in `room`, which may be [`GLOBAL`].
///
/// # Errors
/// If the tables cannot be written.
pub fn put(
    tx: &Tx,
    user: UserNum,
    room: RoomNum,
    kind: &str,
    content: &str,
) -> Result<Position, store::Error> {
    let position = tx.next_position()?;
    let before = load(tx, user, room, kind)?;
    let data = AccountData {
        position,
        content: content.to_owned(),
    };
    tx.account_data()?.put((user, room, kind), &data)?;
    let mut log = tx.account_data_log()?;
    if let Some(before) = before {
        log.remove((user, before.position))?;
    }
    log.insert((user, position), (room, kind))?;
    tx.effect(Effect::UserChanged(user, position));
    Ok(position)
}

/// Removes all data of `user`.
///
/// # Errors
/// If the tables cannot be written.
pub(super) fn remove_all(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    let next = UserNum(user.0 + 1);
    tx.account_data()?.remove_in(
        (user, RoomNum::MIN, "")..(next, RoomNum::MIN, ""),
        |_, _| true,
    )?;
    tx.account_data_log()?
        .remove_in((user, Position::MIN)..(next, Position::MIN), |_, _| true)
}

/// The number of a room that `user` has had to do with.
pub(super) fn own_room(
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

fn scope(reader: &impl Reader, user: UserNum, room_id: Option<&RoomId>) -> Result<RoomNum, Error> {
    match room_id {
        Some(room_id) => own_room(reader, user, room_id),
        None => Ok(GLOBAL),
    }
}

fn check(kind: &str, content: &str) -> Result<(), Error> {
    if SERVER_MANAGED.contains(&kind) {
        return Err(Error::ServerManaged);
    }
    if kind.len() > LONGEST_NAME {
        return Err(Error::InvalidParam("a type has at most 255 bytes"));
    }
    check_size(content)?;
    // The text may be of a kind that nothing can be made of: half a surrogate pair, 1e999, no end of brackets.
    if serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(content).is_err() {
        return Err(Error::BadJson("account data are a JSON object"));
    }
    Ok(())
}

pub(super) fn check_size(content: &str) -> Result<(), Error> {
    if content.len() > LARGEST {
        return Err(Error::TooLarge("account data have at most 256 KiB"));
    }
    Ok(())
}

impl Users {
    /// The content of `kind`, in a room or in general.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none, or `user` has nothing to do with the room.
    pub fn account_data(
        &self,
        user: UserNum,
        room_id: Option<&RoomId>,
        kind: &str,
    ) -> Result<Box<RawValue>, Error> {
        let data = self.store.read(|s| {
            let room = scope(s, user, room_id)?;
            Ok::<_, Error>(shown(s, user, room, kind)?)
        })?;
        let data = data.ok_or(Error::NotFound("there is no account data of this type"))?;
        RawValue::from_string(data.content).map_err(|_| {
            store::Error::corrupt("account_data", (user, room_id, kind), "not JSON").into()
        })
    }

    /// Stores the content of `kind`, in a room or in general.
    ///
    /// # Errors
    /// [`Error::ServerManaged`], [`Error::BadJson`], [`Error::TooLarge`], [`Error::InvalidParam`],
    /// or [`Error::NotFound`] if `user` has nothing to do with the room.
    pub async fn set_account_data(
        &self,
        user: UserNum,
        room_id: Option<&RoomId>,
        kind: String,
        content: Box<RawValue>,
    ) -> Result<(), Error> {
        check(&kind, content.get())?;
        let room_id = room_id.map(ToOwned::to_owned);
        self.store
            .write(move |tx| {
                let room = scope(tx, user, room_id.as_deref())?;
                put(tx, user, room, &kind, content.get())?;
                Ok(())
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::{Value, json};

    use super::*;
    use crate::users::testing::{alice_and_bob, raw, with_server};

    #[test]
    fn account_data_belong_to_one_user_and_one_room_or_none() {
        with_server(async |server| {
            let [alice, bob] = alice_and_bob(&server).await;
            let room = room_id!("!room:example.org");
            for (room, content) in [(None, json!({"a": 1})), (Some(room), json!({"a": 2}))] {
                let kind = "org.example".to_owned();
                let set = server
                    .users
                    .set_account_data(alice, room, kind, raw(&content));
                set.await.unwrap();
            }
            let get = |user, room, kind| {
                let data = server.users.account_data(user, room, kind)?;
                Ok::<Value, Error>(serde_json::from_str(data.get()).unwrap())
            };
            assert_eq!(get(alice, None, "org.example").unwrap(), json!({"a": 1}));
            assert_eq!(
                get(alice, Some(room), "org.example").unwrap(),
                json!({"a": 2})
            );
            let elsewhere = room_id!("!elsewhere:example.org");
            for (user, room, kind) in [
                (bob, None, "org.example"),
                (bob, Some(room), "org.example"),
                (alice, Some(elsewhere), "org.example"),
                (alice, None, "org.example.other"),
            ] {
                assert!(matches!(get(user, room, kind), Err(Error::NotFound(_))));
            }
            let kind = "org.example".to_owned();
            let set = server
                .users
                .set_account_data(bob, Some(room), kind, raw(&json!({})));
            assert!(matches!(set.await, Err(Error::NotFound(_))));
        });
    }

    #[test]
    fn what_the_server_manages_and_what_is_no_object_is_refused() {
        with_server(async |server| {
            let [alice, _] = alice_and_bob(&server).await;
            let room = room_id!("!room:example.org");
            let set = |room, kind: &str, content: Value| {
                let data = raw(&content);
                server
                    .users
                    .set_account_data(alice, room, kind.to_owned(), data)
            };
            for kind in ["m.fully_read", "m.push_rules"] {
                for room in [None, Some(room)] {
                    assert!(matches!(
                        set(room, kind, json!({})).await,
                        Err(Error::ServerManaged)
                    ));
                }
            }
            for content in [json!([]), json!("{}"), json!(null)] {
                assert!(matches!(
                    set(None, "org.example", content).await,
                    Err(Error::BadJson(_))
                ));
            }
            let large = json!({"a": "x".repeat(LARGEST)});
            assert!(matches!(
                set(None, "org.example", large).await,
                Err(Error::TooLarge(_))
            ));
            assert!(matches!(
                set(None, &"x".repeat(256), json!({})).await,
                Err(Error::InvalidParam(_))
            ));
        });
    }

    #[test]
    fn the_log_tells_each_change_once_at_its_last_position() {
        with_server(async |server| {
            let [alice, bob] = alice_and_bob(&server).await;
            let mut positions = Vec::new();
            for (user, kind) in [(alice, "a"), (alice, "b"), (bob, "a"), (alice, "a")] {
                let set = server
                    .users
                    .set_account_data(user, None, kind.into(), raw(&json!({})));
                set.await.unwrap();
                let effects = server.effects();
                let [Effect::UserChanged(of, position)] = effects[..] else {
                    panic!("{effects:?}");
                };
                assert_eq!(of, user);
                positions.push(position);
            }
            let told = |user, after, upto| -> Vec<(String, Position)> {
                let changed = server
                    .store
                    .read(|s| changed_between(s, user, after, upto))
                    .unwrap();
                changed
                    .into_iter()
                    .map(|c| (c.kind, c.data.position))
                    .collect()
            };
            let [_, b, of_bob, a] = positions[..] else {
                panic!()
            };
            let b_then_a = vec![("b".to_owned(), b), ("a".to_owned(), a)];
            assert_eq!(told(alice, Position(0), a), b_then_a);
            assert_eq!(told(alice, b, a), b_then_a[1..]);
            assert_eq!(told(alice, Position(0), b), b_then_a[..1]);
            assert_eq!(told(alice, a, a), []);
            assert_eq!(told(bob, Position(0), a), [("a".to_owned(), of_bob)]);
            let all = server.store.read(|s| all_in(s, alice, GLOBAL)).unwrap();
            let kinds: Vec<_> = all.iter().map(|changed| &*changed.kind).collect();
            assert_eq!(kinds, ["a", "b", push_rules::EVENT_TYPE]);
        });
    }
}
