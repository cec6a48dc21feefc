//! The tags that users give rooms (client-server API, "Room Tagging"): the room account data
//! `m.tag`.

use ruma::{
    RoomId,
    events::tag::{TagInfo, Tags},
};
use serde_json::{Map, Value};

use super::{LONGEST_NAME, check_size, load, own_room, put};
use crate::{
    store::{UserNum, records::AccountData},
    users::{Error, Users},
};

const TAGS: &str = "m.tag";

impl Users {
    /// The tags that `user` gave a room. What is not a tag is left out.
    ///
    /// # Errors
    /// [`Error::NotFound`] if `user` has nothing to do with the room.
    pub fn tags(&self, user: UserNum, room_id: &RoomId) -> Result<Tags, Error> {
        let content = self.store.read(|s| {
            let room = own_room(s, user, room_id)?;
            Ok::<_, Error>(tag_content(load(s, user, room, TAGS)?))
        })?;
        let tags = tags_of(&content).into_iter().flatten();
        Ok(tags
            .filter_map(|(name, info)| {
                let info: TagInfo = serde_json::from_value(info.clone()).ok()?;
                Some((name.as_str().into(), info))
            })
            .collect())
    }

    /// Gives a room a tag.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] if the name is too long, [`Error::TooLarge`] if the tags are,
    /// [`Error::NotFound`] if `user` has nothing to do with the room.
    pub async fn set_tag(
        &self,
        user: UserNum,
        room_id: &RoomId,
        tag: String,
        info: &TagInfo,
    ) -> Result<(), Error> {
        if tag.len() > LONGEST_NAME {
            return Err(Error::InvalidParam(
                "the name of a tag has at most 255 bytes",
            ));
        }
        let info = serde_json::to_value(info).map_err(|_| Error::BadJson("this is not a tag"))?;
        self.change_tags(user, room_id, move |tags| {
            tags.insert(tag.clone(), info.clone());
            true
        })
        .await
    }

    /// Takes a tag from a room, if it has it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if `user` has nothing to do with the room.
    pub async fn remove_tag(
        &self,
        user: UserNum,
        room_id: &RoomId,
        tag: String,
    ) -> Result<(), Error> {
        self.change_tags(user, room_id, move |tags| tags.remove(&tag).is_some())
            .await
    }

    /// Stores what `change` makes of a room's tags, unless it says that it changed nothing.
    async fn change_tags(
        &self,
        user: UserNum,
        room_id: &RoomId,
        change: impl Fn(&mut Map<String, Value>) -> bool + Send + 'static,
    ) -> Result<(), Error> {
        let room_id = room_id.to_owned();
        self.store
            .write(move |tx| {
                let room = own_room(tx, user, &room_id)?;
                let mut content = tag_content(load(tx, user, room, TAGS)?);
                let tags = content
                    .entry("tags")
                    .and_modify(|tags| {
                        if !tags.is_object() {
                            *tags = Value::Object(Map::new());
                        }
                    })
                    .or_insert_with(|| Value::Object(Map::new()));
                if tags.as_object_mut().is_some_and(&change) {
                    let content = Value::Object(content).to_string();
                    check_size(&content)?;
                    put(tx, user, room, TAGS, &content)?;
                }
                Ok(())
            })
            .await
    }
}

/// The content of `m.tag`; empty if there is none, or if a client stored something else there.
fn tag_content(data: Option<AccountData>) -> Map<String, Value> {
    data.and_then(|data| serde_json::from_str(&data.content).ok())
        .unwrap_or_default()
}

fn tags_of(content: &Map<String, Value>) -> Option<&Map<String, Value>> {
    content.get("tags")?.as_object()
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
            let mut info = TagInfo::new();
            info.order = Some(0.5);
            for tag in ["m.favourite", "u.work"] {
                let set = server.users.set_tag(alice, room, tag.into(), &info);
                set.await.unwrap();
            }
            let remove = server.users.remove_tag(alice, room, "u.work".into());
            remove.await.unwrap();
            server.effects();
            let remove = server.users.remove_tag(alice, room, "u.work".into());
            remove.await.unwrap();
            assert_eq!(server.effects(), [], "what is gone cannot go again");
            let content = server
                .users
                .account_data(alice, Some(room), "m.tag")
                .unwrap();
            assert_eq!(
                serde_json::from_str::<Value>(content.get()).unwrap(),
                json!({"tags": {"m.favourite": {"order": 0.5}}})
            );
            assert_eq!(server.users.tags(alice, room).unwrap().len(), 1);

            let long = "x".repeat(256);
            assert!(matches!(
                server.users.set_tag(alice, room, long, &info).await,
                Err(Error::InvalidParam(_))
            ));
            assert!(matches!(
                server.users.set_tag(bob, room, "u.x".into(), &info).await,
                Err(Error::NotFound(_))
            ));
        });
    }

    #[test]
    fn tags_outlive_whatever_a_client_stores_in_their_place() {
        with_server(async |server| {
            let [alice, _] = alice_and_bob(&server).await;
            let room = &room_id!("!room:example.org");
            let info = TagInfo::new();
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
                let set = server.users.set_tag(alice, room, "u.x".into(), &info);
                set.await.unwrap();
                assert_eq!(server.users.tags(alice, room).unwrap().len(), 1);
            }
        });
    }
}
