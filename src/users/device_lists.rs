//! At which position whose list of devices changed: what `/sync` and `/keys/changes` tell, and what
//! other servers are told of local users.
//!
//! [`cross_signing_keys_changed`] and its sisters are called in the job that changes a device, its keys, or the keys with
//! which a user signs devices. Every change is a row of `device_list_log`; of a user only the last ones
//! are kept, of which each names the one before it. Who looks for one that is gone takes the list as it
//! is.

use std::collections::BTreeSet;

use ruma::DeviceId;

use crate::store::{
    Effect, Error, Position, Reader, Records, Rows, Tx, UserNum,
    records::{ChangedPart, DeviceList, DeviceListChange},
};

/// How many changes are kept of a local user.
const KEPT: usize = 32;

/// Notes that the cross-signing keys of the local user `user` changed.
///
/// # Errors
/// If the tables cannot be written.
pub fn cross_signing_keys_changed(tx: &Tx, user: UserNum) -> Result<(), Error> {
    note(tx, user, ChangedPart::CrossSigningKeys)
}

/// Notes that a device of the local user `user` came, went, or changed its name or its keys.
///
/// # Errors
/// If the tables cannot be written.
pub fn device_changed(tx: &Tx, user: UserNum, device: &DeviceId) -> Result<(), Error> {
    note(tx, user, ChangedPart::Device(device.to_string()))
}

/// Notes the last change of a device of the local user `user` once more, for those to whom the user was
/// nobody when it happened.
///
/// # Errors
/// If the tables cannot be written.
pub fn reannounce(tx: &Tx, user: UserNum) -> Result<(), Error> {
    match last_device_change(tx, user)? {
        Some((_, change)) => note(tx, user, change.what),
        None => Ok(()),
    }
}

fn note(tx: &Tx, user: UserNum, what: ChangedPart) -> Result<(), Error> {
    let position = tx.next_position()?;
    let before = stream_id(tx, user)?;
    let mut recent = recent(tx, user)?;
    let change = DeviceListChange { user, what, before };
    recent.push(position);
    let mut log = tx.device_list_log()?;
    for old in recent.drain(..recent.len().saturating_sub(KEPT)) {
        log.remove(old)?;
    }
    log.put(position, &change)?;
    drop(log);
    tx.device_lists()?.put(user, &DeviceList { recent })?;
    tx.effect(Effect::DeviceListChanged(user, position));
    Ok(())
}

/// Notes that the devices or the keys of `user` of another server changed, or may have.
///
/// # Errors
/// If the tables cannot be written.
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

/// Where it was last noted that the list of `user` changed.
///
/// # Errors
/// If the tables cannot be read.
pub fn last_change(reader: &impl Reader, user: UserNum) -> Result<Option<Position>, Error> {
    Ok(recent(reader, user)?.last().copied())
}

/// What other servers call the list of the local user `user` as it is: the position of the last change
/// of a device, 0 if there was none.
///
/// # Errors
/// If the tables cannot be read.
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

/// Whose lists changed after `after`, up to and including `upto`, whether they are local or not.
///
/// # Errors
/// If the tables cannot be read.
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

/// Whether anybody's list changed after `after`, up to and including `upto`.
///
/// # Errors
/// If the tables cannot be read.
pub fn has_changes(reader: &impl Reader, after: Position, upto: Position) -> Result<bool, Error> {
    if after >= upto {
        return Ok(false);
    }
    let span = Position(after.0 + 1)..=upto;
    let (local, remote) = (reader.device_list_log()?, reader.remote_device_list_log()?);
    let first = local.range(span.clone())?.next().transpose()?;
    Ok(first.is_some() || remote.range(span)?.next().transpose()?.is_some())
}

/// Whether changes of the list of `user` after `after` may not be kept any more.
///
/// # Errors
/// If the table cannot be read.
pub fn is_truncated_after(
    reader: &impl Reader,
    user: UserNum,
    after: Position,
) -> Result<bool, Error> {
    let recent = recent(reader, user)?;
    Ok(recent.len() >= KEPT && recent.first().is_some_and(|first| *first > after))
}

/// The last change of a device of the local user `user`, if it is kept.
///
/// # Errors
/// If the tables cannot be read.
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

/// The first `most` changes of local users' lists after `after`, oldest first.
///
/// # Errors
/// If the table cannot be read.
pub fn changes_after(
    reader: &impl Reader,
    after: Position,
    most: usize,
) -> Result<Vec<(Position, DeviceListChange)>, Error> {
    let log = reader.device_list_log()?;
    let rows = log.range(Position(after.0 + 1)..)?.take(most);
    rows.map(|row| {
        let (position, change) = row?;
        Ok((position.value(), change.value().unpack()?))
    })
    .collect()
}

/// The changes of local users' lists after `after`, up to and including `upto`, oldest first.
///
/// # Errors
/// If the table cannot be read.
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
        changes.push((position.value(), change.value().unpack()?));
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::testing::{alice_and_bob, with_server};

    #[test]
    fn the_log_keeps_the_last_changes_of_a_user_each_with_the_one_before_it() {
        with_server(async |server| {
            let [alice, bob] = alice_and_bob(&server).await;
            let change = server.store.write(move |tx| {
                for _ in 0..2 * KEPT {
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
            assert_eq!(of_alice.len(), KEPT);
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
