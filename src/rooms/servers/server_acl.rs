//! The server ACL of a room: [server access control lists].
//!
//! [server access control lists]: https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomId, ServerName,
    events::{StateEventType, TimelineEventType, room::server_acl::RoomServerAclEventContent},
};

use super::in_room;
use crate::{
    protocol::build::EventDraft,
    rooms::{
        Error, Local, room,
        state::{content, current},
    },
    store::{Reader, RoomNum},
};

/// Whether the room's server ACL allows `server`. Without an ACL every server is allowed.
pub fn allows(r: &impl Reader, room: RoomNum, server: &ServerName) -> Result<bool, Error> {
    let content: Option<CanonicalJsonObject> =
        content::current(r, room, &StateEventType::RoomServerAcl, "")?;
    Ok(content.is_none_or(|content| parse(&content).is_allowed(server)))
}

/// The ACL without what is malformed in it. NOTSPEC: as in Synapse, an entry that is no string is
/// skipped, and another field of a wrong type counts as missing: so the rest holds.
fn parse(content: &CanonicalJsonObject) -> RoomServerAclEventContent {
    let allow_ip_literals = match content.get("allow_ip_literals") {
        Some(CanonicalJsonValue::Bool(allow)) => *allow,
        _ => true,
    };
    let patterns = |field| match content.get(field) {
        Some(CanonicalJsonValue::Array(entries)) => entries
            .iter()
            .filter_map(|entry| Some(entry.as_str()?.to_owned()))
            .collect(),
        _ => Vec::new(),
    };
    RoomServerAclEventContent::new(allow_ip_literals, patterns("allow"), patterns("deny"))
}

/// Checks that `draft` is not an ACL that denies this server. NOTSPEC: as in Synapse, since nobody here
/// could use the room any more.
///
/// # Errors
/// [`Error::Invalid`].
pub(in crate::rooms) fn check(local: &Local, draft: &EventDraft) -> Result<(), Error> {
    let is_acl = draft.event_type == TimelineEventType::RoomServerAcl
        && draft.state_key.as_deref() == Some("");
    if is_acl && !parse(&draft.content).is_allowed(local.server_name()) {
        return Err(Error::invalid(format!(
            "this server ACL denies your own server, {}",
            local.server_name()
        )));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use ruma::{canonical_json::to_canonical_value, server_name};
    use serde_json::{Value, json};

    use super::*;

    fn allows(content: Value, server: &ServerName) -> bool {
        match to_canonical_value(content).expect("canonical JSON") {
            CanonicalJsonValue::Object(content) => parse(&content).is_allowed(server),
            _ => panic!("not an object"),
        }
    }

    #[test]
    fn malformed_entries_of_an_acl_are_skipped_and_the_others_hold() {
        let (good, evil) = (server_name!("good.example"), server_name!("evil.example"));
        for odd in [json!(1), json!(null), json!({}), json!(["evil.example"])] {
            let acl = json!({ "allow": [odd, "*"], "deny": [odd, "evil.*"] });
            assert!(allows(acl.clone(), good) && !allows(acl, evil));
            let acl = json!({ "allow": ["*"], "deny": odd, "allow_ip_literals": odd });
            assert!(allows(acl.clone(), good) && allows(acl, server_name!("1.2.3.4")));
            assert!(!allows(json!({ "allow": odd }), good));
        }
    }
}
