//! Creation and upgrade of rooms (client-server API, "Creation" and "Room upgrades").

use ruma::{
    RoomId,
    api::client::room::{aliases as get_aliases, create_room, upgrade_room},
};

use crate::{
    api::{Api, Error, Session},
    pool::Kind,
    rooms::{
        create::{self, presets},
        directory::aliases,
        room,
        upgrade::{self, Upgrade},
    },
};

/// `POST /_matrix/client/v3/createRoom`
pub async fn create_room(
    api: Api,
    session: Session,
    request: create_room::v3::Request,
) -> Result<create_room::v3::Response, Error> {
    let (local, actor) = (api.local.clone(), api.actor(&session));
    let id = RoomId::new_v1(local.server_name());
    let (own, creator) = (local.clone(), actor.id.clone());
    // The initial state may have a megabyte.
    let plan = move || {
        let mut plan = presets::blueprint(&own, &creator, &request, id)?;
        let remote_invites = plan.extract_remote_invites(&own)?;
        Ok::<_, Error>((plan, remote_invites))
    };
    let (plan, remote_invites) = api.pool.run(Kind::Parse, plan).await??;
    let write = api
        .store
        .write(move |tx| create::build(tx, &local, &actor, &plan));
    let (_, room_id) = write.await?;
    let actor = api.actor(&session);
    let client = api.federation.membership_client();
    let mut failure = None;
    for change in remote_invites {
        let user = &change.target;
        if let Err(error) = client.invite(&actor, &room_id, &change).await {
            log::info!("{room_id} was created without the invite for {user}: {error}");
            failure = failure.or(Some(error));
        }
    }
    // NOTSPEC: as in Synapse the room exists, and its creator can invite again.
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(create_room::v3::Response::new(room_id)),
    }
}

/// `POST /_matrix/client/v3/rooms/{roomId}/upgrade`
pub async fn upgrade_room(
    api: Api,
    session: Session,
    request: upgrade_room::v3::Request,
) -> Result<upgrade_room::v3::Response, Error> {
    let (local, actor) = (api.local.clone(), api.actor(&session));
    let upgrade = Upgrade {
        id: RoomId::new_v1(local.server_name()),
        version: request.new_version,
        additional_creators: request.additional_creators,
    };
    let write = api.write_events(move |tx| {
        let old = room::num(tx, &request.room_id)?;
        upgrade::upgrade(tx, &local, &actor, old, &upgrade)
    });
    Ok(upgrade_room::v3::Response::new(write.await?))
}

/// `GET /_matrix/client/v3/rooms/{roomId}/aliases`
pub async fn aliases(
    api: Api,
    session: Session,
    request: get_aliases::v3::Request,
) -> Result<get_aliases::v3::Response, Error> {
    let actor = api.actor(&session);
    let aliases = api.store.read(|s| {
        let room = room::num(s, &request.room_id)?;
        aliases::visible_to(s, &actor, room)
    })?;
    Ok(get_aliases::v3::Response::new(aliases))
}
