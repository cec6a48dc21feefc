//! Getting into a room, or out of one, through a server that is in it.
//!
//! Source: server-server API, "Joining Rooms", "Leaving Rooms", "Knocking upon a room".

use std::{
    collections::HashSet,
    iter, mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ruma::{
    EventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, ServerName,
    api::{
        OutgoingRequest,
        federation::{
            event::get_room_state,
            membership::{create_join_event, prepare_join_event},
        },
        path_builder::SinglePath,
    },
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};
use serde_json::value::{RawValue, to_raw_value};
use smol::channel;

use super::remote_leave::Outside;
use crate::{
    clock::Clock,
    executor::Executor,
    federation::{
        Client, Error as Fault, Limits,
        inbound::{self, Fetch, Given, Receiver, Room, ask::RemoteEventSource, new_file},
        locks::Locks,
        transport::client::Signed,
    },
    protocol::{
        build::{BuiltEvent, EventDraft, build_from_template, canonical_content},
        receive::{Incoming, Received},
        versions,
    },
    rooms::{
        self, Actor, Local,
        event::{self, import},
        membership::change::MembershipChange,
        room,
        upgrade::user_data,
    },
    store::{EventNum, Reader, RoomNum, Rows, Store, Tx, records::Membership},
};

/// How many servers are asked to let somebody in.
const SERVERS: usize = 5;
/// What an answer with the whole state of a room may take.
const WHOLE_ROOM: Limits = Limits {
    time: Duration::from_mins(5),
    size: 256 * 1024 * 1024,
};
/// Rooms share so many locks.
const LOCKS: usize = 16;

/// Why somebody did not get in or out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another server, and no other did.
    #[error(transparent)]
    Peer(#[from] Fault),
    /// This server.
    #[error(transparent)]
    Rooms(#[from] rooms::Error),
}

impl From<crate::store::Error> for Error {
    fn from(error: crate::store::Error) -> Self {
        Self::Rooms(error.into())
    }
}

impl From<inbound::Error> for Error {
    fn from(error: inbound::Error) -> Self {
        match error {
            inbound::Error::Rooms(error) => error.into(),
            inbound::Error::Unreadable(error) => nonsense(error),
            inbound::Error::Missing => nonsense("it leaves out what authorizes its state"),
        }
    }
}

pub(in crate::federation) fn nonsense(error: impl ToString) -> Error {
    Error::Peer(Fault::Nonsense(error.to_string().into()))
}

/// What a local user wants of a room that this server is not in, or not any more.
pub(in crate::federation) struct Request {
    pub(in crate::federation) actor: Actor,
    pub(in crate::federation) room: OwnedRoomId,
    reason: Option<String>,
    deed: Action,
}

pub(in crate::federation) enum Action {
    Join,
    Knock,
    Leave(Arc<Outside>),
}

impl Request {
    pub(in crate::federation) fn new(
        actor: &Actor,
        room: &RoomId,
        reason: Option<String>,
        deed: Action,
    ) -> Self {
        Self {
            actor: actor.clone(),
            room: room.to_owned(),
            reason,
            deed,
        }
    }
}

/// Who gets people in, and out. Clones are the same.
#[derive(Clone)]
pub struct MembershipClient(pub(in crate::federation) Arc<Parts>);

pub(in crate::federation) struct Parts {
    pub(in crate::federation) store: Store,
    pub(in crate::federation) local: Local,
    clock: Clock,
    /// Where what is too large for the memory is put for a while.
    directory: PathBuf,
    pub(in crate::federation) client: Client,
    asker: RemoteEventSource,
    receiver: Receiver<RemoteEventSource>,
    executor: Executor,
    /// One gets into a room at a time.
    locks: Locks<LOCKS>,
}

impl MembershipClient {
    pub(in crate::federation) fn new(
        (store, local): (&Store, &Local),
        clock: &Clock,
        (asker, receiver): (&RemoteEventSource, &Receiver<RemoteEventSource>),
        executor: &Executor,
        directory: &Path,
    ) -> Self {
        Self(Arc::new(Parts {
            directory: directory.to_owned(),
            store: store.clone(),
            local: local.clone(),
            clock: clock.clone(),
            client: asker.client.clone(),
            asker: asker.clone(),
            receiver: receiver.clone(),
            executor: executor.clone(),
            locks: Locks::default(),
        }))
    }

    /// Joins `actor` to the room through the first of `servers` that lets them in. Goes on to its
    /// end even if the caller does not wait.
    ///
    /// # Errors
    /// What the last of them said, or that the room is unknown if there is none.
    pub async fn join(
        &self,
        actor: &Actor,
        room: &RoomId,
        servers: Vec<OwnedServerName>,
        reason: Option<String>,
    ) -> Result<(), Error> {
        let (client, wish) = (
            self.clone(),
            Request::new(actor, room, reason, Action::Join),
        );
        self.to_its_end(async move { client.through(&wish, servers).await })
            .await
    }

    /// Does something even if the caller stops waiting for it.
    pub(in crate::federation) async fn to_its_end(
        &self,
        deed: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> Result<(), Error> {
        let (done, result) = channel::bounded(1);
        let task = self.0.executor.spawn(async move {
            // Nobody may be waiting any more.
            let _ = done.try_send(deed.await);
        });
        task.detach();
        result
            .recv()
            .await
            .unwrap_or(Err(Error::Rooms(rooms::Error::Stale)))
    }

    /// Fulfils a wish through the first of `servers` with which that works.
    pub(in crate::federation) async fn through(
        &self,
        wish: &Request,
        servers: Vec<OwnedServerName>,
    ) -> Result<(), Error> {
        let room = &wish.room;
        let _one = self.0.locks.of(room).await;
        let mut failure = Error::Rooms(rooms::Error::UnknownRoom);
        let mut seen = HashSet::new();
        let others = servers
            .into_iter()
            .filter(|server| self.0.client.may_contact(server) && seen.insert(server.clone()));
        for server in others.take(SERVERS) {
            let done = match &wish.deed {
                Action::Join => self.join_via(wish, &server).await,
                Action::Knock => self.knock_via(wish, &server).await,
                Action::Leave(outside) => self.leave_via(wish, outside, &server).await,
            };
            match done {
                Ok(()) => return Ok(()),
                Err(error @ Error::Rooms(rooms::Error::Store(_))) => return Err(error),
                Err(error) => {
                    log::info!("room {room}, through {server}: {error}");
                    // A server that says why counts more than one that is not there.
                    let says_why = matches!(&failure, Error::Peer(fault) if fault.kind().is_some());
                    if !says_why {
                        failure = error;
                    }
                }
            }
        }
        Err(failure)
    }

    async fn join_via(&self, wish: &Request, server: &ServerName) -> Result<(), Error> {
        let Request { actor, room, .. } = wish;
        let mut request = prepare_join_event::v1::Request::new(room.clone(), actor.id.clone());
        request.ver = versions::SUPPORTED.to_vec();
        let template = self.0.client.send(server, request).await?;
        let version = template.room_version.unwrap_or(RoomVersionId::V1);
        let rules = room::rules_of(&version)?;
        let draft = self.draft(wish).await?;
        let built = self.sign(&template.event, &draft, rules)?;
        let raw = raw(&built.json)?;
        let id = built.pdu.event_id().to_owned();
        let mut request = create_join_event::v2::Request::new(room.clone(), id.clone(), raw);
        request.omit_members = true;
        let mut given = self.given(server, request, rules).await?;
        if given.members_omitted {
            let whole = self.whole(server, &given, (room, &id), rules).await?;
            let reduced = mem::replace(&mut given, whole);
            given.event = reduced.event;
        }
        let num = self.room(room, &version).await?;
        let room = Room {
            num,
            id: room.clone(),
            rules,
        };
        let fetch = Fetch {
            store: &self.0.store,
            peers: &self.0.asker,
            room: &room,
            server: server.to_owned(),
        };
        // A server that vouches for the user has signed the event too.
        let join = self.joined(&fetch, built, given.event.clone()).await?;
        fetch.keep_all(&given).await?;
        fetch.authorities(std::slice::from_ref(&join)).await?;
        if self.is_resident(&room.id)? {
            return self.join_here(actor, fetch, join).await;
        }
        self.take_over(actor, num, &given.state, join).await
    }

    /// Works in a join of a room that is here, for which another server vouches: what the room's state
    /// is, is for this server to judge.
    async fn join_here(
        &self,
        actor: &Actor,
        fetch: Fetch<'_, RemoteEventSource>,
        join: Received,
    ) -> Result<(), Error> {
        let room = fetch.room;
        let receiver = &self.0.receiver;
        receiver.complete(room, fetch.server, join).await?;
        let membership = self
            .0
            .store
            .read(|s| rooms::state::current::membership(s, room.num, &actor.id))?;
        if membership != Membership::Join {
            return Err(rooms::Error::forbidden("the room does not let you in").into());
        }
        let (user, room) = (actor.num, room.num);
        let job = move |tx: &Tx| user_data::copy(tx, user, room);
        Ok(self.0.store.write(job).await?)
    }

    /// The state before the event by which the user joined, with all members: from `server`, which
    /// has answered sooner without them, or from another that is in the room.
    async fn whole(
        &self,
        server: &ServerName,
        given: &Given,
        (room, join): (&RoomId, &EventId),
        rules: &'static RoomVersionRules,
    ) -> Result<Given, Error> {
        let others = given.servers.iter().map(|server| &**server);
        let others = others.filter(|other| *other != server && self.0.client.may_contact(other));
        let mut failure = Error::Rooms(rooms::Error::UnknownRoom);
        for server in iter::once(server).chain(others).take(SERVERS) {
            let request = get_room_state::v1::Request::new(join.to_owned(), room.to_owned());
            match self.given(server, request, rules).await {
                Ok(whole) => return Ok(whole),
                Err(error) => {
                    log::info!("room {room}, its state from {server}: {error}");
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    /// What `server` gives of a room.
    async fn given<R>(
        &self,
        server: &ServerName,
        request: R,
        rules: &'static RoomVersionRules,
    ) -> Result<Given, Error>
    where
        R: OutgoingRequest<PathBuilder = SinglePath>,
        R::Authentication: Signed,
    {
        let directory = self.0.directory.clone();
        let file = new_file(&directory).map_err(Fault::disk)?;
        let answer = (file, WHOLE_ROOM);
        let answer = self.0.client.download(server, request, answer).await?;
        let read = move |_: &_| Given::read(answer, &directory, rules);
        let given = self.0.store.scan("a room that is given", read).await;
        given.map_err(nonsense)
    }

    /// The event that is wished for, as far as the room has no part in it.
    pub(in crate::federation) async fn draft(&self, wish: &Request) -> Result<EventDraft, Error> {
        let Request { actor, room, .. } = wish;
        let membership = match &wish.deed {
            Action::Join => MembershipState::Join,
            Action::Knock => MembershipState::Knock,
            Action::Leave(_) => MembershipState::Leave,
        };
        let comes = membership != MembershipState::Leave;
        let change = MembershipChange::new(&actor.id, membership, wish.reason.as_deref());
        let local = self.0.local.clone();
        let change = if comes {
            let job = move |tx: &Tx| change.clone().with_profile(tx, &local);
            self.0.store.write(job).await?
        } else {
            change
        };
        Ok(EventDraft {
            room_id: Some(room.clone()),
            sender: actor.id.clone(),
            event_type: TimelineEventType::from(StateEventType::RoomMember),
            state_key: Some(actor.id.to_string()),
            content: canonical_content(&change.content).map_err(rooms::Error::from)?,
            redacts: None,
        })
    }

    pub(in crate::federation) fn sign(
        &self,
        template: &RawValue,
        draft: &EventDraft,
        rules: &RoomVersionRules,
    ) -> Result<BuiltEvent, Error> {
        let now = self.0.clock.timestamp();
        build_from_template(template.get(), draft, now, rules, self.0.local.key()).map_err(nonsense)
    }

    /// The number of the room, which is noted now if it is not known.
    async fn room(&self, room: &RoomId, version: &RoomVersionId) -> Result<RoomNum, Error> {
        let (room, version) = (room.to_owned(), version.clone());
        let job = move |tx: &Tx| match room::num(tx, &room) {
            Err(rooms::Error::UnknownRoom) => room::make(tx, &room, &version),
            Ok(num) if room::record(tx, num)?.version != version.as_str() => Err(
                rooms::Error::forbidden("the other server has the room in another version"),
            ),
            num => num,
        };
        Ok(self.0.store.write(job).await?)
    }

    /// The event by which the user joined, with whatever signature it got on the way.
    async fn joined(
        &self,
        fetch: &Fetch<'_, RemoteEventSource>,
        built: BuiltEvent,
        signed: Option<Box<RawValue>>,
    ) -> Result<Received, Error> {
        if let Some(signed) = signed {
            let mut found = fetch.check(vec![signed]).await;
            found.retain(|event| event.pdu.event_id() == built.pdu.event_id());
            if let Some(event) = found.pop() {
                return Ok(event);
            }
        }
        let incoming = Incoming::parse(&built.json, fetch.room.rules).map_err(nonsense)?;
        if incoming.signers().map_err(nonsense)?.len() > 1 {
            return Err(nonsense("it has not signed the event for which it vouches"));
        }
        Ok(built.into())
    }

    /// Makes the room what the other server gave, with the user in it.
    async fn take_over(
        &self,
        actor: &Actor,
        room: RoomNum,
        state: &[ruma::OwnedEventId],
        join: Received,
    ) -> Result<(), Error> {
        let store = &self.0.store;
        let _room_lock = self.0.receiver.lock_room(room).await;
        let state = state.to_vec();
        let plan = store.scan("a room to take over", move |s| {
            let mut nums: Vec<EventNum> = Vec::new();
            for id in &state {
                nums.extend(event::num_in(s, room, id)?);
            }
            import::StateDiff::new(s, room, &nums)
        });
        for slice in plan.await?.batches() {
            let local = self.0.local.clone();
            let job = move |tx: &Tx| import::apply_batch(tx, &local, room, &slice);
            store.write(job).await?;
        }
        let (local, user) = (self.0.local.clone(), actor.num);
        let job = move |tx: &Tx| import::commit_join(tx, &local, room, (&join, user));
        Ok(store.write(job).await?)
    }

    /// Whether the room is one that this server has all of: somebody here is in it, or nobody else.
    pub fn is_resident(&self, room: &RoomId) -> Result<bool, rooms::Error> {
        self.0.store.read(|s| {
            let Some(num) = s.room_nums()?.get(room.as_str())?.map(|row| row.value()) else {
                return Ok(false);
            };
            if room::heads(s, num)?.extremities.is_empty() {
                return Ok(false);
            }
            Ok(rooms::state::current::has_joined(s, num)? || !rooms::servers::is_shared(s, num)?)
        })
    }
}

pub(in crate::federation) fn raw(json: &[u8]) -> Result<Box<RawValue>, Error> {
    let event: &RawValue = serde_json::from_slice(json).map_err(nonsense)?;
    to_raw_value(event).map_err(nonsense)
}
