//! Typing notifications (client-server API, "Typing Notifications").

use ruma::api::client::typing::create_typing_event::{self, v3::Typing};

use super::config::check_own;
use crate::{
    api::{Api, Error, Session},
    federation::EphemeralEdu,
    rooms::typing::TypingUpdate,
};

/// `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`
pub async fn create_typing_event(
    api: Api,
    session: Session,
    request: create_typing_event::v3::Request,
) -> Result<create_typing_event::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let room = api.joined_room(&session, &request.room_id)?;
    let for_ms = match request.state {
        Typing::Yes(typing) => Some(u64::try_from(typing.timeout.as_millis()).unwrap_or(u64::MAX)),
        Typing::No => None,
    };
    let change = api
        .typing
        .set(room, session.user, for_ms, api.clock.now_ms());
    if change == TypingUpdate::Changed {
        api.typing
            .changed(room, api.notifier.ephemeral_changed_in(room));
    }
    if change != TypingUpdate::Unchanged {
        let typing = EphemeralEdu::Typing(request.room_id, session.user_id, for_ms.is_some());
        api.federation.send_edu_to_room(room, &typing)?;
    }
    Ok(create_typing_event::v3::Response::new())
}
