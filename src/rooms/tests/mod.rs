//! Tests of the rooms' core, each with a store of its own.

mod aliases;
mod append;
mod background;
mod claimed_state;
mod concurrent;
mod create;
mod deletion;
mod device_list_announcement;
mod directory;
mod gaps;
mod liar;
mod local;
mod membership;
mod out_of_band;
mod outliers;
mod receive;
mod redactions;
mod relations;
mod replica;
mod reports;
mod restricted;
mod room_types;
mod search;
mod server_acls;
mod server_notices;
mod shared_rooms;
mod state;
mod timestamp_to_event;
mod unread;
mod upgrade;
mod world;

use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedRoomId, RoomVersionId, UInt, UserId,
    events::TimelineEventType, server_name, user_id,
};

use super::{
    Error, Local,
    event::{
        append::{Appended, Sending},
        insert::Notify,
    },
};
use crate::{
    executor::Executor,
    pool::Pool,
    protocol::{
        ServerKey,
        build::{EventDraft, canonical_content, room_id_from_create_event},
        versions,
    },
    store::{Options, Store, Tx},
};

/// Runs `test` with a new store, which is closed after it.
pub(crate) fn with_store<T>(test: impl AsyncFnOnce(&Store) -> T) -> T {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        directory: directory.path().to_owned(),
        cache: 4 << 20,
    };
    let store = Store::open(&options, Pool::default()).expect("the store opens");
    let executor = Executor::default();
    smol::block_on(executor.run(async {
        let publishing = executor.spawn(store.clone().publish(|_| {}));
        let result = test(&store).await;
        store.close().await;
        publishing.await;
        result
    }))
}

pub(crate) fn local() -> Local {
    Local::new(server_name!("here").to_owned(), ServerKey::generate())
}

pub(crate) fn alice() -> &'static UserId {
    user_id!("@alice:here")
}

pub(crate) fn bob() -> &'static UserId {
    user_id!("@bob:here")
}

/// A draft of an event without its room.
pub(crate) fn draft(
    sender: &UserId,
    kind: &str,
    state_key: Option<&str>,
    content: serde_json::Value,
) -> EventDraft {
    EventDraft {
        room_id: None,
        sender: sender.to_owned(),
        event_type: TimelineEventType::from(kind),
        state_key: state_key.map(ToOwned::to_owned),
        content: canonical_content(&content).expect("content that is canonical"),
        text: None,
        redacts: None,
    }
}

pub(crate) fn sending() -> Sending {
    let now = MilliSecondsSinceUnixEpoch(UInt::from(1_700_000_000u32));
    Sending {
        now,
        sent_by: None,
        notify: Notify::default(),
    }
}

/// A room that alice made and is in, open to everybody.
pub(crate) fn open_room(
    tx: &Tx,
    local: &Local,
    version: &RoomVersionId,
) -> Result<Appended, Error> {
    let rules = versions::rules(version).expect("a version that is supported");
    let content = if rules.authorization.use_room_create_sender {
        serde_json::json!({ "room_version": version })
    } else {
        serde_json::json!({ "room_version": version, "creator": alice() })
    };
    let mut create = draft(alice(), "m.room.create", Some(""), content);
    if !room_id_from_create_event(rules) {
        create.room_id = Some(OwnedRoomId::try_from("!room:here").expect("a room id"));
    }
    let created = super::event::append::create(tx, local, version, &create, &sending())?;
    join(tx, local, &created, alice())?;
    let rule = draft(
        alice(),
        "m.room.join_rules",
        Some(""),
        serde_json::json!({ "join_rule": "public" }),
    );
    send(tx, local, &created, rule)?;
    Ok(created)
}

/// Sends `draft` to `room`.
pub(crate) fn send(
    tx: &Tx,
    local: &Local,
    room: &Appended,
    mut draft: EventDraft,
) -> Result<Appended, Error> {
    draft.room_id = Some(room.room_id.clone());
    super::event::append::append(tx, local, &draft, &sending())
}

pub(crate) fn join(
    tx: &Tx,
    local: &Local,
    room: &Appended,
    user: &UserId,
) -> Result<Appended, Error> {
    member(tx, local, room, user, user, "join")
}

pub(super) fn member(
    tx: &Tx,
    local: &Local,
    room: &Appended,
    sender: &UserId,
    user: &UserId,
    membership: &str,
) -> Result<Appended, Error> {
    let content = serde_json::json!({ "membership": membership });
    send(
        tx,
        local,
        room,
        draft(sender, "m.room.member", Some(user.as_str()), content),
    )
}

pub(super) fn message(
    tx: &Tx,
    local: &Local,
    room: &Appended,
    sender: &UserId,
    body: &str,
) -> Result<Appended, Error> {
    let content = serde_json::json!({ "msgtype": "m.text", "body": body });
    send(
        tx,
        local,
        room,
        draft(sender, "m.room.message", None, content),
    )
}

/// The content of an event, as the store has it.
pub(super) fn content_of(event: &super::event::StoredEvent) -> CanonicalJsonObject {
    #[derive(serde::Deserialize)]
    struct Event {
        content: CanonicalJsonObject,
    }
    event.parse::<Event>().expect("an event").content
}
