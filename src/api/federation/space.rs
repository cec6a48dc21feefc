//! Spaces, for other servers.

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
    },
    store::Reader,
};

/// `GET /_matrix/federation/v1/hierarchy/{roomId}`
pub async fn get_hierarchy(
    api: Api,
    who: Origin,
    request: get_hierarchy::v1::Request,
) -> Result<get_hierarchy::v1::Response, Error> {
    let scan = api.store.scan("a space for another server", move |s| {
        hierarchy(s, &request, &who.server)
    });
    Ok(scan.await?)
}

fn hierarchy(
    r: &impl Reader,
    request: &get_hierarchy::v1::Request,
    server: &ServerName,
) -> Result<get_hierarchy::v1::Response, rooms::Error> {
    let Known::Shown(room) = look(r, &request.room_id, server)? else {
        return Err(rooms::Error::NotFound(
            "there is no such room for your server",
        ));
    };
    let num = room::num(r, &request.room_id)?;
    let children = spaces::children(r, num, request.suggested_only)?;
    let (ids, events): (Vec<OwnedRoomId>, Vec<_>) = children
        .into_iter()
        .map(|child| (child.room_id, child.event))
        .unzip();
    let mut response =
        get_hierarchy::v1::Response::new(SpaceHierarchyParentSummary::new(*room, events));
    for id in ids {
        match look(r, &id, server)? {
            Known::Shown(room) => response.children.push(*room),
            Known::Hidden => response.inaccessible_children.push(id),
            Known::Not => {}
        }
    }
    Ok(response)
}

/// What this server knows of a room.
enum Known {
    Shown(Box<RoomSummary>),
    Hidden,
    Not,
}

fn look(r: &impl Reader, id: &RoomId, server: &ServerName) -> Result<Known, rooms::Error> {
    let Some(room) = spaces::joined_room(r, id)? else {
        return Ok(Known::Not);
    };
    let told = summary::of(r, room)?;
    if spaces::is_accessible_to_server(r, room, &told, server)? {
        Ok(Known::Shown(Box::new(told)))
    } else {
        Ok(Known::Hidden)
    }
}
