//! Typing notifications (client-server API, "Typing Notifications").

use std::borrow::Cow;

use ruma::api::{
    client::typing::create_typing_event::{self, v3::Typing},
    error::DeserializationError,
};

use super::config::check_own;
use crate::{
    api::{Adapted, Api, Error, Quirk, Session, adapted::edit_body},
    federation::EphemeralEdu,
    rooms::typing::TypingUpdate,
};

/// For how long a user types who does not say it.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;

/// NOTSPEC: `timeout` is optional, as in Synapse.
#[derive(Debug)]
pub struct OptionalTimeout;

impl Quirk for OptionalTimeout {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        edit_body(request, |body| {
            body.entry("timeout").or_insert(DEFAULT_TIMEOUT_MS.into());
        })?;
        Ok(Self)
    }
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`
pub async fn create_typing_event(
    api: Api,
    session: Session,
    Adapted { request, .. }: Adapted<create_typing_event::v3::Request, OptionalTimeout>,
) -> Result<create_typing_event::v3::Response, Error> {
    check_own(&session, &request.user_id)?;
    let room = api.joined_room(&session, &request.room_id)?;
    let for_ms = match request.state {
        Typing::Yes(typing) => Some(u64::try_from(typing.timeout.as_millis()).unwrap_or(u64::MAX)),
        Typing::No => None,
    };
    let change = api
        .typing
        .set(room, session.user, None, for_ms, api.clock.now_ms());
    if change == TypingUpdate::Changed {
        api.typing
            .changed(room, api.notifier.ephemeral_changed_in(room));
    }
    if change != TypingUpdate::Unchanged {
        let typing = EphemeralEdu::Typing(request.room_id, session.user_id, for_ms.is_some());
        api.federation.send_edu_to_room(room, typing).await?;
    }
    Ok(create_typing_event::v3::Response::new())
}
