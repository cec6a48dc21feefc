use std::sync::Arc;

use ruma::RoomId;
use smol::lock::MutexGuardArc;

use super::event_source::EventSource;
use crate::{
    federation::keyed_locks::KeyedLocks,
    protocol::receive::{Incoming, Received},
    rooms::{self, Local, servers::server_acl::ServerAcls},
    store::{RoomNum, Store},
};

/// Receives PDUs. The steps are methods in the files of this folder. Clones share one state.
pub struct PduReceiver<S>(Arc<Inner<S>>);

struct Inner<S> {
    store: Store,
    local: Local,
    server_acls: ServerAcls,
    source: S,
    room_locks: KeyedLocks<RoomNum>,
}

/// What happened to an accepted PDU.
#[derive(Debug)]
pub enum PduOutcome {
    /// It is stored, perhaps since earlier.
    Processed,
    /// It is in the room's queue until missing events are fetched.
    Queued(RoomNum),
}

impl<S> Clone for PduReceiver<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: EventSource> PduReceiver<S> {
    pub fn new(store: Store, local: Local, server_acls: ServerAcls, source: S) -> Self {
        Self(Arc::new(Inner {
            store,
            local,
            server_acls,
            source,
            room_locks: KeyedLocks::default(),
        }))
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(in crate::federation) fn server_acls(&self) -> &ServerAcls {
        &self.0.server_acls
    }

    pub(super) fn local(&self) -> &Local {
        &self.0.local
    }

    pub(in crate::federation) fn source(&self) -> &S {
        &self.0.source
    }

    /// Received events of a room are decided one at a time: by the holder of this lock.
    pub(in crate::federation) async fn lock_room(&self, room: RoomNum) -> MutexGuardArc<()> {
        self.0.room_locks.of(room).await
    }

    /// Performs steps 2 and 3 for an event that must belong to `room`.
    ///
    /// # Errors
    /// [`rooms::Error::Forbidden`] if a signature is missing or invalid; [`rooms::Error::Invalid`] if
    /// the event belongs to another room.
    pub(in crate::federation) async fn verify(
        &self,
        room: &RoomId,
        event: Incoming,
    ) -> Result<Received, rooms::Error> {
        match self.0.source.verify(vec![event]).await.pop() {
            Some(Ok(event)) if event.pdu.room_id() == room => Ok(event),
            Some(Ok(event)) => Err(wrong_room(event.pdu.room_id(), room)),
            Some(Err(error)) => Err(rooms::Error::forbidden(error.to_string())),
            None => Err(rooms::Error::Stale),
        }
    }
}

pub(super) fn wrong_room(found: &RoomId, expected: &RoomId) -> rooms::Error {
    rooms::Error::invalid(format!(
        "the event belongs to room {found}, expected {expected}"
    ))
}
