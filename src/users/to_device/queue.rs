//! The queues of local devices and of other servers, and who may fill them.
//!
//! Each queue is bounded, and what waits for all devices of a user, and what waits altogether. An account is a
//! local user, or another server. It has no more of a queue than is free then (one alone at most half), and a
//! user of another server no more of that server's share than is free there. So nobody fills a queue alone.
//!
//! Accounts that share no room with the owner of a device have together at most a quarter of its queue; with
//! those that share only rooms that anybody may join, at most half. So they keep nobody out who shares a
//! room that is not open.
//!
//! A message that does not fit is refused, so that no message is lost that was acknowledged. Two kinds give
//! way all the same: messages of senders who share fewer rooms in that sense; and those for a device that was
//! not seen for a week, where the largest account loses its oldest.
//!
//! `to_device_usage` has the sums: a job that adds or removes messages changes them.

use std::{cmp::Reverse, collections::BTreeMap, fmt, time::Duration};

use serde_json::value::RawValue;

use super::sender::{Sender, SharedRooms, Usage, account};
use crate::{
    store::{
        self, DeviceNum, Position, Reader, Records, Rows, ServerNum, Tx, UserNum,
        records::{Device, ToDeviceMessage},
    },
    users::{devices, id_of},
};

/// A message counts as its size in these units, rounded up.
pub(super) const UNIT_BYTES: usize = 4 * 1024;
/// Of the messages for one device or one server: 20 MB, or 5,000 messages.
pub(super) const MAX_QUEUE_UNITS: u64 = 5000;
/// Up to this part of its maximum, a queue has space for everybody, whatever the shares are.
const ALWAYS_FREE_PART: u64 = 20;
/// What waits for all devices of a user, in full queues.
pub(super) const MAX_USER_QUEUES: u64 = 4;
/// What waits altogether: 1 GB. Beyond that, queues are a fourth as large.
const MAX_TOTAL_UNITS: u64 = 250_000;
/// So much of what may be displaced is displaced at once: the rows of the queue have to be searched for it.
const FREED_PART: u64 = 8;
/// Messages for a device that was not seen for longer may be displaced.
const UNSEEN_AFTER: Duration = Duration::from_hours(7 * 24);

/// The queue of a device, or of another server.
#[derive(Clone, Copy, Debug)]
pub(super) enum Queue {
    Device(UserNum, DeviceNum),
    Server(ServerNum),
}

/// The key of a row of `to_device_usage`.
type UsageKey<'a> = (u8, u32, &'a str);

const TOTAL: UsageKey<'static> = (0, 0, "");

impl Queue {
    /// What `sender` has in it, or if that is empty, all.
    fn usage_key(self, sender: &str) -> UsageKey<'_> {
        match self {
            Self::Device(_, device) => (2, device.0, sender),
            Self::Server(server) => (3, server.0, sender),
        }
    }

    pub(super) fn recipient(self, r: &impl Reader) -> Result<String, store::Error> {
        match self {
            Self::Device(user, _) => Ok(id_of(r, user)?.to_string()),
            Self::Server(server) => server_name(r, server),
        }
    }
}

fn user_key(user: UserNum) -> UsageKey<'static> {
    (1, user.0, "")
}

pub(super) fn server_name(r: &impl Reader, server: ServerNum) -> Result<String, store::Error> {
    let servers = r.servers()?;
    let name = servers.get(server)?;
    Ok(name.map_or_else(String::new, |name| name.value().to_owned()))
}

/// Evaluates an expression for the table and the number of a queue.
macro_rules! with_table {
    ($tx:expr, $queue:expr, |$table:ident, $num:ident| $value:expr) => {
        match $queue {
            Queue::Device(_, $num) => {
                let $table = &mut $tx.to_device()?;
                $value
            }
            Queue::Server($num) => {
                let $table = &mut $tx.outbound_to_device()?;
                $value
            }
        }
    };
}

pub(super) enum Pushed {
    Stored(Position),
    QueueIsFull,
    /// No queue of the user gets more from those who share no more rooms.
    UserIsFull,
}

/// Adds a message to a queue, if it fits.
pub(super) fn push(
    tx: &Tx,
    queue: Queue,
    sender: &Sender,
    json: String,
    now_ms: u64,
) -> Result<Pushed, store::Error> {
    let added = units(&json);
    let max = match usage(tx, TOTAL)? + added > MAX_TOTAL_UNITS {
        false => MAX_QUEUE_UNITS,
        true => MAX_QUEUE_UNITS / 4,
    };
    if let Queue::Device(user, _) = queue
        && !make_space_for_user(tx, user, sender, added, max, now_ms)?
    {
        return Ok(Pushed::UserIsFull);
    }
    if !make_space(tx, queue, sender, added, max, now_ms)? {
        return Ok(Pushed::QueueIsFull);
    }
    let position = tx.next_position()?;
    let row = ToDeviceMessage {
        sender: sender.text.clone(),
        json,
    };
    with_table!(tx, queue, |table, num| table.put((num, position), &row)?);
    change_usage(tx, queue, &sender.text, added, u64::saturating_add)?;
    Ok(Pushed::Stored(position))
}

/// Whether a message of this size fits into what may wait for all devices of `user`, after others have been
/// displaced.
fn make_space_for_user(
    tx: &Tx,
    user: UserNum,
    sender: &Sender,
    added: u64,
    max: u64,
    now_ms: u64,
) -> Result<bool, store::Error> {
    while usage(tx, user_key(user))? + added > max * MAX_USER_QUEUES {
        let (mut most, mut largest) = (0, None);
        for (_, device) in devices::all(tx, user)? {
            let (queue, is_unseen) = (Queue::Device(user, device.num), is_unseen(&device, now_ms));
            let gives_way = move |other: &str| {
                let other = SharedRooms::of_stored(other);
                other < sender.shared || is_unseen && other == sender.shared
            };
            let senders = senders(tx, queue)?;
            let counted = senders.iter().filter(|(other, _)| gives_way(other));
            let units = counted.map(|(_, units)| units).sum();
            if units > most {
                (most, largest) = (units, Some((queue, senders, gives_way)));
            }
        }
        let Some((queue, senders, gives_way)) = largest else {
            return Ok(false);
        };
        evict(tx, queue, &senders, gives_way, added)?;
    }
    Ok(true)
}

/// Whether a message of this size fits into `queue`, after others have been displaced.
fn make_space(
    tx: &Tx,
    queue: Queue,
    sender: &Sender,
    added: u64,
    max: u64,
    now_ms: u64,
) -> Result<bool, store::Error> {
    if usage(tx, queue.usage_key(""))? + added <= max / ALWAYS_FREE_PART {
        return Ok(true);
    }
    loop {
        let senders = senders(tx, queue)?;
        let counted = senders.iter().map(|(sender, units)| (&**sender, *units));
        let usage = match queue {
            Queue::Device(..) => Usage::of_device(max, sender, counted),
            Queue::Server(_) => Usage::of_server(max, sender, counted),
        };
        if !usage.fits(added) {
            let limit = usage.max_share.min(usage.capacity());
            if added > limit || !is_for_unseen_device(tx, queue, now_ms)? {
                return Ok(false);
            }
            if usage.of_account + added > usage.max_share {
                let is_own = |other: &str| sender.is_of_same_account(other);
                evict(tx, queue, &senders, is_own, added)?;
                continue;
            }
            if usage.of_equals() + added > usage.capacity() {
                let is_equal = |other: &str| SharedRooms::of_stored(other) == sender.shared;
                evict(tx, queue, &senders, is_equal, added)?;
                continue;
            }
        }
        if !usage.displaces(added) {
            return Ok(true);
        }
        let shares_less = |other: &str| SharedRooms::of_stored(other) < sender.shared;
        evict(tx, queue, &senders, shares_less, added)?;
    }
}

fn is_for_unseen_device(r: &impl Reader, queue: Queue, now_ms: u64) -> Result<bool, store::Error> {
    let Queue::Device(user, num) = queue else {
        return Ok(false);
    };
    let device_ids = r.device_ids()?;
    let Some(row) = device_ids.get(num)? else {
        return Ok(true);
    };
    let device = r.devices()?.load((user, row.value().1))?;
    Ok(device.is_none_or(|device| is_unseen(&device, now_ms)))
}

fn is_unseen(device: &Device, now_ms: u64) -> bool {
    let unseen_ms = |ts| u128::from(now_ms.saturating_sub(ts));
    let is_recent = |ts| unseen_ms(ts) <= UNSEEN_AFTER.as_millis();
    !device.last_seen_ts.is_some_and(is_recent)
}

/// What each sender has in a queue.
fn senders(r: &impl Reader, queue: Queue) -> Result<BTreeMap<String, u64>, store::Error> {
    let (kind, num, _) = queue.usage_key("");
    let mut senders = BTreeMap::new();
    for row in r.to_device_usage()?.prefix((kind, num))? {
        let (key, units) = row?;
        senders.insert(key.value().2.to_owned(), units.value());
    }
    senders.remove("");
    Ok(senders)
}

/// Removes the oldest messages of the senders who are `eligible`: of those who share the fewest rooms, of the
/// largest accounts, of their largest users.
fn evict(
    tx: &Tx,
    queue: Queue,
    senders: &BTreeMap<String, u64>,
    eligible: impl Fn(&str) -> bool,
    added: u64,
) -> Result<(), store::Error> {
    let mut accounts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ranked = Vec::new();
    for (sender, units) in senders.iter().filter(|(sender, _)| eligible(sender)) {
        *accounts.entry(account(sender)).or_default() += units;
        ranked.push((sender.as_str(), *units));
    }
    ranked.sort_by_key(|(sender, units)| {
        let account = account(sender);
        let of_account = accounts[account];
        (
            SharedRooms::of_stored(sender),
            Reverse(of_account),
            account,
            Reverse(*units),
        )
    });
    let wanted = added.max(accounts.values().sum::<u64>() / FREED_PART);
    let mut expected = 0;
    ranked.retain(|(_, units)| {
        let is_needed = expected < wanted;
        expected += units;
        is_needed
    });
    let Some((first, _)) = ranked.first() else {
        // The sums are wrong.
        return clear_usage(tx, queue);
    };
    let mut freed: BTreeMap<&str, u64> = ranked.iter().map(|(sender, _)| (*sender, 0)).collect();
    let (mut sum, mut positions) = (0, Vec::new());
    with_table!(tx, queue, |table, num| {
        for row in table.prefix(num)? {
            let (key, row) = row?;
            let Ok(message) = row.record(&key) else {
                continue;
            };
            if let Some(freed) = freed.get_mut(message.sender.as_str()) {
                *freed += units(&message.json);
                sum += units(&message.json);
                positions.push(key.value().1);
                if sum >= wanted {
                    break;
                }
            }
        }
    });
    with_table!(tx, queue, |table, num| for position in &positions {
        table.remove((num, *position))?;
    });
    log::warn!(
        "dropped {} to-device messages of {}{} to {}, which has not fetched them: the queue is full",
        positions.len(),
        &first[1..],
        match ranked.len() - 1 {
            0 => String::new(),
            others => format!(" and {others} others"),
        },
        queue.recipient(tx)?
    );
    if positions.is_empty() {
        // The sums are wrong.
        freed = ranked.into_iter().collect();
    }
    for (sender, units) in freed {
        change_usage(tx, queue, sender, units, u64::saturating_sub)?;
    }
    Ok(())
}

/// Removes the messages up to and including `upto`, at most `max`; returns how many.
pub(super) fn remove_until(
    tx: &Tx,
    queue: Queue,
    upto: Position,
    max: usize,
) -> Result<usize, store::Error> {
    let mut freed: BTreeMap<String, u64> = BTreeMap::new();
    let (mut last, mut count, mut is_emptied) = (None, 0, true);
    with_table!(tx, queue, |table, num| {
        for row in table.prefix(num)? {
            let (key, row) = row?;
            let position = key.value().1;
            if position > upto || count == max {
                is_emptied = false;
                break;
            }
            (last, count) = (Some(position), count + 1);
            if let Ok(message) = row.record(&key) {
                *freed.entry(message.sender).or_default() += units(&message.json);
            }
        }
    });
    let Some(last) = last else {
        return Ok(0);
    };
    with_table!(tx, queue, |table, num| table
        .remove_in((num, Position::MIN)..=(num, last), |_, _| true)?);
    if is_emptied {
        clear_usage(tx, queue)?;
    } else {
        for (sender, units) in freed {
            change_usage(tx, queue, &sender, units, u64::saturating_sub)?;
        }
    }
    Ok(count)
}

fn usage(r: &impl Reader, key: UsageKey<'_>) -> Result<u64, store::Error> {
    let table = r.to_device_usage()?;
    Ok(table.get(key)?.map_or(0, |row| row.value()))
}

fn change_usage(
    tx: &Tx,
    queue: Queue,
    sender: &str,
    units: u64,
    change: fn(u64, u64) -> u64,
) -> Result<(), store::Error> {
    change_row(tx, queue.usage_key(sender), units, change)?;
    change_row(tx, queue.usage_key(""), units, change)?;
    change_totals(tx, queue, units, change)
}

fn change_totals(
    tx: &Tx,
    queue: Queue,
    units: u64,
    change: fn(u64, u64) -> u64,
) -> Result<(), store::Error> {
    if let Queue::Device(user, _) = queue {
        change_row(tx, user_key(user), units, change)?;
    }
    change_row(tx, TOTAL, units, change)
}

fn change_row(
    tx: &Tx,
    key: UsageKey<'_>,
    units: u64,
    change: fn(u64, u64) -> u64,
) -> Result<(), store::Error> {
    let changed = change(usage(tx, key)?, units);
    let mut table = tx.to_device_usage()?;
    match changed {
        0 => table.remove(key).map(drop),
        changed => table.insert(key, changed),
    }
}

/// Removes the sums of an empty queue.
fn clear_usage(tx: &Tx, queue: Queue) -> Result<(), store::Error> {
    let (kind, num, _) = queue.usage_key("");
    change_totals(tx, queue, usage(tx, (kind, num, ""))?, u64::saturating_sub)?;
    tx.to_device_usage()?.remove_prefix((kind, num))
}

fn units(json: &str) -> u64 {
    json.len().div_ceil(UNIT_BYTES).max(1) as u64
}

/// Parses the row of `table` at `key`.
pub(super) fn parse_stored(
    json: String,
    table: &'static str,
    key: impl fmt::Debug,
) -> Result<Box<RawValue>, store::Error> {
    RawValue::from_string(json).map_err(|_| store::Error::corrupt(table, key, "not JSON"))
}
