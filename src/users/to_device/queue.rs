//! The queues of local devices and of other servers, and who may fill them.
//!
//! Each queue is bounded. So is what one account (a local user, or another server) has in it; an account that
//! shares no room with the device's owner has a smaller share. What waits for all devices of a user is
//! bounded too, and what waits altogether. A message too many displaces the oldest of the largest account,
//! or of the same account if its own share is full: who sends little is not displaced by who sends much. An
//! account that shares no room with the owner displaces nobody who does.
//!
//! `to_device_usage` has the sums: a job that adds or removes messages changes them.

use std::{collections::BTreeMap, fmt};

use ruma::UserId;
use serde_json::value::RawValue;

use crate::{
    store::{
        self, DeviceNum, Position, Reader, Rows, ServerNum, Tx, UserNum, records::ToDeviceMessage,
    },
    users::{devices, id_of},
};

/// A message counts as its size in these units, rounded up.
pub(super) const UNIT_BYTES: usize = 4 * 1024;
/// Of the messages for one device or one server: 20 MB, or 5,000 messages.
pub(super) const MAX_QUEUE_UNITS: u64 = 5000;
/// Of those, what accounts can fill that share no room with the device's owner.
pub(super) const MAX_UNRELATED_UNITS: u64 = MAX_QUEUE_UNITS / 4;
/// What one account can have in the queue of a device. A local user may have the whole queue of a server while no
/// others need it.
pub(super) const MAX_SHARE_UNITS: u64 = MAX_QUEUE_UNITS / 4;
/// The same for one that shares no room with the device's owner.
pub(super) const MAX_UNRELATED_SHARE_UNITS: u64 = MAX_QUEUE_UNITS / 10;
/// What waits for all devices of a user, in full queues.
pub(super) const MAX_USER_QUEUES: u64 = 4;
/// What waits altogether: 1 GB. Beyond that, queues are a fourth as large.
const MAX_TOTAL_UNITS: u64 = 250_000;
/// So much of a share is freed at once: the rows of the queue have to be searched for it.
const FREED_PART: u64 = 8;

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

    fn user_key(self) -> Option<UsageKey<'static>> {
        match self {
            Self::Device(user, _) => Some((1, user.0, "")),
            Self::Server(_) => None,
        }
    }

    fn recipient(self, r: &impl Reader) -> Result<String, store::Error> {
        match self {
            Self::Device(user, _) => Ok(id_of(r, user)?.to_string()),
            Self::Server(server) => server_name(r, server),
        }
    }
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

/// Whoever sends a message, as a text that is stored with it: `+` if they share a room with the recipient,
/// else `-`; the account; and behind a blank the user, if the account is their server.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    text: String,
    is_local: bool,
}

impl Sender {
    pub(super) fn local(user: &UserId, is_related: bool) -> Self {
        Self {
            text: format!("{}{user}", sign(is_related)),
            is_local: true,
        }
    }

    pub(super) fn remote(user: &UserId, is_related: bool) -> Self {
        Self {
            text: format!("{}{} {user}", sign(is_related), user.server_name()),
            is_local: false,
        }
    }

    fn is_related(&self) -> bool {
        is_related(&self.text)
    }
}

fn sign(is_related: bool) -> char {
    if is_related { '+' } else { '-' }
}

fn is_related(sender: &str) -> bool {
    sender.starts_with('+')
}

fn account(sender: &str) -> &str {
    sender.split(' ').next().unwrap_or_default()
}

/// Adds a message to a queue, or returns `false`. Refused is a message that is larger than a share, one from an
/// account that shares no room with the recipient if only others' messages fill the user's devices, and a
/// local sender who shares no room with the recipient, if their share is full: else a device that is never used could stop what is sent to others in
/// the same request.
pub(super) fn push(
    tx: &Tx,
    queue: Queue,
    position: Position,
    sender: &Sender,
    json: String,
) -> Result<bool, store::Error> {
    let added = units(&json);
    if !make_room(tx, queue, sender, added)? {
        return Ok(false);
    }
    let row = ToDeviceMessage {
        sender: sender.text.clone(),
        json,
    };
    with_table!(tx, queue, |table, num| table.put((num, position), &row)?);
    change_usage(tx, queue, &sender.text, added, u64::saturating_add)?;
    Ok(true)
}

/// Whether a message of this size can be added, after others have been displaced.
fn make_room(tx: &Tx, queue: Queue, sender: &Sender, added: u64) -> Result<bool, store::Error> {
    let max = match usage(tx, TOTAL)? + added > MAX_TOTAL_UNITS {
        false => MAX_QUEUE_UNITS,
        true => MAX_QUEUE_UNITS / 4,
    };
    let (part, share) = match (queue, sender.is_related()) {
        (Queue::Server(_), _) => (MAX_QUEUE_UNITS, MAX_QUEUE_UNITS),
        (Queue::Device(..), true) => (MAX_QUEUE_UNITS, MAX_SHARE_UNITS),
        (Queue::Device(..), false) => (MAX_UNRELATED_UNITS, MAX_UNRELATED_SHARE_UNITS),
    };
    if added > share.min(max) {
        return Ok(false);
    }
    let gives_way = |other: &str| sender.is_related() || !is_related(other);
    if let (Queue::Device(user, _), Some(key)) = (queue, queue.user_key()) {
        while usage(tx, key)? + added > max * MAX_USER_QUEUES {
            match largest_queue(tx, user, gives_way)? {
                Some(largest) => evict(tx, largest, &senders(tx, largest)?, gives_way, added)?,
                None if sender.is_related() => break,
                None => return Ok(false),
            }
        }
    }
    if usage(tx, queue.usage_key(""))? + added <= share.min(max) {
        return Ok(true);
    }
    loop {
        let senders = senders(tx, queue)?;
        let sum = |counts: &dyn Fn(&str) -> bool| -> u64 {
            let counted = senders.iter().filter(|(sender, _)| counts(sender));
            added + counted.map(|(_, units)| units).sum::<u64>()
        };
        let is_own = |other: &str| account(other) == account(&sender.text);
        let is_of_part = |other: &str| is_related(other) == sender.is_related();
        if sum(&is_own) > share {
            if sender.is_local && !sender.is_related() {
                return Ok(false);
            }
            evict(tx, queue, &senders, is_own, added)?;
        } else if sum(&is_of_part) > part {
            evict(tx, queue, &senders, is_of_part, added)?;
        } else if sum(&|_| true) > max {
            if !senders.keys().any(|other| gives_way(other)) {
                return Ok(false);
            }
            evict(tx, queue, &senders, gives_way, added)?;
        } else {
            return Ok(true);
        }
    }
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

/// The queue of a device of `user` in which the `eligible` senders have the most.
fn largest_queue(
    r: &impl Reader,
    user: UserNum,
    eligible: impl Fn(&str) -> bool,
) -> Result<Option<Queue>, store::Error> {
    let (mut most, mut largest) = (0, None);
    for (_, device) in devices::all(r, user)? {
        let queue = Queue::Device(user, device.num);
        let senders = senders(r, queue)?.into_iter();
        let counted = senders.filter(|(sender, _)| eligible(sender));
        let units = counted.map(|(_, units)| units).sum();
        if units > most {
            (most, largest) = (units, Some(queue));
        }
    }
    Ok(largest)
}

/// Removes the oldest messages of the largest user of the largest of the accounts that are `eligible`.
fn evict(
    tx: &Tx,
    queue: Queue,
    senders: &BTreeMap<String, u64>,
    eligible: impl Fn(&str) -> bool,
    added: u64,
) -> Result<(), store::Error> {
    let mut accounts: BTreeMap<&str, u64> = BTreeMap::new();
    for (sender, units) in senders.iter().filter(|(sender, _)| eligible(sender)) {
        *accounts.entry(account(sender)).or_default() += units;
    }
    let largest = accounts.iter().max_by_key(|(_, units)| **units);
    let largest = largest.map(|(account, _)| *account).unwrap_or_default();
    let of_largest = senders
        .iter()
        .filter(|(sender, _)| account(sender) == largest);
    let Some((sender, counted)) = of_largest.max_by_key(|(_, units)| **units) else {
        // The sums are wrong.
        return clear_usage(tx, queue);
    };
    let wanted = added.max(accounts[largest] / FREED_PART);
    let (mut freed, mut positions) = (0, Vec::new());
    with_table!(tx, queue, |table, num| {
        for row in table.prefix(num)? {
            let (key, row) = row?;
            let Ok(message) = row.record(&key) else {
                continue;
            };
            if message.sender == *sender {
                freed += units(&message.json);
                positions.push(key.value().1);
                if freed >= wanted {
                    break;
                }
            }
        }
    });
    with_table!(tx, queue, |table, num| for position in &positions {
        table.remove((num, *position))?;
    });
    log::warn!(
        "dropped {} to-device messages of {} to {}, which has not fetched them: the queue is full",
        positions.len(),
        &sender[1..],
        queue.recipient(tx)?
    );
    // If there are none, the sum is wrong.
    let freed = if positions.is_empty() {
        *counted
    } else {
        freed
    };
    change_usage(tx, queue, sender, freed, u64::saturating_sub)
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
    if let Some(key) = queue.user_key() {
        change_row(tx, key, units, change)?;
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
