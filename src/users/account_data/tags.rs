//! Tags of rooms (client-server API, "Room Tagging"): the room account data `m.tag`.

use ruma::{RoomId, serde::JsonObject};
use serde_json::{Map, Value};

use super::rows::{MAX_NAME_BYTES, load, put, put_of_client, room_of};
use crate::{
    store::{self, RoomNum, Tx, UserNum, records::AccountData},
    users::{Error, Users},
};

const EVENT_TYPE: &str = "m.tag";

impl Users {
    /// The tags that `user` gave a room, without entries that are no tags.
    ///
    /// # Errors
    /// [`Error::NotFound`] if `user` has no membership in the room.
    pub fn tags(&self, user: UserNum, room_id: &RoomId) -> Result<Map<String, Value>, Error> {
        let mut content = self.store.read(|s| {
            let room = room_of(s, user, room_id)?;
            Ok::<_, Error>(tag_content(load(s, user, room, EVENT_TYPE)?))
        })?;
        let mut tags = match content.remove("tags") {
            Some(Value::Object(tags)) => tags,
            _ => Map::new(),
        };
        tags.retain(|_, info| info.is_object());
        Ok(tags)
    }

    /// # Errors
    /// [`Error::InvalidParam`] if the name is too long, [`Error::TooLarge`] if the tags are,
    /// [`Error::NotFound`] if `user` has no membership in the room.
    pub async fn set_tag(
        &self,
        user: UserNum,
        room_id: &RoomId,
        tag: String,
        info: JsonObject,
    ) -> Result<(), Error> {
        if tag.len() > MAX_NAME_BYTES {
            return Err(Error::InvalidParam(
                "the name of a tag has at most 255 bytes",
            ));
        }
        self.change_tags(user, room_id, move |tags| {
            tags.insert(tag.clone(), Value::Object(info.clone()));
            true
        })
        .await
    }

    /// # Errors
    /// [`Error::NotFound`] if `user` has no membership in the room.
    pub async fn remove_tag(
        &self,
        user: UserNum,
        room_id: &RoomId,
        tag: String,
    ) -> Result<(), Error> {
        self.change_tags(user, room_id, move |tags| tags.remove(&tag).is_some())
            .await
    }

    /// Applies `change` to a room's tags and stores them, unless it returns that nothing changed.
    async fn change_tags(
        &self,
        user: UserNum,
        room_id: &RoomId,
        change: impl Fn(&mut Map<String, Value>) -> bool + Send + 'static,
    ) -> Result<(), Error> {
        let room_id = room_id.to_owned();
        self.store
            .write(move |tx| {
                let room = room_of(tx, user, &room_id)?;
                match changed(load(tx, user, room, EVENT_TYPE)?, &change) {
                    Some(content) => put_of_client(tx, user, room, EVENT_TYPE, &content),
                    None => Ok(()),
                }
            })
            .await
    }
}

/// Gives `room` a tag of the server, whatever other tags `user` gave it.
pub fn add(tx: &Tx, user: UserNum, room: RoomNum, tag: &str) -> Result<(), store::Error> {
    let add = |tags: &mut Map<String, Value>| {
        let is_new = !tags.contains_key(tag);
        if is_new {
            tags.insert(tag.to_owned(), Value::Object(Map::new()));
        }
        is_new
    };
    if let Some(content) = changed(load(tx, user, room, EVENT_TYPE)?, add) {
        put(tx, user, room, EVENT_TYPE, &content)?;
    }
    Ok(())
}

/// The content of `m.tag` with tags that `change` changed, unless it returns that nothing changed.
fn changed(
    data: Option<AccountData>,
    change: impl FnOnce(&mut Map<String, Value>) -> bool,
) -> Option<String> {
    let mut content = tag_content(data);
    let tags = content
        .entry("tags")
        .and_modify(|tags| {
            if !tags.is_object() {
                *tags = Value::Object(Map::new());
            }
        })
        .or_insert_with(|| Value::Object(Map::new()));
    let is_changed = tags.as_object_mut().is_some_and(change);
    is_changed.then(|| Value::Object(content).to_string())
}

/// The content of `m.tag`; empty if there is none, or none that is an object.
fn tag_content(data: Option<AccountData>) -> Map<String, Value> {
    data.and_then(|data| serde_json::from_str(&data.content).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::json;

    use super::*;
    use crate::users::testing::{alice_and_bob, raw, with_server};

    #[test]
    fn tags_are_room_account_data() {
        with_server(async |server| {
            let [alice, bob] = alice_and_bob(&server).await;
            let room = &room_id!("!room:example.org");
            assert!(server.users.tags(alice, room).unwrap().is_empty());
            let info = json!({"order": 0.5, "org.example.bridge": {"a": 1}});
            let info: JsonObject = serde_json::from_value(info).unwrap();
            for tag in ["m.favourite", "u.work"] {
                let set = server.users.set_tag(alice, room, tag.into(), info.clone());
                set.await.unwrap();
            }
            let remove = server.users.remove_tag(alice, room, "u.work".into());
            remove.await.unwrap();
            server.effects();
            let remove = server.users.remove_tag(alice, room, "u.work".into());
            remove.await.unwrap();
            assert_eq!(
                server.effects(),
                [],
                "a tag that is not there is not removed again"
            );
            let content = server
                .users
                .account_data(alice, Some(room), "m.tag")
                .unwrap();
            assert_eq!(
                serde_json::from_str::<Value>(content.get()).unwrap(),
                json!({"tags": {"m.favourite": info}})
            );
            assert_eq!(server.users.tags(alice, room).unwrap().len(), 1);

            let long = "x".repeat(256);
            assert!(matches!(
                server.users.set_tag(alice, room, long, info.clone()).await,
                Err(Error::InvalidParam(_))
            ));
            assert!(matches!(
                server
                    .users
                    .set_tag(bob, room, "u.x".into(), info.clone())
                    .await,
                Err(Error::NotFound(_))
            ));
        });
    }

    #[test]
    fn a_tag_can_be_set_over_any_content_that_a_client_stored_as_m_tag() {
        with_server(async |server| {
            let [alice, _] = alice_and_bob(&server).await;
            let room = &room_id!("!room:example.org");
            let info = JsonObject::new();
            for content in [
                json!({"tags": 3, "x": 1}),
                json!({"tags": {"a": 3}}),
                json!({}),
            ] {
                let kind = "m.tag".to_owned();
                let set = server
                    .users
                    .set_account_data(alice, Some(room), kind, raw(&content));
                set.await.unwrap();
                assert!(server.users.tags(alice, room).unwrap().is_empty());
                let set = server
                    .users
                    .set_tag(alice, room, "u.x".into(), info.clone());
                set.await.unwrap();
                assert_eq!(server.users.tags(alice, room).unwrap().len(), 1);
            }
        });
    }
}
