//! The server ACL of a room: [server access control lists].
//!
//! [server access control lists]: https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls

use std::{fmt, sync::Arc, time::Duration};

use ruma::{
    CanonicalJsonObject, RoomId, ServerName,
    events::{StateEventType, TimelineEventType},
};
use serde::Deserialize;

use super::in_room;
use crate::{
    cache::Cache,
    clock::Clock,
    protocol::{build::EventDraft, server_acl::ServerAcl},
    rooms::{Error, Local, room, state::current, stored_event},
    store::{EventNum, Reader, RoomNum, Snapshot},
};

/// Of ACLs in memory. One takes at most half of the bytes, since an event has at most 64 KiB.
const MAX_ACLS: usize = 1000;
const MAX_ACL_BYTES: usize = 1 << 20;
const ACL_TTL: Duration = Duration::from_hours(1);

/// The server ACLs of rooms. Each is parsed once. Clones share one cache.
///
/// They are read from snapshots only: the number that an event has in a transaction may be that of another
/// event later.
#[derive(Clone)]
pub struct ServerAcls(Arc<Cache<AclKey, Option<Arc<ServerAcl>>>>);

/// The event, and whether it is redacted.
type AclKey = (EventNum, bool);

impl fmt::Debug for ServerAcls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerAcls").finish_non_exhaustive()
    }
}

impl ServerAcls {
    pub fn new(clock: &Clock) -> Self {
        Self(Arc::new(Cache::with_max_bytes(
            clock,
            MAX_ACLS,
            MAX_ACL_BYTES,
        )))
    }

    /// Whether the room's server ACL allows `server`. Without an ACL every server is allowed.
    pub fn allow(&self, s: &Snapshot, room: RoomNum, server: &ServerName) -> Result<bool, Error> {
        let acl = self.of_room(s, room)?;
        Ok(acl.is_none_or(|acl| acl.allows(server)))
    }

    /// The room `id`, if this server is in it and its ACL allows `server`.
    ///
    /// # Errors
    /// [`Error::UnknownRoom`]; [`Error::Forbidden`].
    pub fn open_to(
        &self,
        s: &Snapshot,
        id: &RoomId,
        server: &ServerName,
    ) -> Result<RoomNum, Error> {
        let room = room::num(s, id)?;
        if !current::has_joined(s, room)? {
            return Err(Error::UnknownRoom);
        }
        if !self.allow(s, room, server)? {
            return Err(Error::forbidden(
                "the server ACL of the room denies your server",
            ));
        }
        Ok(room)
    }

    /// The room `id`, if this server and `server` are in it.
    ///
    /// # Errors
    /// [`Error::UnknownRoom`]; [`Error::Forbidden`].
    pub fn shared_with(
        &self,
        s: &Snapshot,
        id: &RoomId,
        server: &ServerName,
    ) -> Result<RoomNum, Error> {
        let room = self.open_to(s, id, server)?;
        if in_room::is_in(s, room, server)? {
            Ok(room)
        } else {
            Err(Error::forbidden("your server is not in this room"))
        }
    }

    pub(in crate::rooms) fn of_room(
        &self,
        s: &Snapshot,
        room: RoomNum,
    ) -> Result<Option<Arc<ServerAcl>>, Error> {
        let kind = StateEventType::RoomServerAcl.to_string();
        let Some(event) = current::get(s, room, &kind, "")? else {
            return Ok(None);
        };
        let key = (event, stored_event::header(s, event)?.redacted_by.is_some());
        if let Some(known) = self.0.get(&key) {
            return Ok(known);
        }
        let acl = load(s, event)?.map(Arc::new);
        let bytes = acl.as_ref().map_or(0, |acl| acl.memory());
        self.0.insert_sized(key, acl.clone(), bytes, ACL_TTL);
        Ok(acl)
    }
}

/// The ACL that an event sets; `None` if its content is not even an object.
fn load(r: &impl Reader, event: EventNum) -> Result<Option<ServerAcl>, Error> {
    #[derive(Deserialize)]
    struct WithContent {
        content: CanonicalJsonObject,
    }
    let event = stored_event::load(r, event)?.parse::<WithContent>();
    Ok(event.ok().map(|event| ServerAcl::parse(&event.content)))
}

/// Checks that `draft` is not an ACL that denies this server. NOTSPEC: as in Synapse, since nobody here
/// could use the room any more.
///
/// # Errors
/// [`Error::Invalid`].
pub(in crate::rooms) fn check(local: &Local, draft: &EventDraft) -> Result<(), Error> {
    let is_acl = draft.event_type == TimelineEventType::RoomServerAcl
        && draft.state_key.as_deref() == Some("");
    if is_acl && !ServerAcl::parse(&draft.content).allows(local.server_name()) {
        return Err(Error::invalid(format!(
            "this server ACL denies your own server, {}",
            local.server_name()
        )));
    }
    Ok(())
}
