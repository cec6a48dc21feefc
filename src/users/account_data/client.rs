//! Account data as clients read and write them: the push rules with the server's defaults.

use ruma::RoomId;
use serde_json::value::RawValue;

use super::{
    local_notification_settings, push_rules,
    rows::{FULLY_READ, GLOBAL, MAX_NAME_BYTES, check_size, load, put_of_client, room_of},
};
use crate::{
    store::{self, Position, Reader, RoomNum, Rows, UserNum, records::AccountData},
    users::{Error, Users},
};

/// Types that only the server sets (client-server API, "Client Config", "Server Behaviour").
const SERVER_MANAGED: [&str; 2] = [FULLY_READ, push_rules::EVENT_TYPE];

/// The data of type `kind` as the client of `user` gets it.
pub fn load_for_client(
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

/// The types of all data of `user` in `room`, which may be [`GLOBAL`].
pub fn kinds_in(
    reader: &impl Reader,
    user: UserNum,
    room: RoomNum,
) -> Result<Vec<String>, store::Error> {
    let mut kinds = Vec::new();
    for row in reader.account_data()?.prefix((user, room))? {
        let (key, data) = row?;
        let (_, _, kind) = key.value();
        if kind == push_rules::EVENT_TYPE
            || local_notification_settings::is_type_of_settings(kind)
                && local_notification_settings::are_removed(kind, &data.record(&key)?.content)
        {
            continue;
        }
        kinds.push(kind.to_owned());
    }
    if room == GLOBAL {
        kinds.push(push_rules::EVENT_TYPE.to_owned());
    }
    Ok(kinds)
}

/// The room, or [`GLOBAL`], and the type of what of `user` changed after `after`, up to and including `upto`,
/// oldest first.
pub fn changes_between(
    reader: &impl Reader,
    user: UserNum,
    after: Position,
    upto: Position,
) -> Result<Vec<(RoomNum, String)>, store::Error> {
    let mut changes = Vec::new();
    if after >= upto {
        return Ok(changes);
    }
    let log = reader.account_data_log()?;
    for row in log.prefix_range(user, Position(after.0 + 1)..=upto)? {
        let (_, what) = row?;
        let (room, kind) = what.value();
        changes.push((room, kind.to_owned()));
    }
    Ok(changes)
}

fn room_or_global(
    reader: &impl Reader,
    user: UserNum,
    room_id: Option<&RoomId>,
) -> Result<RoomNum, Error> {
    match room_id {
        Some(room_id) => room_of(reader, user, room_id),
        None => Ok(GLOBAL),
    }
}

fn check(kind: &str, content: &str) -> Result<(), Error> {
    if SERVER_MANAGED.contains(&kind) {
        return Err(Error::ServerManaged);
    }
    if kind.len() > MAX_NAME_BYTES {
        return Err(Error::InvalidParam(
            "the type of account data has at most 255 bytes",
        ));
    }
    check_size(content)?;
    // A `RawValue` may hold what no type can represent: half a surrogate pair, 1e999, deep nesting.
    if serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(content).is_err() {
        return Err(Error::BadJson(
            "the content of account data is a JSON object",
        ));
    }
    Ok(())
}

impl Users {
    /// The content of type `kind`, of a room or global.
    ///
    /// # Errors
    /// [`Error::NotFound`], also if `user` has no membership in the room.
    pub fn account_data(
        &self,
        user: UserNum,
        room_id: Option<&RoomId>,
        kind: &str,
    ) -> Result<Box<RawValue>, Error> {
        let data = self.store.read(|s| {
            let room = room_or_global(s, user, room_id)?;
            Ok::<_, Error>(load_for_client(s, user, room, kind)?)
        })?;
        let data = data
            .filter(|data| !local_notification_settings::are_removed(kind, &data.content))
            .ok_or(Error::NotFound("there is no account data of this type"))?;
        RawValue::from_string(data.content).map_err(|_| {
            store::Error::corrupt("account_data", (user, room_id, kind), "not JSON").into()
        })
    }

    /// Stores the content of type `kind`, of a room or global.
    ///
    /// # Errors
    /// [`Error::ServerManaged`], [`Error::BadJson`], [`Error::TooLarge`], [`Error::InvalidParam`],
    /// or [`Error::NotFound`] if `user` has no membership in the room.
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
                let room = room_or_global(tx, user, room_id.as_deref())?;
                put_of_client(tx, user, room, &kind, content.get())
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        store::{Effect, Snapshot},
        users::testing::{alice_and_bob, raw, with_server},
    };

    #[test]
    fn account_data_belong_to_one_user_and_to_one_room_or_are_global() {
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
    fn server_managed_types_and_contents_that_are_no_object_are_refused() {
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
            let large = json!({"a": "x".repeat(256 * 1024)});
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
    fn the_log_has_each_type_once_at_the_position_of_its_last_change() {
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
            let changes = |user, after, upto| -> Vec<(String, Position)> {
                let read = |s: &Snapshot| {
                    let changed = changes_between(s, user, after, upto)?.into_iter();
                    let positions = changed.map(|(room, kind)| {
                        let data = load_for_client(s, user, room, &kind)?;
                        Ok((kind, data.unwrap().position))
                    });
                    positions.collect::<Result<_, store::Error>>()
                };
                server.store.read(read).unwrap()
            };
            let [_, b, of_bob, a] = positions[..] else {
                panic!()
            };
            let b_then_a = vec![("b".to_owned(), b), ("a".to_owned(), a)];
            assert_eq!(changes(alice, Position(0), a), b_then_a);
            assert_eq!(changes(alice, b, a), b_then_a[1..]);
            assert_eq!(changes(alice, Position(0), b), b_then_a[..1]);
            assert_eq!(changes(alice, a, a), []);
            assert_eq!(changes(bob, Position(0), a), [("a".to_owned(), of_bob)]);
            let kinds = server.store.read(|s| kinds_in(s, alice, GLOBAL)).unwrap();
            assert_eq!(kinds, ["a", "b", push_rules::EVENT_TYPE]);
        });
    }
}
