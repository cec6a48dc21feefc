//! Why an event did, or did not, reach another server.

use std::time::Duration;

use ruma::{OwnedEventId, OwnedServerName};
use serde::Deserialize;
use serde_json::Value;

use super::{Story, find, refusal};
use crate::{
    api::{Api, Error},
    federation::Delivery,
    rooms::{room, servers},
    store::Snapshot,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    event: OwnedEventId,
    server: OwnedServerName,
}

pub async fn send(api: Api, Send { event, server }: Send) -> Result<Value, Error> {
    let of_job = api.clone();
    let scan = move |s: &Snapshot| story(&of_job, s, &event, &server);
    api.store.scan("the story of an event", scan).await
}

/// How it goes with the server.
fn add_contact(api: &Api, story: &mut Story, server: &OwnedServerName) -> Result<(), Error> {
    let Some(destination) = api.federation.destination(server)? else {
        story.add(format!("This server never had to do with {server}."));
        return Ok(());
    };
    let now = api.clock.now_ms();
    let ago = |ts: u64| {
        let seconds = now.saturating_sub(ts) / 1000;
        humantime::format_duration(Duration::from_secs(seconds)).to_string()
    };
    if let Some(ts) = destination.contact.success_ts {
        story.add(format!("It last took a transaction {} ago.", ago(ts)));
    }
    if let Some((ts, error)) = &destination.contact.failure {
        story.add(format!("It last did not {} ago: {error}.", ago(*ts)));
    }
    if let Some(backoff) = &destination.backoff {
        let seconds = backoff.retry_at_ts.saturating_sub(now) / 1000;
        story.add(format!(
            "It is tried again in {}, or at once with `hearth federation retry {server}`.",
            humantime::format_duration(Duration::from_secs(seconds))
        ));
    }
    Ok(())
}

fn story(
    api: &Api,
    s: &Snapshot,
    id: &OwnedEventId,
    server: &OwnedServerName,
) -> Result<Value, Error> {
    let mut story = Story::default();
    let Some(event) = find(s, id, &mut story)? else {
        return Ok(story.finish());
    };
    let room = event.header.room;
    let (room_id, sender) = (room::id(s, room)?, event.sender()?);
    story.add(format!("{sender} sent it in {room_id}."));
    if let Some(refusal) = refusal(&event) {
        story.add(refusal);
        story.add("No: this server passes on only what is part of the room.");
        return Ok(story.finish());
    }
    if *server == *api.local.server_name() {
        story.add("That is this server itself.");
        return Ok(story.finish());
    }
    if !api.local.has(&sender) {
        let origin = sender.server_name();
        story.add(format!(
            "No: {origin} sends its own events to the servers in the room; this one passes them on only to \
             those that ask for them."
        ));
        return Ok(story.finish());
    }
    if !api.federation.allows(server) {
        story.add(format!(
            "No: the setting `federation` does not allow {server}."
        ));
        return Ok(story.finish());
    }
    match servers::is_in(s, room, server)? {
        true => story.add(format!("{server} has users in the room now.")),
        false => story.add(format!(
            "{server} has no user in the room now. What was sent meanwhile it gets only when one joins."
        )),
    }
    if !api.federation.server_acls().allow(s, room, server)? {
        story.add(format!(
            "The server ACL of the room denies {server}: the other servers take nothing of it, and it may have \
             left."
        ));
    }
    let delivery = api
        .federation
        .delivery(s, server, (room, event.header.position))?;
    story.add(match delivery {
        Delivery::NotQueued => format!("No: it was not queued for {server}."),
        Delivery::Sent => {
            format!("Yes: {server} has acknowledged what was queued for it up to there.")
        }
        Delivery::Unknown => format!(
            "The queue does not go back so far; if {server} was in the room then, it got it."
        ),
        Delivery::Queued => format!("It is in the queue for {server}, and is about to be sent."),
        Delivery::Waiting => {
            format!("Not yet: it waits for {server}, which did not take it, or events before it.")
        }
    });
    add_contact(api, &mut story, server)?;
    Ok(story.finish())
}
