//! A server with users and rooms inside one transaction, for tests.

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, RoomVersionId, UInt, UserId,
    api::{IncomingRequestExt, client::room::create_room::v3::Request},
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::{Value, json};

use super::{local, with_store};
use crate::{
    protocol::{build::canonical_content, versions},
    rooms::{
        Actor, Error, Local,
        background::member_events,
        create::{self, presets},
        event::{self, state_event::StateEvent},
        membership::{change::MembershipChange, join, leave, moderation},
        state::{self, content, current},
        timeline,
        upgrade::room_data,
    },
    store::{
        Place, Reader, RoomNum, Rows, Tx, UserNum,
        records::{Account, Membership},
    },
};

/// Runs `test` in one transaction of a new server.
pub(super) fn with_world(test: impl Fn(&World) -> Result<(), Error> + Send + 'static) {
    with_store(async |store| {
        let local = local();
        let job = move |tx: &Tx| {
            test(&World {
                tx,
                local: local.clone(),
            })
        };
        store.write(job).await.expect("the test goes through");
    });
}

/// A server in the middle of a transaction.
pub(super) struct World<'t> {
    pub(super) tx: &'t Tx,
    pub(super) local: Local,
}

/// The time of all events.
/// The versions in which rooms are made, oldest first.
pub(super) fn creatable() -> impl Iterator<Item = RoomVersionId> {
    let versions = versions::SUPPORTED.into_iter();
    versions.filter(|version| versions::rules(version).is_some_and(versions::may_be_created))
}

pub(super) fn now() -> MilliSecondsSinceUnixEpoch {
    MilliSecondsSinceUnixEpoch(UInt::from(1_700_000_000u32))
}

/// The request that a client makes with `body`.
pub(super) fn request(body: &Value) -> Request {
    let body = serde_json::to_vec(body).expect("JSON");
    let request = http::Request::post("/_matrix/client/v3/createRoom")
        .body(&*body)
        .expect("a request");
    Request::try_from_http_request(request, &[]).expect("a createRoom request")
}

pub(super) fn some_id() -> OwnedRoomId {
    ruma::RoomId::new_v1(ruma::server_name!("here"))
}

impl World<'_> {
    /// The user `name`, who has an account.
    pub(super) fn user(&self, name: &str) -> Result<Actor, Error> {
        let id = UserId::parse(format!("@{name}:here")).expect("a user id");
        let num = self.tx.user_num(id.as_str())?;
        let account = Account {
            password_hash: None,
            created_ts: 0,
            deactivated: false,
            erased: false,
            admin: false,
        };
        self.tx.accounts()?.put(num, &account)?;
        Ok(Actor {
            num,
            id,
            now: now(),
        })
    }

    pub(super) fn users<const N: usize>(&self, names: [&str; N]) -> Result<[Actor; N], Error> {
        let users: Result<Vec<Actor>, Error> = names.iter().map(|name| self.user(name)).collect();
        Ok(users?.try_into().expect("one for each name"))
    }

    /// Makes a room as a client would that sends `body`.
    pub(super) fn create(&self, creator: &Actor, body: &Value) -> Result<RoomNum, Error> {
        let request = request(body);
        let plan = presets::blueprint(&self.local, &creator.id, &request, some_id())?;
        Ok(create::build(self.tx, &self.local, creator, &plan)?.0)
    }

    /// A room of `version` that anybody may join.
    pub(super) fn public(
        &self,
        creator: &Actor,
        version: &RoomVersionId,
    ) -> Result<RoomNum, Error> {
        self.create(
            creator,
            &json!({ "preset": "public_chat", "room_version": version }),
        )
    }

    pub(super) fn join(&self, user: &Actor, room: RoomNum) -> Result<(), Error> {
        join::join(
            self.tx,
            &self.local,
            user,
            room,
            &own(user, MembershipState::Join),
        )
    }

    pub(super) fn knock(&self, user: &Actor, room: RoomNum) -> Result<(), Error> {
        own(user, MembershipState::Knock).send(self.tx, &self.local, room, user)
    }

    pub(super) fn leave(&self, user: &Actor, room: RoomNum) -> Result<(), Error> {
        leave::leave(self.tx, &self.local, user, room, None)
    }

    pub(super) fn invite(&self, user: &Actor, whom: &Actor, room: RoomNum) -> Result<(), Error> {
        moderation::invite(self.tx, &self.local, user, room, &whom.id, None, false)
    }

    pub(super) fn kick(&self, user: &Actor, whom: &Actor, room: RoomNum) -> Result<(), Error> {
        moderation::kick(self.tx, &self.local, user, room, &whom.id, None)
    }

    pub(super) fn ban(&self, user: &Actor, whom: &Actor, room: RoomNum) -> Result<(), Error> {
        moderation::ban(self.tx, &self.local, user, room, &whom.id, None)
    }

    pub(super) fn unban(&self, user: &Actor, whom: &Actor, room: RoomNum) -> Result<(), Error> {
        moderation::unban(self.tx, &self.local, user, room, &whom.id, None)
    }

    /// Sends a state event.
    pub(super) fn set(
        &self,
        user: &Actor,
        room: RoomNum,
        (kind, state_key): (&str, &str),
        content: &Value,
    ) -> Result<(), Error> {
        let event = StateEvent {
            kind: StateEventType::from(kind),
            state_key: state_key.to_owned(),
            content: canonical_content(content)?,
        };
        event.send(self.tx, &self.local, room, user)
    }

    /// The content of a state event; `null` if there is none.
    pub(super) fn get(
        &self,
        room: RoomNum,
        (kind, state_key): (&str, &str),
    ) -> Result<Value, Error> {
        let content = content::current(self.tx, room, &StateEventType::from(kind), state_key)?;
        Ok(content.unwrap_or(Value::Null))
    }

    pub(super) fn membership(&self, user: &Actor, room: RoomNum) -> Result<Membership, Error> {
        current::membership(self.tx, room, &user.id)
    }

    /// How many events the room's timeline has.
    pub(super) fn length(&self, room: RoomNum) -> Result<usize, Error> {
        Ok(timeline::forwards(self.tx, room, Place::MIN, usize::MAX)?.len())
    }

    /// The (type, state key) of every event of the timeline, oldest first.
    pub(super) fn event_types(&self, room: RoomNum) -> Result<Vec<(String, String)>, Error> {
        let mut types = Vec::new();
        for (_, row) in timeline::forwards(self.tx, room, Place::MIN, usize::MAX)? {
            let key = event::header(self.tx, row.event)?.state_key;
            types.push(match key {
                Some(key) => state::key_name(self.tx, room, key)?,
                None => ("a message".to_owned(), String::new()),
            });
        }
        Ok(types)
    }

    /// Runs the batches of the pending member updates of `user`; how many it took.
    pub(super) fn run_member_updates(&self, user: UserNum) -> Result<usize, Error> {
        let mut batches = 0;
        while self.tx.pending_member_updates()?.has(user)? {
            member_events::run_batch(self.tx, &self.local, now(), user)?;
            batches += 1;
        }
        Ok(batches)
    }

    /// Runs the batches of the pending upgrade to `room`; how many it took.
    pub(super) fn run_pending_upgrade(&self, room: RoomNum) -> Result<usize, Error> {
        let mut batches = 0;
        while self.tx.pending_upgrades()?.has(room)? {
            room_data::run_batch(self.tx, &self.local, now(), room)?;
            batches += 1;
        }
        Ok(batches)
    }
}

/// Asserts that `result` is [`Error::Forbidden`].
#[track_caller]
pub(super) fn refused(result: Result<(), Error>) {
    assert!(matches!(result, Err(Error::Forbidden(_))), "{result:?}");
}

fn own(user: &Actor, membership: MembershipState) -> MembershipChange {
    MembershipChange::new(&user.id, membership, None)
}
