//! What the owner of the server sees of accounts and does with them.

use rand::RngExt;
use ruma::OwnedUserId;

use super::{
    moderation,
    rows::{NO_USER, load},
    usernames,
};
use crate::{
    store::{
        self, Reader, Rows, Tx, UserNum,
        records::{Account, AccountModeration},
    },
    users::{Error, Users, devices, id_of, num_of},
};

/// Lowercase letters and digits that nobody mistakes for others.
const PASSWORD_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Each character has 5 bits.
const PASSWORD_GROUPS: usize = 4;
const PASSWORD_GROUP_CHARS: usize = 4;

/// An account in a list.
pub struct AccountSummary {
    pub user_id: OwnedUserId,
    pub account: Account,
    pub moderation: AccountModeration,
    pub devices: usize,
    /// When one of the devices last sent a request, in milliseconds since the epoch, an hour more or less.
    pub last_seen_ts: Option<u64>,
}

/// A random password that can be read out on the telephone.
pub fn generate_password() -> String {
    let mut random = rand::rng();
    let mut group = || -> String {
        let chars = (0..PASSWORD_GROUP_CHARS).map(|_| random.random_range(0..32));
        chars
            .map(|at: usize| char::from(PASSWORD_ALPHABET[at]))
            .collect()
    };
    let groups: Vec<_> = (0..PASSWORD_GROUPS).map(|_| group()).collect();
    groups.join("-")
}

/// The first `max` accounts, the oldest first. The work grows with the accounts: run it on the pool.
pub fn summaries(r: &impl Reader, max: usize) -> Result<Vec<AccountSummary>, store::Error> {
    let mut summaries = Vec::new();
    for row in r.accounts()?.all()?.take(max) {
        let (key, row) = row?;
        summaries.push(summary(r, key.value(), row.record(&key)?)?);
    }
    Ok(summaries)
}

pub fn summary(
    r: &impl Reader,
    user: UserNum,
    account: Account,
) -> Result<AccountSummary, store::Error> {
    let devices = devices::sessions(r, user)?;
    Ok(AccountSummary {
        user_id: id_of(r, user)?,
        account,
        moderation: moderation::moderation(r, user)?,
        last_seen_ts: devices.iter().filter_map(|(_, d)| d.last_seen_ts).max(),
        devices: devices.len(),
    })
}

impl Users {
    /// The account of `name`, which is a user id of this server or a localpart, with or without `@`.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn find(&self, name: &str) -> Result<(UserNum, OwnedUserId, Account), Error> {
        let is_localpart = !name.contains(':');
        let name = name
            .strip_prefix('@')
            .filter(|_| is_localpart)
            .unwrap_or(name);
        for user_id in usernames::candidates(name, &self.options.server_name) {
            if let Some((user, account)) = self.account(&user_id)? {
                return Ok((user, user_id, account));
            }
        }
        Err(Error::NotFound(
            "there is no such account on this server; `hearth user list` shows all",
        ))
    }

    /// # Errors
    /// [`Error::NotFound`] if the account is deactivated.
    pub async fn set_admin(&self, user_id: OwnedUserId, admin: bool) -> Result<(), Error> {
        let job = move |tx: &Tx| {
            let user = num_of(tx, &user_id)?.ok_or(NO_USER)?;
            let account = load(tx, user)?.filter(|account| !account.deactivated);
            let account = Account {
                admin,
                ..account.ok_or(NO_USER)?
            };
            Ok(tx.accounts()?.put(user, &account)?)
        };
        self.store.write_shrinking(job).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ruma::user_id;

    use super::generate_password;
    use crate::users::{Error, auth::passwords, testing::with_server};

    #[test]
    fn a_made_up_password_is_strong_and_never_the_same() {
        let made_up: BTreeSet<_> = (0..100).map(|_| generate_password()).collect();
        assert_eq!(made_up.len(), 100);
        for password in made_up {
            assert_eq!(password.len(), 19);
            passwords::check_strength(&password, user_id!("@alice:example.org")).unwrap();
        }
    }

    #[test]
    fn an_account_is_found_by_localpart_and_by_user_id() {
        with_server(async |server| {
            let login = server.register("alice").await;
            for name in ["alice", "@alice", "Alice", login.user_id.as_str()] {
                assert_eq!(server.users.find(name).unwrap().1, login.user_id, "{name}");
            }
            for name in [
                "",
                "@",
                "bob",
                "@alice:elsewhere.example",
                "@:",
                "alice:",
                "\0",
            ] {
                assert!(
                    matches!(server.users.find(name), Err(Error::NotFound(_))),
                    "{name}"
                );
            }
        });
    }
}
