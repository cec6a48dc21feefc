//! Tags of rooms (client-server API, "Room Tagging"): the room account data `m.tag`.

use ruma::{
    RoomId,
    events::tag::{TagInfo, Tags},
};
use serde_json::{Map, Value};

use super::rows::{MAX_NAME_BYTES, check_size, load, put, room_of};
use crate::{
    store::{UserNum, records::AccountData},
    users::{Error, Users},
};

const EVENT_TYPE: &str = "m.tag";

impl Users {
    /// The tags that `user` gave a room, without entries that are no tags.
    ///
    /// # Errors
    /// [`Error::NotFound`] if `user` has no membership in the room.
    pub fn tags(&self, user: UserNum, room_id: &RoomId) -> Result<Tags, Error> {
        let content = self.store.read(|s| {
            let room = room_of(s, user, room_id)?;
            Ok::<_, Error>(tag_content(load(s, user, room, EVENT_TYPE)?))
        })?;
        let tags = tags_of(&content).into_iter().flatten();
        Ok(tags
            .filter_map(|(name, info)| {
                let info: TagInfo = serde_json::from_value(info.clone()).ok()?;
                Some((name.as_str().into(), info))
            })
            .collect())
    }

    /// # Errors
    /// [`Error::InvalidParam`] if the name is too long, [`Error::TooLarge`] if the tags are,
    /// [`Error::NotFound`] if `user` has no membership in the room.
    pub async fn set_tag(
        &self,
        user: UserNum,
        room_id: &RoomId,
        tag: String,
        info: &TagInfo,
    ) -> Result<(), Error> {
        if tag.len() > MAX_NAME_BYTES {
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
                let mut content = tag_content(load(tx, user, room, EVENT_TYPE)?);
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
                    put(tx, user, room, EVENT_TYPE, &content)?;
                }
                Ok(())
            })
            .await
    }
}

/// The content of `m.tag`; empty if there is none, or none that is an object.
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
    fn a_tag_can_be_set_over_any_content_that_a_client_stored_as_m_tag() {
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
