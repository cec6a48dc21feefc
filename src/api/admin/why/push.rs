//! Why a user got, or did not get, a push notification of an event.

use ruma::{OwnedEventId, UserId, push::Action};
use serde::Deserialize;
use serde_json::Value;

use super::{Story, find, refusal};
use crate::{
    api::{Api, Error},
    protocol::build::EventDraft,
    rooms::{
        self, room,
        stored_event::StoredEvent,
        timeline::filter,
        unread::{notifications::Notifications, notify},
    },
    store::{
        Reader, Records, Snapshot, UserNum,
        records::{MemberRow, Membership},
    },
    users::account_data::ignored_users,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    user: String,
    event: OwnedEventId,
}

pub async fn push(api: Api, Push { user, event }: Push) -> Result<Value, Error> {
    let (num, user_id, account) = api.users.find(&user)?;
    let of_job = api.clone();
    let scan = move |s: &Snapshot| {
        let mut story = Story::default();
        if account.deactivated {
            story.add(format!("No: the account of {user_id} is deactivated."));
            return Ok(story.finish());
        }
        let notified = notifying(s, &mut story, (num, &user_id), &event)?;
        add_pushers(&of_job, &mut story, num, notified)?;
        Ok::<_, Error>(story.finish())
    };
    api.store.scan("the story of a notification", scan).await
}

/// The event, if it notifies the user.
fn notifying(
    s: &Snapshot,
    story: &mut Story,
    (num, user_id): (UserNum, &UserId),
    id: &OwnedEventId,
) -> Result<Option<StoredEvent>, Error> {
    let Some(event) = find(s, id, story)? else {
        return Ok(None);
    };
    let room = event.header.room;
    let sender = event.sender()?;
    story.add(format!("{sender} sent it in {}.", room::id(s, room)?));
    if let Some(refusal) = refusal(&event) {
        story.add(refusal);
        return Ok(None);
    }
    if sender == *user_id {
        story.add("No: nobody is notified of their own events.");
        return Ok(None);
    }
    let member = s.memberships()?.load((num, room))?;
    let member = match member.as_ref().map(|member| member.membership) {
        Some(Membership::Join) => member,
        Some(Membership::Invite) => {
            story.add(format!(
                "{user_id} is invited to the room, and is notified of the invitation alone."
            ));
            return Ok(None);
        }
        _ => {
            story.add(format!("No: {user_id} is not in the room."));
            return Ok(None);
        }
    };
    if event.header.redacted_by.is_some() {
        story.add("It was redacted: what was not sent before that is not sent any more.");
        return Ok(None);
    }
    let ignored = ignored_users::load(s, num)?;
    if filter::is_left_out(s, &ignored, &event)? {
        story.add(format!(
            "No: {user_id} ignores the sender, or it is a redaction that redacted nothing."
        ));
        return Ok(None);
    }
    if !add_rule(s, story, (num, user_id), &event)? {
        return Ok(None);
    }
    if let Some(member) = member
        && is_read(s, num, &member, &event)?
    {
        story.add("It is read by now: what was not sent before that is not sent any more.");
    }
    Ok(Some(event))
}

/// By which push rule the event notifies; whether it does.
fn add_rule(
    s: &Snapshot,
    story: &mut Story,
    (num, user_id): (UserNum, &UserId),
    event: &StoredEvent,
) -> Result<bool, Error> {
    let room = event.header.room;
    let pdu = event.pdu(room::rules(s, room)?)?;
    let draft = EventDraft::from_pdu(&pdu).map_err(rooms::Error::from)?;
    let actions = notify::actions(s, room, &draft, num, user_id)?;
    let notifies = actions.iter().any(Action::should_notify);
    story.add(match (notifies, actions.iter().any(Action::is_highlight)) {
        (true, true) => "By the push rules that the user has now, it notifies, with a highlight.",
        (true, false) => "By the push rules that the user has now, it notifies.",
        (false, _) => {
            "No: by the push rules that the user has now, it does not notify: the room may be muted or set to \
             mentions, or this kind of event notifies nobody."
        }
    });
    Ok(notifies)
}

fn is_read(
    s: &Snapshot,
    user: UserNum,
    member: &MemberRow,
    event: &StoredEvent,
) -> Result<bool, Error> {
    let Some(place) = event.header.place else {
        return Ok(false);
    };
    let room = event.header.room;
    let row = s.timeline()?.load((room, place))?;
    let thread = row.and_then(|row| row.thread);
    let notifications = Notifications::new(s, room, user, member)?;
    Ok(notifications.is_read(s, place, thread)?)
}

/// Up to where the apps of the user were notified.
fn add_pushers(
    api: &Api,
    story: &mut Story,
    user: UserNum,
    event: Option<StoredEvent>,
) -> Result<(), Error> {
    let pushers = api.push.pushers(user)?;
    if pushers.is_empty() {
        story.add("No app of the user asks for push notifications: log in there again, or look in its settings.");
        return Ok(());
    }
    for pusher in pushers {
        let name = format!(
            "{} on {}",
            pusher.pusher.app_display_name, pusher.pusher.device_display_name
        );
        let Some(gateway) = &pusher.gateway else {
            story.add(format!(
                "{name}: its push gateway is not allowed by the settings."
            ));
            continue;
        };
        if let (Some(event), Some(state)) = (&event, &pusher.state) {
            story.add(match state.cursor >= event.header.position {
                true => format!(
                    "{name}: everything up to the event was sent to {gateway}, or needed not be."
                ),
                false => format!("{name}: the event was not sent to {gateway} yet."),
            });
        }
        let answer = pusher
            .state
            .as_ref()
            .and_then(|state| state.answer.as_ref());
        story.add(match answer {
            Some((_, answer)) => format!("{name}: {gateway} answered last: {answer}."),
            None => format!("{name}: {gateway} was never sent anything."),
        });
    }
    story.add("`hearth push test` tries the push gateways.");
    Ok(())
}
