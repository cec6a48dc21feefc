//! Passwords: argon2id with 19 MiB and two passes, the smallest setting that OWASP recommends, so
//! that a board of 512 MB can check one without swapping. Checked on the pool, one at a time.

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::phc::PasswordHash,
};
use ruma::UserId;

use crate::{
    pool::{Kind, Pool},
    users::Error,
};

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// The longest password in bytes.
const LONGEST: usize = 512;
/// The shortest password in characters (client-server API, "Password management").
const SHORTEST: usize = 8;
/// How many different characters a password has at least.
const DISTINCT: usize = 4;

/// Checked when there is no hash to check, so that it takes as long as if there were one. No
/// password is known for it, and a match would not count.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$\
    bm9ib2R5IGtub3dzIGl0$YWxsIG9mIHRoaXMgaXMgYSBkZWNveSwgbm90IGEga2U";

/// Whether `password` will do for `user_id`.
///
/// # Errors
/// [`Error::WeakPassword`] or [`Error::InvalidParam`].
pub(in crate::users) fn check_strength(password: &str, user_id: &UserId) -> Result<(), Error> {
    if password.len() > LONGEST {
        return Err(Error::InvalidParam("a password has at most 512 bytes"));
    }
    if password.chars().count() < SHORTEST {
        return Err(Error::WeakPassword("a password has at least 8 characters"));
    }
    let mut distinct: Vec<char> = password.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < DISTINCT {
        return Err(Error::WeakPassword(
            "a password has at least 4 different characters",
        ));
    }
    if password.eq_ignore_ascii_case(user_id.localpart())
        || password.eq_ignore_ascii_case(user_id.as_str())
    {
        return Err(Error::WeakPassword("the user name is not a password"));
    }
    Ok(())
}

/// The PHC string under which `password` is stored.
///
/// # Errors
/// If too many passwords are waiting.
pub(in crate::users) async fn hash(pool: &Pool, password: String) -> Result<String, Error> {
    let salt: [u8; 16] = rand::random();
    let hash = pool.run(Kind::Password, move || {
        argon2()
            .hash_password_with_salt(password.as_bytes(), &salt)
            .map(|hash: PasswordHash| hash.to_string())
    });
    Ok(hash
        .await?
        .expect("argon2 refuses only salts and passwords of lengths that cannot occur here"))
}

/// Whether `password` is the one stored as `stored`. Takes the same time if there is none.
///
/// # Errors
/// If too many passwords are waiting.
pub(in crate::users) async fn verify(
    pool: &Pool,
    password: String,
    stored: Option<String>,
) -> Result<bool, Error> {
    if password.len() > LONGEST {
        return Ok(false);
    }
    let matches = pool.run(Kind::Password, move || {
        let hash = stored.as_deref().unwrap_or(NOBODY);
        let matches = argon2().verify_password(password.as_bytes(), hash).is_ok();
        matches && stored.is_some()
    });
    Ok(matches.await?)
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .expect("these constants are within argon2's bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn verdict(password: &str) -> Result<(), Error> {
        check_strength(password, user_id!("@alice.wonder:example.org"))
    }

    #[test]
    fn weak_passwords_are_refused() {
        for weak in ["", "short7!", "aaaaaaaaaaaa", "ALICE.wonder"] {
            assert!(
                matches!(verdict(weak), Err(Error::WeakPassword(_))),
                "{weak}"
            );
        }
        assert!(verdict("pässwört").is_ok());
    }

    #[test]
    fn a_password_cannot_be_endless() {
        let text = "correct horse battery staple ".repeat(20);
        assert!(verdict(&text[..512]).is_ok());
        assert!(matches!(verdict(&text[..513]), Err(Error::InvalidParam(_))));
    }

    #[test]
    fn a_password_matches_its_own_hash_only() {
        smol::block_on(async {
            let pool = Pool::default();
            let stored = hash(&pool, "correct horse".into()).await.unwrap();
            assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
            let other = hash(&pool, "correct horse".into()).await.unwrap();
            assert_ne!(stored, other, "each hash has a salt of its own");
            for (password, matches) in [("correct horse", true), ("Correct horse", false)] {
                let verdict = verify(&pool, password.into(), Some(stored.clone())).await;
                assert_eq!(verdict.unwrap(), matches);
            }
        });
    }

    #[test]
    fn nobody_is_checked_with_the_same_work_and_never_matches() {
        let pool = Pool::default();
        let own = smol::block_on(hash(&pool, "correct horse".into())).unwrap();
        let work = |hash: &str| {
            let hash = PasswordHash::new(hash).unwrap();
            let length = hash.hash.map(|hash| hash.len());
            (Params::try_from(&hash).unwrap(), length)
        };
        assert_eq!(work(NOBODY), work(&own));
        assert!(!smol::block_on(verify(&pool, "anything".into(), None)).unwrap());
    }
}
