//! At which position whose list of devices changed: what `/sync` and `/keys/changes` tell, and what
//! other servers are told of local users.
//!
//! [`changed`] and its sisters are called in the job that changes a device, its keys, or the keys with
//! which a user signs devices. Every change is a row of `device_list_log`; of a user only the last ones
//! are kept, of which each names the one before it. Who looks for one that is gone takes the list as it
//! is.

use ruma::DeviceId;

use crate::store::{
    Effect, Error, Position, Reader, Records, Rows, Tx, UserNum,
    records::{DeviceList, ListChange, WhatChanged},
};

/// How many changes are kept of a local user.
const KEPT: usize = 32;

/// Notes that the cross-signing keys of the local user `user` changed.
///
/// # Errors
/// If the tables cannot be written.
pub fn changed(tx: &Tx, user: UserNum) -> Result<(), Error> {
    note(tx, user, WhatChanged::SigningKeys)
}

/// Notes that a device of the local user `user` came, went, or changed its name or its keys.
///
/// # Errors
/// If the tables cannot be written.
pub fn device_changed(tx: &Tx, user: UserNum, device: &DeviceId) -> Result<(), Error> {
    note(tx, user, WhatChanged::Device(device.to_string()))
}

fn note(tx: &Tx, user: UserNum, what: WhatChanged) -> Result<(), Error> {
    let position = tx.next_position()?;
    let mut recent = recent(tx, user)?;
    let change = ListChange {
        user,
        what,
        before: recent.last().copied().unwrap_or_default(),
    };
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

fn recent(reader: &impl Reader, user: UserNum) -> Result<Vec<Position>, Error> {
    let list = reader.device_lists()?.load(user)?;
    Ok(list.map_or_else(Vec::new, |list| list.recent))
}

/// The changes after `after`, up to and including `upto`, oldest first.
///
/// # Errors
/// If the table cannot be read.
pub fn changed_between(
    reader: &impl Reader,
    after: Position,
    upto: Position,
) -> Result<Vec<(Position, ListChange)>, Error> {
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
                changed(tx, bob)
            });
            change.await.unwrap();
            let all = server
                .store
                .read(|s| changed_between(s, Position::MIN, Position::MAX))
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
            assert_eq!((last.user, &last.what), (bob, &WhatChanged::SigningKeys));
        });
    }
}
