//! Rejections of invites and retractions of knocks that a server did not accept at once
//! ([`rooms::membership::pending_leaves`]): `/make_leave` and `/send_leave`.
//!
//! Source: server-server API, "Leaving Rooms (Rejecting Invites)".

use http::StatusCode;
use ruma::{
    ServerName,
    api::federation::membership::{create_leave_event, prepare_leave_event},
};
use serde_json::value::RawValue;

use super::queues::Queues;
use crate::{
    federation::Error,
    protocol::{build::build_from_template, receive::Received},
    rooms::{
        self,
        membership::pending_leaves::{self, Leave},
        servers,
    },
    store::{ServerNum, Tx},
};

/// Sends the next leave to `server`: whether that was acknowledged. `None` if there is none.
pub async fn send_next(queues: &Queues, server: ServerNum) -> Result<Option<bool>, rooms::Error> {
    let next = |s: &_| pending_leaves::next(s, server);
    let Some((key, leave)) = queues.store.read(next)? else {
        return Ok(None);
    };
    let mut event = None;
    if let Some(leave) = leave {
        let name = queues.store.read(|s| servers::name(s, server))?;
        match send(queues, &name, key, &leave).await {
            Ok(accepted) => event = accepted,
            Err(error) if may_succeed_later(&error) => {
                log::debug!("{name} does not take a leave event: {error}");
                return Ok(Some(false));
            }
            Err(error) => log::info!(
                "{name} refuses the leave event of {} in room {}: {error}",
                leave.draft.sender,
                leave.room
            ),
        }
    }
    let job = move |tx: &Tx| pending_leaves::finish(tx, key, event.as_ref());
    queues.store.write(job).await?;
    Ok(Some(true))
}

/// The event that was sent; `None` if the leave became void meanwhile, as by a new invitation.
async fn send(
    queues: &Queues,
    server: &ServerName,
    key: pending_leaves::Key,
    leave: &Leave,
) -> Result<Option<Received>, Error> {
    let (room, user) = (leave.room.clone(), leave.draft.sender.clone());
    let request = prepare_leave_event::v1::Request::new(room.clone(), user);
    let template = queues.client.send(server, request).await?.event;
    let is_void = queues.store.read(|s| pending_leaves::is_void(s, key));
    if is_void.map_err(|error| Error::Disk(error.to_string().into()))? {
        return Ok(None);
    }
    let (now, signing_key) = (queues.clock.timestamp(), queues.local.key());
    let built = build_from_template(template.get(), &leave.draft, now, leave.rules, signing_key);
    let built = built.map_err(invalid_response)?;
    let pdu: &RawValue = serde_json::from_slice(&built.json).map_err(invalid_response)?;
    let id = built.pdu.event_id().to_owned();
    let request = create_leave_event::v2::Request::new(room, id, pdu.to_owned());
    queues.client.send(server, request).await?;
    Ok(Some(Received::from(built)))
}

fn invalid_response(error: impl ToString) -> Error {
    Error::InvalidResponse(error.to_string().into())
}

/// Whether the server is down, or too busy. Other answers are refusals, such as of the leave of a user who has
/// left already.
fn may_succeed_later(error: &Error) -> bool {
    let is_busy = |status: &StatusCode| {
        matches!(
            *status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        )
    };
    error.is_unreachable()
        || matches!(error, Error::Disk(_))
        || matches!(error, Error::Status(status, _) if is_busy(status))
}
