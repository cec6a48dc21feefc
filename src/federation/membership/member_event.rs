use ruma::{
    OwnedUserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;

use crate::rooms;

/// The fields of a received member event that are needed before it is verified.
#[derive(Deserialize)]
pub struct MemberEvent {
    pub sender: OwnedUserId,
    pub state_key: OwnedUserId,
    #[serde(rename = "type")]
    kind: StateEventType,
    pub content: Content,
}

#[derive(Deserialize)]
pub struct Content {
    membership: MembershipState,
    pub join_authorised_via_users_server: Option<OwnedUserId>,
}

impl MemberEvent {
    /// # Errors
    /// [`rooms::Error::Invalid`] if it is not a member event with this membership.
    pub fn parse(event: &str, membership: &MembershipState) -> Result<Self, rooms::Error> {
        let event: Self = serde_json::from_str(event)
            .map_err(|error| rooms::Error::invalid(format!("not a member event: {error}")))?;
        if event.kind != StateEventType::RoomMember {
            let kind = &event.kind;
            let error = format!("the event has type {kind}, expected m.room.member");
            return Err(rooms::Error::invalid(error));
        }
        if event.content.membership != *membership {
            let found = &event.content.membership;
            let error = format!("the event has membership {found}, expected {membership}");
            return Err(rooms::Error::invalid(error));
        }
        Ok(event)
    }
}
