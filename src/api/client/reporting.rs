//! Reports to the owner of the server (client-server API, "Reporting Content").
//!
//! Each report waits for a commit, also one of something that is not here or that the user may not see: the
//! time of the response says no more than its status.

use ruma::api::client::{
    reporting::report_user,
    room::{report_content, report_room},
};

use super::room_reader::RoomReader;
use crate::{
    api::{Api, Error, Session},
    rooms::{self, reports, state::current, timeline::filter::EventFilter},
    store::{
        Reader, Snapshot, Tx,
        records::{Membership, Report, ReportTarget},
    },
};

/// `POST /_matrix/client/v3/rooms/{roomId}/report/{eventId}`
pub async fn report_content(
    api: Api,
    session: Session,
    request: report_content::v3::Request,
) -> Result<report_content::v3::Response, Error> {
    let (room_id, event) = (request.room_id, request.event_id);
    let target = ReportTarget::Event(room_id.to_string(), event.to_string());
    let (asker, now_ms) = (session.clone(), api.clock.now_ms());
    let is_visible = move |s: &Snapshot| {
        let filter = EventFilter::default();
        let mut reader = RoomReader::new(s, &asker, now_ms, room_id, filter)?;
        if current::membership(s, reader.room, &asker.user_id)? != Membership::Join {
            return Ok(false);
        }
        reader.load_visible(s, &event).map(|_| true)
    };
    let is_visible = match api.store.scan("reported event", is_visible).await {
        Err(rooms::Error::Forbidden(_) | rooms::Error::NotFound(_)) => false,
        is_visible => is_visible?,
    };
    let reason = request.reason.unwrap_or_default();
    if report(&api, &session, target, reason, is_visible).await? {
        return Ok(report_content::v3::Response::new());
    }
    Err(Error::not_found(
        "the event does not exist, you may not see it, or you are not joined to its room",
    ))
}

/// `POST /_matrix/client/v3/rooms/{roomId}/report`
pub async fn report_room(
    api: Api,
    session: Session,
    request: report_room::v3::Request,
) -> Result<report_room::v3::Response, Error> {
    let (room, user) = (request.room_id, session.user);
    let target = ReportTarget::Room(room.to_string());
    let is_visible = api
        .store
        .read(|s| reports::is_room_visible(s, &room, user))?;
    if report(&api, &session, target, request.reason, is_visible).await? {
        return Ok(report_room::v3::Response::new());
    }
    Err(Error::not_found(
        "the room does not exist, or you may not see it",
    ))
}

/// `POST /_matrix/client/v3/users/{userId}/report`. The answer does not say whether there is such a user; what
/// is reported of others is not kept.
pub async fn report_user(
    api: Api,
    session: Session,
    request: report_user::v3::Request,
) -> Result<report_user::v3::Response, Error> {
    let user = request.user_id;
    let target = ReportTarget::User(user.to_string());
    let is_known = api
        .store
        .read(|s| reports::is_user_known(s, &api.local, &user))?;
    report(&api, &session, target, request.reason, is_known).await?;
    Ok(report_user::v3::Response::new())
}

/// Stores a report if `is_visible`, and waits for a commit in any case. Returns `is_visible`.
async fn report(
    api: &Api,
    session: &Session,
    target: ReportTarget,
    reason: String,
    is_visible: bool,
) -> Result<bool, Error> {
    let what = reports::describe(&target);
    let report = Report {
        reporter: session.user,
        ts: api.clock.now_ms(),
        target,
        reason,
    };
    let store = move |tx: &Tx| match is_visible {
        true => reports::store(tx, &report),
        // A transaction that changes nothing is not committed: this removes a row that is never there.
        false => tx.reports()?.remove(u64::MAX).map(drop),
    };
    api.store.write(store).await?;
    if is_visible {
        log::warn!("{} reported {what} to you", session.user_id);
    }
    Ok(is_visible)
}
