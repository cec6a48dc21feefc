//! Space hierarchies, for other servers (server-server API, "Spaces").

use ruma::{
    OwnedRoomId, RoomId, ServerName,
    api::federation::space::{SpaceHierarchyParentSummary, get_hierarchy},
    room::RoomSummary,
};

use crate::{
    api::{Api, Error, Origin},
    rooms::{
        self,
        directory::{spaces, summary},
        room,
        servers::server_acl::ServerAcls,
    },
    store::Snapshot,
};

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
pub async fn get_hierarchy(
    api: Api,
    origin: Origin,
    request: get_hierarchy::v1::Request,
) -> Result<get_hierarchy::v1::Response, Error> {
    let server_acls = api.federation.server_acls().clone();
    let scan = api.store.scan("a space for another server", move |s| {
        hierarchy(s, &server_acls, &request, &origin.server)
    });
    Ok(scan.await?)
}

fn hierarchy(
    s: &Snapshot,
    server_acls: &ServerAcls,
    request: &get_hierarchy::v1::Request,
    server: &ServerName,
) -> Result<get_hierarchy::v1::Response, rooms::Error> {
    let Access::Accessible(room) = access(s, server_acls, &request.room_id, server)? else {
        return Err(rooms::Error::NotFound(
            "the room does not exist, or your server may not see it",
        ));
    };
    let num = room::num(s, &request.room_id)?;
    let children = spaces::children(s, num, request.suggested_only)?;
    let (ids, events): (Vec<OwnedRoomId>, Vec<_>) = children
        .into_iter()
        .map(|child| (child.room_id, child.event))
        .unzip();
    let mut response =
        get_hierarchy::v1::Response::new(SpaceHierarchyParentSummary::new(*room, events));
    let mut bytes = 0;
    for id in ids {
        match access(s, server_acls, &id, server)? {
            // Of what is left out, the other server requests the summary when it needs it.
            Access::Accessible(_) if bytes > summary::MAX_PAGE_BYTES => {}
            Access::Accessible(room) => {
                bytes += summary::size(&*room);
                response.children.push(*room);
            }
            Access::Inaccessible => response.inaccessible_children.push(id),
            Access::UnknownRoom => {}
        }
    }
    Ok(response)
}

enum Access {
    Accessible(Box<RoomSummary>),
    Inaccessible,
    UnknownRoom,
}

fn access(
    s: &Snapshot,
    server_acls: &ServerAcls,
    id: &RoomId,
    server: &ServerName,
) -> Result<Access, rooms::Error> {
    let Some(room) = spaces::joined_room(s, id)? else {
        return Ok(Access::UnknownRoom);
    };
    let summary = summary::of(s, room)?;
    if spaces::is_accessible_to_server(s, server_acls, room, &summary, server)? {
        Ok(Access::Accessible(Box::new(summary)))
    } else {
        Ok(Access::Inaccessible)
    }
}
