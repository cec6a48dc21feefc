//! What users report.

use serde_json::{Value, json};

use super::Nothing;
use crate::{
    api::{Api, Error},
    rooms::reports,
    store::records::{Report, ReportTarget},
    users,
};

/// All reports, the newest first.
pub async fn list(api: Api, _: Nothing) -> Result<Value, Error> {
    let scan = |s: &_| {
        let mut listed = Vec::new();
        for (number, report) in reports::all(s)?.into_iter().rev() {
            let reporter = users::id_of(s, report.reporter)?;
            listed.push(to_json(number, reporter.as_str(), &report));
        }
        Ok::<_, Error>(listed)
    };
    let reports = api.store.scan("reports", scan).await?;
    Ok(json!({ "reports": reports }))
}

fn to_json(number: u64, reporter: &str, report: &Report) -> Value {
    let (room, event, user) = match &report.target {
        ReportTarget::Event(room, event) => (Some(room), Some(event), None),
        ReportTarget::Room(room) => (Some(room), None, None),
        ReportTarget::User(user) => (None, None, Some(user)),
    };
    json!({
        "number": number,
        "ts": report.ts,
        "reporter": reporter,
        "what": reports::describe(&report.target),
        "room_id": room,
        "event_id": event,
        "user_id": user,
        "reason": report.reason,
    })
}
