//! The log of changes of device lists, for `/sync`, `/keys/changes` and the EDUs to other servers.
//!
//! The job that changes a device, its keys or cross-signing keys calls [`device_changed`] or
//! [`cross_signing_keys_changed`]. The log has the last [`MAX_CHANGES_PER_USER`] changes of each local user,
//! each with the position of the one before it, and the last of each user of another server. A server that
//! misses a change which the log no longer has gets the whole list.

use std::collections::BTreeSet;

use ruma::DeviceId;

use crate::store::{
    Effect, Error, Position, Reader, Records, Rows, Tx, UserNum,
    records::{ChangedPart, DeviceList, DeviceListChange},
};

const MAX_CHANGES_PER_USER: usize = 32;

/// Logs a change of the cross-signing keys of the local user `user`.
pub fn cross_signing_keys_changed(tx: &Tx, user: UserNum) -> Result<(), Error> {
    append(tx, user, ChangedPart::CrossSigningKeys)
}

/// Logs that a device of the local user `user` was created or removed, or changed its name or keys.
pub fn device_changed(tx: &Tx, user: UserNum, device: &DeviceId) -> Result<(), Error> {
    append(tx, user, ChangedPart::Device(device.to_string()))
}

/// Logs the last change of a device of the local user `user` again, for servers that have come to share a
/// room with the user since.
pub fn reannounce(tx: &Tx, user: UserNum) -> Result<(), Error> {
    match last_device_change(tx, user)? {
        Some((_, change)) => append(tx, user, change.what),
        None => Ok(()),
    }
}

/// The same of all local users.
pub fn reannounce_all(tx: &Tx) -> Result<(), Error> {
    let accounts = tx.accounts()?;
    let users: Result<Vec<_>, Error> = accounts.all()?.map(|row| Ok(row?.0.value())).collect();
    drop(accounts);
    for user in users? {
        reannounce(tx, user)?;
    }
    Ok(())
}

fn append(tx: &Tx, user: UserNum, what: ChangedPart) -> Result<(), Error> {
    let position = tx.next_position()?;
    let before = stream_id(tx, user)?;
    let mut recent = recent(tx, user)?;
    let change = DeviceListChange { user, what, before };
    recent.push(position);
    let mut log = tx.device_list_log()?;
    for old in recent.drain(..recent.len().saturating_sub(MAX_CHANGES_PER_USER)) {
        log.remove(old)?;
    }
    log.put(position, &change)?;
    drop(log);
    tx.device_lists()?.put(user, &DeviceList { recent })?;
    tx.effect(Effect::DeviceListChanged(user, position));
    Ok(())
}

/// Logs that the device list of `user`, of another server, changed or may have.
pub fn remote_changed(tx: &Tx, user: UserNum) -> Result<(), Error> {
    let position = tx.next_position()?;
    let mut log = tx.remote_device_list_log()?;
    for old in recent(tx, user)? {
        log.remove(old)?;
    }
    log.insert(position, user)?;
    drop(log);
    let recent = vec![position];
    tx.device_lists()?.put(user, &DeviceList { recent })?;
    tx.effect(Effect::DeviceListChanged(user, position));
    Ok(())
}

/// The position of the last change of the list of `user`, who may be local or not.
pub fn last_change(reader: &impl Reader, user: UserNum) -> Result<Option<Position>, Error> {
    Ok(recent(reader, user)?.last().copied())
}

/// The current `stream_id` of the list of the local user `user`: the position of the last change of a device,
/// 0 if there was none.
pub fn stream_id(reader: &impl Reader, user: UserNum) -> Result<Position, Error> {
    let Some(last) = last_change(reader, user)? else {
        return Ok(Position::MIN);
    };
    let change = reader.device_list_log()?.load(last)?;
    Ok(change.map_or(Position::MIN, |change| match change.what {
        ChangedPart::Device(_) => last,
        ChangedPart::CrossSigningKeys => change.before,
    }))
}

/// The users, local or not, whose lists changed after `after`, up to and including `upto`.
pub fn changed_users(
    reader: &impl Reader,
    after: Position,
    upto: Position,
) -> Result<BTreeSet<UserNum>, Error> {
    let changes = changes_between(reader, after, upto)?.into_iter();
    let mut users: BTreeSet<UserNum> = changes.map(|(_, change)| change.user).collect();
    if after < upto {
        let log = reader.remote_device_list_log()?;
        for row in log.range(Position(after.0 + 1)..=upto)? {
            users.insert(row?.1.value());
        }
    }
    Ok(users)
}

/// Whether any list changed after `after`, up to and including `upto`.
pub fn has_changes(reader: &impl Reader, after: Position, upto: Position) -> Result<bool, Error> {
    if after >= upto {
        return Ok(false);
    }
    let span = Position(after.0 + 1)..=upto;
    let (local, remote) = (reader.device_list_log()?, reader.remote_device_list_log()?);
    let first = local.range(span.clone())?.next().transpose()?;
    Ok(first.is_some() || remote.range(span)?.next().transpose()?.is_some())
}

/// Whether the log may lack changes of `user` after `after`.
pub fn is_truncated_after(
    reader: &impl Reader,
    user: UserNum,
    after: Position,
) -> Result<bool, Error> {
    let recent = recent(reader, user)?;
    Ok(recent.len() >= MAX_CHANGES_PER_USER && recent.first().is_some_and(|first| *first > after))
}

/// The last change of a device of the local user `user`, if the log has it.
pub fn last_device_change(
    reader: &impl Reader,
    user: UserNum,
) -> Result<Option<(Position, DeviceListChange)>, Error> {
    let position = stream_id(reader, user)?;
    let change = reader.device_list_log()?.load(position)?;
    Ok(change.map(|change| (position, change)))
}

fn recent(reader: &impl Reader, user: UserNum) -> Result<Vec<Position>, Error> {
    let list = reader.device_lists()?.load(user)?;
    Ok(list.map_or_else(Vec::new, |list| list.recent))
}

/// The first `limit` changes of local users' lists after `after`, oldest first.
pub fn changes_after(
    reader: &impl Reader,
    after: Position,
    limit: usize,
) -> Result<Vec<(Position, DeviceListChange)>, Error> {
    let log = reader.device_list_log()?;
    let rows = log.range(Position(after.0 + 1)..)?.take(limit);
    rows.map(|row| {
        let (position, change) = row?;
        Ok((position.value(), change.record(&position)?))
    })
    .collect()
}

/// The changes of local users' lists after `after`, up to and including `upto`, oldest first.
pub fn changes_between(
    reader: &impl Reader,
    after: Position,
    upto: Position,
) -> Result<Vec<(Position, DeviceListChange)>, Error> {
    let mut changes = Vec::new();
    if after >= upto {
        return Ok(changes);
    }
    let log = reader.device_list_log()?;
    for row in log.range(Position(after.0 + 1)..=upto)? {
        let (position, change) = row?;
        changes.push((position.value(), change.record(&position)?));
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::testing::{alice_and_bob, with_server};

    #[test]
    fn the_log_has_the_last_changes_of_a_user_each_with_the_position_of_the_one_before() {
        with_server(async |server| {
            let [alice, bob] = alice_and_bob(&server).await;
            let change = server.store.write(move |tx| {
                for _ in 0..2 * MAX_CHANGES_PER_USER {
                    device_changed(tx, alice, "PHONE".into())?;
                }
                cross_signing_keys_changed(tx, bob)
            });
            change.await.unwrap();
            let all = server
                .store
                .read(|s| changes_between(s, Position::MIN, Position::MAX))
                .unwrap();
            let of_alice: Vec<_> = all
                .iter()
                .filter(|(_, change)| change.user == alice)
                .collect();
            assert_eq!(of_alice.len(), MAX_CHANGES_PER_USER);
            for pair in of_alice.windows(2) {
                assert_eq!(pair[1].1.before, pair[0].0);
            }
            assert!(of_alice[0].1.before < of_alice[0].0);
            let (_, last) = all.last().unwrap();
            assert_eq!(
                (last.user, &last.what),
                (bob, &ChangedPart::CrossSigningKeys)
            );
        });
    }
}
