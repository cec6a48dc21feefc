//! What users report to the owner of the server: events, rooms and users.
//!
//! Source: client-server API, "Reporting Content".

use ruma::{RoomId, UserId};

use crate::{
    rooms::{
        Error, Local,
        directory::{self, spaces, summary},
        room,
        timeline::history_visibility,
    },
    store::{
        self, Reader, Rows, Tx, UserNum,
        records::{Report, ReportTarget},
    },
    users::{self, accounts},
};

/// Of all users, and of one. One more displaces the oldest.
pub const MAX_REPORTS: usize = 1000;
pub const MAX_PER_REPORTER: usize = 50;
/// Of a reason; the rest is cut off.
pub const MAX_REASON_BYTES: usize = 2000;

/// Stores `report`. An earlier report of the same by the same user gives way to it.
pub fn store(tx: &Tx, report: &Report) -> Result<(), store::Error> {
    let mut last = 0;
    let mut own = Vec::new();
    let mut count = 0;
    let mut oldest = None;
    for row in tx.reports()?.all()? {
        let (key, row) = row?;
        last = key.value();
        let stored = row.record(&key)?;
        count += 1;
        oldest.get_or_insert(last);
        if stored.reporter == report.reporter {
            own.push((last, stored.target == report.target));
        }
    }
    let mut displaced = own
        .iter()
        .find(|(_, is_same)| *is_same)
        .map(|(num, _)| *num);
    if displaced.is_none() && own.len() >= MAX_PER_REPORTER {
        displaced = own.first().map(|(num, _)| *num);
    }
    if displaced.is_none() && count >= MAX_REPORTS {
        displaced = oldest;
    }
    let mut reports = tx.reports()?;
    if let Some(displaced) = displaced {
        reports.remove(displaced)?;
    }
    let mut report = report.clone();
    report
        .reason
        .truncate(report.reason.floor_char_boundary(MAX_REASON_BYTES));
    reports.put(last + 1, &report)
}

/// All reports, the oldest first, each with its number. For the owner of the server.
pub fn all(r: &impl Reader) -> Result<Vec<(u64, Report)>, store::Error> {
    let mut reports = Vec::new();
    for row in r.reports()?.all()? {
        let (key, row) = row?;
        reports.push((key.value(), row.record(&key)?));
    }
    Ok(reports)
}

/// Whether `user` may know that the room exists, which they need not be in.
pub fn is_room_visible(r: &impl Reader, id: &RoomId, user: UserNum) -> Result<bool, Error> {
    match history_visibility::readable_room(r, id, user) {
        Ok(_) => return Ok(true),
        Err(Error::Forbidden(_)) => {}
        Err(error) => return Err(error),
    }
    let room = match room::num(r, id) {
        Err(Error::UnknownRoom) => return Ok(false),
        room => room?,
    };
    if directory::is_listed(r, room)? {
        return Ok(true);
    }
    match spaces::joined_room(r, id)? {
        Some(room) => spaces::is_accessible(r, &summary::of(r, room)?, Some(user)),
        None => Ok(false),
    }
}

/// Whether `user_id` is an account of this server, or a user of another server who was ever mentioned here.
pub fn is_user_known(r: &impl Reader, local: &Local, user_id: &UserId) -> Result<bool, Error> {
    let Some(user) = users::num_of(r, user_id)? else {
        return Ok(false);
    };
    Ok(!local.has(user_id) || accounts::load(r, user)?.is_some())
}

/// What is reported, for the log.
pub fn describe(target: &ReportTarget) -> String {
    match target {
        ReportTarget::Event(room, event) => format!("the event {event} in {room}"),
        ReportTarget::Room(room) => format!("the room {room}"),
        ReportTarget::User(user) => format!("the user {user}"),
    }
}
