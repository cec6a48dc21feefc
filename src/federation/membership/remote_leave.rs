//! Leaving a room that this server is not in: rejecting an invitation or retracting a knock
//! (server-server API, "Leaving Rooms (Rejecting Invites)"):
//!
//! 1. `GET /make_leave` gives a template;
//! 2. `PUT /send_leave` takes the signed event;
//! 3. if no server answers in time, the local membership changes, and the server is notified when it
//!    answers again.

use std::time::Duration;

use ruma::{
    OwnedServerName, RoomId,
    api::federation::membership::{create_leave_event, prepare_leave_event},
    room_version_rules::RoomVersionRules,
};

use super::{
    client::{MembershipClient, MembershipRequest, raw_json},
    error::Error,
};
use crate::{
    federation::transport::connect::with_timeout,
    protocol::receive::Received,
    rooms::{
        self, Actor,
        membership::{change::MembershipChange, out_of_band, pending_leaves},
        room,
    },
    store::{Reader, RoomNum, Tx},
};

/// After this time the user leaves, and the other server is notified later.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A local user's membership in a room that this server is not in.
struct LeaveTarget {
    room: RoomNum,
    rules: &'static RoomVersionRules,
    /// The servers that may accept the leave event.
    servers: Vec<OwnedServerName>,
}

impl MembershipClient {
    /// Whether `actor` is invited to the room or knocks on it, and this server is not in it.
    pub fn is_out_of_band(&self, actor: &Actor, room: &RoomId) -> Result<bool, rooms::Error> {
        self.0.store.read(|s| match room::num(s, room) {
            Ok(num) => Ok(out_of_band::load(s, actor.num, num)?.is_some()),
            Err(rooms::Error::UnknownRoom) => Ok(false),
            Err(error) => Err(error),
        })
    }

    /// Rejects the invitation to the room or retracts the knock on it.
    ///
    /// # Errors
    /// [`rooms::Error::Forbidden`] if there is none. That no server answers is not an error: it is notified
    /// later.
    pub async fn leave(
        &self,
        actor: &Actor,
        room: &RoomId,
        change: &MembershipChange,
    ) -> Result<(), Error> {
        let client = self.clone();
        let request = MembershipRequest::new(actor, room, change);
        self.run_to_completion(actor, async move {
            let _permit = client.permit(&request.actor).await;
            let _room_lock = client.lock_room(&request.room).await;
            client.leave_in_time(&request).await
        })
        .await
    }

    async fn leave_in_time(&self, request: &MembershipRequest) -> Result<(), Error> {
        let load = |s: &_| LeaveTarget::load(s, &request.actor, &request.room);
        let left = &self.0.store.read(load)?;
        let attempt = |server| self.leave_via(request, left, server);
        let attempts = self.try_servers(request, left.servers.clone(), attempt);
        let reason = match with_timeout(LEAVE_TIMEOUT, attempts).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Error::Rooms(error @ rooms::Error::Store(_)))) => return Err(error.into()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no server answers".to_owned(),
        };
        log::info!(
            "{request}: it is only local for now, since no other server accepts it: {reason}"
        );
        // Step 3.
        let (local, actor) = (self.0.local.clone(), request.actor.clone());
        let (room, change) = (left.room, request.change.clone());
        let job = move |tx: &Tx| pending_leaves::leave(tx, &local, &actor, room, &change);
        Ok(self.0.store.write(job).await?)
    }

    async fn leave_via(
        &self,
        leave: &MembershipRequest,
        left: &LeaveTarget,
        server: OwnedServerName,
    ) -> Result<(), Error> {
        let (user, room) = (&leave.actor.id, &leave.room);
        // Step 1.
        let request = prepare_leave_event::v1::Request::new(room.clone(), user.clone());
        let template = self.0.client.send(&server, request).await?;
        let built = self.sign(&template.event, &self.draft(leave)?, left.rules)?;
        // Step 2.
        let (id, pdu) = (built.pdu.event_id().to_owned(), raw_json(&built.json)?);
        let request = create_leave_event::v2::Request::new(room.clone(), id, pdu);
        self.0.client.send(&server, request).await?;
        let (room, event) = (left.room, Received::from(built));
        let job = move |tx: &Tx| out_of_band::end(tx, room, &event);
        self.0.store.write(job).await?;
        Ok(())
    }
}

impl LeaveTarget {
    fn load(r: &impl Reader, actor: &Actor, room: &RoomId) -> Result<Self, rooms::Error> {
        let not_found =
            || rooms::Error::forbidden("you are neither invited to this room nor knocking on it");
        let num = room::num(r, room)?;
        let row = out_of_band::load(r, actor.num, num)?.ok_or_else(not_found)?;
        let (event, rules) = out_of_band::load_event(r, actor.num, num, &row)?;
        let mut servers = vec![event.sender().server_name().to_owned()];
        servers.extend(OwnedServerName::try_from(row.server).ok());
        Ok(Self {
            room: num,
            rules,
            servers,
        })
    }
}
