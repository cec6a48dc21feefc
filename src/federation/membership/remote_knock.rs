//! Knocking over federation (server-server API, "Knocking upon a room"):
//!
//! 1. `GET /make_knock` gives a template;
//! 2. `PUT /send_knock` takes the signed event and gives some stripped state of the room.

use ruma::{
    OwnedServerName, RoomId, ServerName,
    api::federation::membership::{create_knock_event, prepare_knock_event},
};

use super::{
    client::{MembershipClient, MembershipRequest, raw_json},
    error::Error,
    stripped_event,
};
use crate::{
    protocol::{receive::Received, versions},
    rooms::{
        Actor, blocked_rooms,
        membership::{change::MembershipChange, out_of_band},
        room,
    },
    store::Tx,
};

impl MembershipClient {
    /// Knocks on the room through the first of `servers` that accepts it.
    pub async fn knock(
        &self,
        actor: &Actor,
        room: &RoomId,
        servers: Vec<OwnedServerName>,
        change: &MembershipChange,
    ) -> Result<(), Error> {
        self.0.store.read(|s| blocked_rooms::check(s, room))?;
        let client = self.clone();
        let request = MembershipRequest::new(actor, room, change);
        self.run_to_completion(actor, async move {
            let _permit = client.permit(&request.actor).await;
            let _room_lock = client.lock_room(&request.room).await;
            let attempt = |server| client.knock_via(&request, server);
            client.try_servers(&request, servers, attempt).await
        })
        .await
    }

    async fn knock_via(
        &self,
        knock: &MembershipRequest,
        server: OwnedServerName,
    ) -> Result<(), Error> {
        let (actor, room) = (&knock.actor, &knock.room);
        let server: &ServerName = &server;
        // Step 1.
        let mut request = prepare_knock_event::v1::Request::new(room.clone(), actor.id.clone());
        request.ver = versions::SUPPORTED.to_vec();
        let template = self.0.client.send(server, request).await?;
        let version = template.room_version;
        self.check_room_version(room, &version)?;
        let rules = room::rules_of(&version)?;
        let built = self.sign(&template.event, &self.draft(knock)?, rules)?;
        // Step 2.
        let (id, pdu) = (built.pdu.event_id().to_owned(), raw_json(&built.json)?);
        let request = create_knock_event::v1::Request::new(room.clone(), id, pdu);
        let response = self.0.client.send(server, request).await?;
        let stripped_state = stripped_event::visible_to_clients(
            &self.0.receiver,
            &self.0.local,
            room,
            rules,
            &response.knock_room_state,
            None,
        );
        let knock = out_of_band::from_stripped_state(server, &version, stripped_state.await);
        let (event, room) = (Received::from(built), room.clone());
        let job = move |tx: &Tx| out_of_band::store(tx, &room, &event, &knock);
        Ok(self.0.store.write(job).await?)
    }
}
