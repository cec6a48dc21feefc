//! Which servers a room lets take part: [server access control lists].
//!
//! [server access control lists]: https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls

use ruma::{
    ServerName,
    events::{StateEventType, room::server_acl::RoomServerAclEventContent},
};

use super::{Error, content};
use crate::store::{Reader, RoomNum};

/// Whether the room's access control list lets `server` take part in it. A room without one lets
/// everybody.
pub fn allows(r: &impl Reader, room: RoomNum, server: &ServerName) -> Result<bool, Error> {
    let list: Option<RoomServerAclEventContent> =
        content::current(r, room, &StateEventType::RoomServerAcl, "")?;
    Ok(list.is_none_or(|list| list.is_allowed(server)))
}
