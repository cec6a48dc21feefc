//! Server notices: messages of the server to its users (client-server API, "Server Notices").
//!
//! Each user has one room with the notices user. That user has no account: nobody can register it, log in as
//! it or invite it. The user is invited with the first notice, and again with the next one after leaving, and
//! may do nothing in the room but read.

use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId, RoomId, UserId,
    api::client::room::create_room::v3::{Request, RoomPreset},
    events::{TimelineEventType, room::member::MembershipState},
    profile::ProfileFieldValue::DisplayName,
    serde::Raw,
};
use serde::Serialize;
use serde_json::json;

use super::{
    Actor, Error, Local,
    background::batch,
    create::{self, presets},
    event::{
        append::{self, Sending},
        send::{self, ClientTransaction},
    },
    membership::{change::MembershipChange, server_notice_room},
    room,
    state::current,
    unread::notify,
};
use crate::{
    protocol::build::{EventDraft, canonical_content},
    store::{
        Effect, Reader, RoomNum, Rows, Tx, UserNum,
        records::{Announcement, Membership},
    },
    users::{self, account_data::tags, accounts, profiles},
};

/// Of the notices user and of the rooms.
const NAME: &str = "Server notices";
const TAG: &str = "m.server_notice";
/// The power level of everybody but the notices user.
const READ_ONLY: i32 = -10;

const MAX_ANNOUNCEMENT_BYTES: usize = 16 * 1024;
const MAX_ANNOUNCEMENT_ID_BYTES: usize = 255;
/// Of those that are still to be sent and those that were sent lately.
const MAX_ANNOUNCEMENTS: usize = 100;
/// How long the id of an announcement that was sent to everybody is kept.
const RETENTION_MS: u64 = 24 * 60 * 60 * 1000;

/// An event for the room of server notices of a user.
#[derive(Clone, Debug)]
pub struct ServerNotice {
    pub event_type: TimelineEventType,
    pub state_key: Option<String>,
    pub content: CanonicalJsonObject,
}

impl ServerNotice {
    /// A message.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn message(body: &str) -> Result<Self, Error> {
        if body.len() > MAX_ANNOUNCEMENT_BYTES {
            return Err(Error::TooLarge(
                format!("body: expected at most {MAX_ANNOUNCEMENT_BYTES} bytes").into(),
            ));
        }
        let content = json!({
            "msgtype": "m.server_notice",
            "body": body,
            "server_notice_type": "hearth.message",
        });
        Ok(Self {
            event_type: TimelineEventType::RoomMessage,
            state_key: None,
            content: canonical_content(&content)?,
        })
    }
}

/// Sends `notice` to `target` in the name of the notices user `sender`, unless the same transaction did so
/// before. Returns the id of the event.
///
/// # Errors
/// [`Error::Invalid`] if `target` is of another server, or `sender` has an account; [`Error::NotFound`] if
/// `target` has none; those of [`append::append`].
pub fn send(
    tx: &Tx,
    local: &Local,
    (sender, now): (&UserId, MilliSecondsSinceUnixEpoch),
    target: &UserId,
    notice: &ServerNotice,
    transaction: Option<&ClientTransaction>,
) -> Result<OwnedEventId, Error> {
    if let Some(transaction) = transaction
        && let Some(sent) = send::sent(tx, transaction)?
    {
        return Ok(sent);
    }
    if !local.has(target) {
        return Err(Error::invalid(
            "user_id: server notices can only be sent to users of this server",
        ));
    }
    let user = match users::num_of(tx, target)? {
        Some(user) if is_active(tx, user)? => user,
        _ => return Err(Error::NotFound("there is no such user")),
    };
    let actor = notices_user(tx, sender, now)?;
    let room = invited_room(tx, local, &actor, user, target)?;
    let draft = EventDraft {
        room_id: Some(room::id(tx, room)?),
        sender: actor.id.clone(),
        event_type: notice.event_type.clone(),
        state_key: notice.state_key.clone(),
        content: notice.content.clone(),
        text: None,
        redacts: None,
    };
    let sending = Sending {
        notify: notify::evaluate_in(tx, local, room, &draft)?,
        ..actor.sending()
    };
    let sent = append::append(tx, local, &draft, &sending)?;
    if let Some(transaction) = transaction {
        send::remember(tx, transaction, sent.num, now)?;
    }
    Ok(sent.id)
}

fn is_active(r: &impl Reader, user: UserNum) -> Result<bool, Error> {
    Ok(accounts::load(r, user)?.is_some_and(|account| !account.deactivated))
}

fn notices_user(tx: &Tx, id: &UserId, now: MilliSecondsSinceUnixEpoch) -> Result<Actor, Error> {
    let num = tx.user_num(id.as_str())?;
    if accounts::load(tx, num)?.is_some() {
        return Err(Error::invalid(format!(
            "{id} is an account: set server_notices_localpart to a name that nobody has"
        )));
    }
    Ok(Actor {
        num,
        id: id.to_owned(),
        now,
    })
}

/// The room of server notices of `user`, who is in it or invited.
fn invited_room(
    tx: &Tx,
    local: &Local,
    sender: &Actor,
    user: UserNum,
    id: &UserId,
) -> Result<RoomNum, Error> {
    let room = match server_notice_room::of_user(tx, user)? {
        Some(room) if current::membership(tx, room, &sender.id)? == Membership::Join => room,
        _ => create_room(tx, local, sender)?,
    };
    match current::membership(tx, room, id)? {
        Membership::Join | Membership::Invite => return Ok(room),
        Membership::Leave | Membership::Knock | Membership::Ban => {}
    }
    // Whoever blocks invites gets the notices of their server nevertheless.
    MembershipChange::new(id, MembershipState::Invite, None).send(tx, local, room, sender)?;
    server_notice_room::set(tx, user, room)?;
    tags::add(tx, user, room, TAG)?;
    Ok(room)
}

fn create_room(tx: &Tx, local: &Local, sender: &Actor) -> Result<RoomNum, Error> {
    let name = profiles::Change::set(&DisplayName(NAME.to_owned()));
    let named = name.and_then(|name| profiles::apply(tx, sender.num, &name));
    named.map_err(|error| match error {
        users::Error::Store(error) => Error::Store(error),
        error => Error::invalid(error.to_string()),
    })?;
    let mut request = Request::new();
    request.preset = Some(RoomPreset::PrivateChat);
    request.name = Some(NAME.to_owned());
    request.creation_content = Some(raw(&json!({ "m.federate": false }))?);
    request.power_level_content_override = Some(raw(&json!({ "users_default": READ_ONLY }))?);
    let id = RoomId::new_v1(local.server_name());
    let plan = presets::blueprint(local, &sender.id, &request, id)?;
    Ok(create::build(tx, local, sender, &plan)?.0)
}

fn raw<T>(value: &impl Serialize) -> Result<Raw<T>, Error> {
    let raw = Raw::new(value).map_err(|_| Error::not_serializable("a request for a room"))?;
    Ok(raw.cast_unchecked())
}

/// Has a [message](ServerNotice::message) sent to all users of this server by the background jobs. Nothing
/// happens if `id` was announced in the last day.
///
/// # Errors
/// [`Error::Invalid`], [`Error::TooLarge`].
pub fn announce(
    tx: &Tx,
    id: &str,
    (sender, now): (&UserId, MilliSecondsSinceUnixEpoch),
    body: &str,
) -> Result<(), Error> {
    ServerNotice::message(body)?;
    if id.len() > MAX_ANNOUNCEMENT_ID_BYTES {
        return Err(Error::invalid(format!(
            "the transaction id has more than {MAX_ANNOUNCEMENT_ID_BYTES} bytes"
        )));
    }
    notices_user(tx, sender, now)?;
    remove_expired(tx, now)?;
    let mut announcements = tx.announcements()?;
    if announcements.has(id)? {
        return Ok(());
    }
    if announcements.all()?.count() >= MAX_ANNOUNCEMENTS {
        return Err(Error::invalid(format!(
            "a day has at most {MAX_ANNOUNCEMENTS} announcements"
        )));
    }
    let announcement = Announcement {
        sender: sender.to_string(),
        body: body.to_owned(),
        next_user: UserNum::MIN,
        finished_ts: None,
    };
    announcements.put(id, &announcement)?;
    tx.effect(Effect::BackgroundJob);
    Ok(())
}

fn remove_expired(tx: &Tx, now: MilliSecondsSinceUnixEpoch) -> Result<(), Error> {
    let now_ms = u64::from(now.get());
    let mut expired = Vec::new();
    for row in tx.announcements()?.all()? {
        let (id, announcement) = row?;
        let finished_ts = announcement.record(&id)?.finished_ts;
        if finished_ts.is_some_and(|ts| ts.saturating_add(RETENTION_MS) < now_ms) {
            expired.push(id.value().to_owned());
        }
    }
    for id in expired {
        tx.announcements()?.remove(id.as_str())?;
    }
    Ok(())
}

/// The first announcement that is not sent to everybody yet.
fn next_announcement(r: &impl Reader) -> Result<Option<(String, Announcement)>, Error> {
    for row in r.announcements()?.all()? {
        let (id, announcement) = row?;
        let announcement = announcement.record(&id)?;
        if announcement.finished_ts.is_none() {
            return Ok(Some((id.value().to_owned(), announcement)));
        }
    }
    Ok(None)
}

pub(in crate::rooms) fn has_pending(r: &impl Reader) -> Result<bool, Error> {
    Ok(next_announcement(r)?.is_some())
}

/// Sends an announcement to some more users; whether any are left, of this or of another.
pub(in crate::rooms) fn run_batch(
    tx: &Tx,
    local: &Local,
    now: MilliSecondsSinceUnixEpoch,
) -> Result<bool, Error> {
    let Some((id, announcement)) = next_announcement(tx)? else {
        return Ok(false);
    };
    let sender = OwnedUserId::try_from(announcement.sender.as_str())
        .map_err(|_| Error::corrupt("announcements", &id, "not a user id"))?;
    let notice = ServerNotice::message(&announcement.body)?;
    let accounts = tx.accounts()?;
    let users = accounts
        .range(announcement.next_user..)?
        .take(batch::MAX_ROWS + 1)
        .map(|row| Ok(row?.0.value()))
        .collect::<Result<Vec<UserNum>, Error>>()?;
    drop(accounts);
    let next = batch::run(users, |user| {
        let target = users::id_of(tx, *user)?;
        let result = is_active(tx, *user).and_then(|is_active| {
            if is_active {
                send(tx, local, (&sender, now), &target, &notice, None)?;
            }
            Ok(is_active)
        });
        let describe = || Ok(("an announcement".to_owned(), target.to_string()));
        batch::skip_impossible(result, describe)
    })?;
    let announcement = match next {
        Some(next_user) => Announcement {
            next_user,
            ..announcement
        },
        None => Announcement {
            finished_ts: Some(now.get().into()),
            ..announcement
        },
    };
    tx.announcements()?.put(id.as_str(), &announcement)?;
    has_pending(tx)
}
