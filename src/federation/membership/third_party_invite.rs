//! Invitations of somebody of whom no more was known than an address: they come true when an
//! identity server says whose it is.
//!
//! Source: server-server API, "Third-party invites".

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

use crate::{
    federation::{Federation, Limits, MembershipError as Error},
    rooms::{
        self, Actor,
        membership::{change::MembershipChange, moderation},
        room,
        state::{content, server_acl},
    },
    store::{Reader, RoomNum, Tx},
    users,
};

const LIMITS: Limits = Limits {
    time: Duration::from_secs(10),
    size: 64 * 1024,
};

impl Federation {
    /// Invites whom `origin` says was meant, one of its users, in the name of the user of this
    /// server who invited them by address.
    ///
    /// # Errors
    /// [`rooms::Error::Invalid`] if it is no such event; [`rooms::Error::UnknownRoom`] or
    /// [`rooms::Error::NotFound`] if nobody was invited so; [`rooms::Error::Forbidden`] if the room
    /// does not allow it, or it was somebody else; what `origin` says to the invitation.
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
        let invalid = || rooms::Error::invalid("that is no third-party invite");
        let asked: Content = request
            .content
            .deserialize_as_unchecked()
            .map_err(|_| invalid())?;
        let is_invite = request.kind == StateEventType::RoomMember
            && asked.membership == MembershipState::Invite;
        if !is_invite {
            return Err(invalid().into());
        }
        let (target, signed) = (&request.state_key, asked.third_party_invite.signed);
        if target.server_name() != origin {
            return Err(rooms::Error::forbidden("the invited user is not yours").into());
        }
        let (actor, content) = self.store.read(|s| {
            let room = server_acl::open_to(s, &request.room_id, origin)?;
            let actor = self.inviter(s, &request.sender)?;
            Ok::<_, rooms::Error>((actor, invitation(s, room, target, signed)?))
        })?;
        self.invite(&actor, &request.room_id, (target, content))
            .await
    }

    /// Invites a user of this server who an identity server says was meant by `invite`: here if
    /// the one who invited is here too, else through their server.
    ///
    /// # Errors
    /// As [`exchange_invite`](Self::exchange_invite), and what the other server says.
    pub async fn bound(&self, invite: bind_callback::v1::ThirdPartyInvite) -> Result<(), Error> {
        let target = invite.mxid.clone();
        self.store
            .read(|s| moderation::check_invitee(s, &self.local, &target))?;
        if !self.local.has(&invite.sender) {
            let server = invite.sender.server_name().to_owned();
            // The other server knows what name the one who invited gave.
            let name = target.localpart().to_owned();
            let content = ThirdPartyInvite::new(name, invite.signed);
            let request = exchange_invite::v1::Request::with_third_party_invite(
                invite.room_id,
                invite.sender,
                target,
                content,
            );
            let request = request.map_err(|_| rooms::Error::invalid("that is not signed"))?;
            self.client.send_within(&server, request, LIMITS).await?;
            return Ok(());
        }
        let actor = self.store.read(|s| self.inviter(s, &invite.sender))?;
        let local = self.local.clone();
        let job = move |tx: &Tx| {
            let room = room::num(tx, &invite.room_id)?;
            let content = invitation(tx, room, &target, invite.signed.clone())?;
            let change = MembershipChange {
                target: target.clone(),
                content,
            };
            change
                .with_profile(tx, &local)?
                .send(tx, &local, room, &actor)
        };
        Ok(self.store.write(job).await?)
    }

    /// The user of this server who has invited somebody.
    fn inviter(&self, r: &impl Reader, id: &OwnedUserId) -> Result<Actor, rooms::Error> {
        let num = users::num_of(r, id)?.filter(|_| self.local.has(id));
        Ok(Actor {
            num: num.ok_or(NOT_INVITED)?,
            id: id.clone(),
            now: self.clock.timestamp(),
        })
    }
}

const NOT_INVITED: rooms::Error = rooms::Error::NotFound("nobody was invited like that");

/// What the event says that makes the invitation come true. Whether it was signed by who was named
/// when it was made is for the room's rules.
fn invitation(
    r: &impl Reader,
    room: RoomNum,
    target: &OwnedUserId,
    signed: Raw<SignedContent>,
) -> Result<RoomMemberEventContent, rooms::Error> {
    #[derive(Deserialize)]
    struct Made {
        #[serde(default)]
        display_name: String,
    }
    let said = signed.deserialize();
    let said = said.map_err(|_| rooms::Error::invalid("that is not signed"))?;
    if said.mxid != *target {
        return Err(rooms::Error::forbidden("somebody else was meant"));
    }
    let kind = StateEventType::RoomThirdPartyInvite;
    let made: Option<Made> = content::current(r, room, &kind, &said.token)?;
    let made = made.ok_or(NOT_INVITED)?;
    let mut content = RoomMemberEventContent::new(MembershipState::Invite);
    content.third_party_invite = Some(ThirdPartyInvite::new(made.display_name, signed));
    Ok(content)
}
