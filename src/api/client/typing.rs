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
/// Longer ones are shortened further where they are set.
const MAX_TIMEOUT_MS: f64 = 1e9;

/// NOTSPEC: `timeout` is optional, and any number, as in Synapse. With a negative one, typing ends at once.
#[derive(Debug)]
pub struct LenientTimeout;

impl Quirk for LenientTimeout {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        edit_body(request, |body| {
            let timeout = body.entry("timeout").or_insert(DEFAULT_TIMEOUT_MS.into());
            if let Some(number) = timeout.as_f64() {
                *timeout = (number.clamp(0.0, MAX_TIMEOUT_MS) as u64).into();
            }
        })?;
        Ok(Self)
    }
}

/// `PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}`
pub async fn create_typing_event(
    api: Api,
    session: Session,
    Adapted { request, .. }: Adapted<create_typing_event::v3::Request, LenientTimeout>,
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
