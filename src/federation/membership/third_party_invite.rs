//! Third-party invites (server-server API, "Third-party invites"): somebody was invited by an address,
//! and an identity server says which user has that address.
//!
//! - `PUT /3pid/onbind` from the identity server to the server of the invited user: that server
//!   requests the invitation from the server of the inviter ([`MembershipClient::bind_invite`]).
//! - `PUT /exchange_third_party_invite` to the server of the inviter: that server makes the invite event
//!   ([`MembershipClient::exchange_invite`]).

use std::time::Duration;

use ruma::{
    OwnedUserId, ServerName,
    api::federation::thirdparty::{bind_callback, exchange_invite},
    events::{
        StateEventType,
        room::member::{MembershipState, RoomMemberEventContent, SignedContent, ThirdPartyInvite},
    },
    serde::Raw,
};
use serde::Deserialize;

use super::{client::MembershipClient, error::Error};
use crate::{
    federation::{Limits, SendError},
    rooms::{
        self, Actor,
        membership::{change::MembershipChange, moderation},
        room,
        state::content,
    },
    store::{Reader, RoomNum, Tx},
    users,
};

const EXCHANGE_LIMITS: Limits = Limits {
    timeout: Duration::from_secs(10),
    max_bytes: 64 * 1024,
};

impl MembershipClient {
    /// Invites a user of `origin` in the name of the local user who invited them by address.
    ///
    /// # Errors
    /// [`rooms::Error::Invalid`] if the event is not a third-party invite; [`rooms::Error::UnknownRoom`]
    /// or [`rooms::Error::NotFound`] if there is no such third-party invite; [`rooms::Error::Forbidden`]
    /// if the room does not allow it or it is for another user; [`Error::Peer`] if `origin` refuses.
    pub async fn exchange_invite(
        &self,
        origin: &ServerName,
        request: &exchange_invite::v1::Request,
    ) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Content {
            membership: MembershipState,
            third_party_invite: Signed,
        }
        #[derive(Deserialize)]
        struct Signed {
            signed: Raw<SignedContent>,
        }
        let invalid = || rooms::Error::invalid("the event is not a third-party invite");
        let content: Content = request
            .content
            .deserialize_as_unchecked()
            .map_err(|_| invalid())?;
        let is_invite = request.kind == StateEventType::RoomMember
            && content.membership == MembershipState::Invite;
        if !is_invite {
            return Err(invalid().into());
        }
        let (target, signed) = (&request.state_key, content.third_party_invite.signed);
        if target.server_name() != origin {
            let error = format!("state_key is {target}, expected a user of {origin}");
            return Err(rooms::Error::forbidden(error).into());
        }
        let (actor, content) = self.0.store.read(|s| {
            let room = self
                .0
                .receiver
                .server_acls()
                .open_to(s, &request.room_id, origin)?;
            let actor = self.inviter(s, &request.sender)?;
            Ok::<_, rooms::Error>((actor, invite_content(s, room, target, signed)?))
        })?;
        let change = MembershipChange::with_content(target, &content)?;
        self.invite(&actor, &request.room_id, &change).await
    }

    /// Invites the local user `invite.mxid`, who has the invited address according to an identity
    /// server: here if the inviter is a local user too, else through the server of the inviter.
    ///
    /// # Errors
    /// As [`exchange_invite`](Self::exchange_invite).
    pub async fn bind_invite(
        &self,
        invite: bind_callback::v1::ThirdPartyInvite,
    ) -> Result<(), Error> {
        let (store, local) = (&self.0.store, &self.0.local);
        let target = invite.mxid.clone();
        store.read(|s| moderation::check_invitee(s, local, &invite.sender, &target))?;
        if !local.has(&invite.sender) {
            let server = invite.sender.server_name().to_owned();
            // The inviter's server replaces it by the display name of its third-party invite event.
            let display_name = target.localpart().to_owned();
            let content = ThirdPartyInvite::new(display_name, invite.signed);
            let request = exchange_invite::v1::Request::with_third_party_invite(
                invite.room_id,
                invite.sender,
                target,
                content,
            );
            let request = request.map_err(|_| rooms::Error::invalid("signed is invalid"))?;
            let client = &self.0.client;
            client
                .send_with_limits(&server, request, EXCHANGE_LIMITS)
                .await?;
            return Ok(());
        }
        let actor = store.read(|s| self.inviter(s, &invite.sender))?;
        let policy_servers = &self.0.source.policy_servers;
        let sender = local.clone();
        let job = move |tx: &Tx| {
            let room = room::num(tx, &invite.room_id)?;
            let content = invite_content(tx, room, &target, invite.signed.clone())?;
            MembershipChange::with_content(&target, &content)?.send(tx, &sender, room, &actor)
        };
        let written = policy_servers.write_signed(store, local, job).await;
        written.map(drop).map_err(|error| match error {
            SendError::Rooms(error) => error.into(),
            SendError::Unsigned(error) => error.into(),
            SendError::Busy => rooms::Error::Stale.into(),
        })
    }

    fn inviter(&self, r: &impl Reader, id: &OwnedUserId) -> Result<Actor, rooms::Error> {
        let num = users::num_of(r, id)?.filter(|_| self.0.local.has(id));
        Ok(Actor {
            num: num.ok_or(NOT_INVITED)?,
            id: id.clone(),
            now: self.0.clock.timestamp(),
        })
    }
}

const NOT_INVITED: rooms::Error = rooms::Error::NotFound("there is no such third-party invite");

/// The content of the invite event. The authorization rules check the signature.
fn invite_content(
    r: &impl Reader,
    room: RoomNum,
    target: &OwnedUserId,
    signed: Raw<SignedContent>,
) -> Result<RoomMemberEventContent, rooms::Error> {
    #[derive(Deserialize)]
    struct ThirdPartyInviteContent {
        #[serde(default)]
        display_name: String,
    }
    let parsed = signed.deserialize();
    let parsed = parsed.map_err(|_| rooms::Error::invalid("signed is invalid"))?;
    if parsed.mxid != *target {
        let found = &parsed.mxid;
        let error = format!("signed.mxid is {found}, expected {target}");
        return Err(rooms::Error::forbidden(error));
    }
    let kind = StateEventType::RoomThirdPartyInvite;
    let invite: Option<ThirdPartyInviteContent> = content::current(r, room, &kind, &parsed.token)?;
    let invite = invite.ok_or(NOT_INVITED)?;
    let mut content = RoomMemberEventContent::new(MembershipState::Invite);
    content.third_party_invite = Some(ThirdPartyInvite::new(invite.display_name, signed));
    Ok(content)
}
