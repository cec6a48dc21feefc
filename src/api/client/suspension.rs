//! What a suspended user may send: their own leave, and redactions of their own events. All else that changes
//! rooms or profiles is refused at the edge (`http/routes.rs`).
//!
//! Source: client-server API, "Account suspension".

use ruma::{EventId, RoomId, events::TimelineEventType};

use crate::{
    api::{Api, Error, Session},
    protocol::build::EventDraft,
    rooms::{self, event, room},
    store::Reader,
};

/// # Errors
/// `M_USER_SUSPENDED` if the user is suspended and may not send the message event `draft`.
pub(super) fn check_message(api: &Api, session: &Session, draft: &EventDraft) -> Result<(), Error> {
    if !session.is_suspended {
        return Ok(());
    }
    let room = draft.room_id.as_deref().ok_or_else(Error::suspended)?;
    let target = draft
        .redacts
        .as_ref()
        .filter(|_| draft.event_type == TimelineEventType::RoomRedaction);
    match target {
        Some(target) if api.store.read(|s| is_own(s, session, room, target))? => Ok(()),
        _ => Err(Error::suspended()),
    }
}

fn is_own(
    r: &impl Reader,
    session: &Session,
    room_id: &RoomId,
    event: &EventId,
) -> Result<bool, rooms::Error> {
    let room = room::num(r, room_id)?;
    match event::num_in(r, room, event)? {
        Some(num) => Ok(event::load(r, num)?.sender()? == session.user_id),
        None => Ok(false),
    }
}
