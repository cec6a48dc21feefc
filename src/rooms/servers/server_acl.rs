//! The server ACL of a room: [server access control lists].
//!
//! [server access control lists]: https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls

use ruma::{
    RoomId, ServerName,
    events::{StateEventType, room::server_acl::RoomServerAclEventContent},
};

use super::in_room;
use crate::{
    rooms::{
        Error, room,
        state::{content, current},
    },
    store::{Reader, RoomNum},
};

/// Whether the room's server ACL allows `server`. Without an ACL every server is allowed.
pub fn allows(r: &impl Reader, room: RoomNum, server: &ServerName) -> Result<bool, Error> {
    let list: Option<RoomServerAclEventContent> =
        content::current(r, room, &StateEventType::RoomServerAcl, "")?;
    Ok(list.is_none_or(|list| list.is_allowed(server)))
}

/// The room `id`, if this server is in it and its ACL allows `server`.
///
/// # Errors
/// [`Error::UnknownRoom`]; [`Error::Forbidden`].
pub fn open_to(r: &impl Reader, id: &RoomId, server: &ServerName) -> Result<RoomNum, Error> {
    let room = room::num(r, id)?;
    if !current::has_joined(r, room)? {
        return Err(Error::UnknownRoom);
    }
    if !allows(r, room, server)? {
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
pub fn shared_with(r: &impl Reader, id: &RoomId, server: &ServerName) -> Result<RoomNum, Error> {
    let room = open_to(r, id, server)?;
    if in_room::is_in(r, room, server)? {
        Ok(room)
    } else {
        Err(Error::forbidden("your server is not in this room"))
    }
}
