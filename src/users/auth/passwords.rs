//! Password hashing: argon2id with 19 MiB and two passes, the smallest setting that OWASP recommends.
//! It runs on the pool, one hash at a time, so that a board with 512 MB does not swap.
//!
//! argon2 works in the stack of a thread that lives for one hash. The kernel takes that memory back
//! when the thread ends; a heap may keep freed blocks of this size.

use std::{net::IpAddr, thread};

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{self, Output, ParamsString, Salt},
};
use ruma::UserId;

use crate::{
    pool::{self, Kind, Pool},
    rates::site,
    store::DeviceNum,
    users::Error,
};

const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// What argon2 works in: one block is one KiB.
const BLOCKS: usize = MEMORY_KIB as usize;
/// The blocks, and what the functions themselves need.
const STACK_BYTES: usize = BLOCKS * Block::SIZE + 256 * 1024;

const MAX_PASSWORD_BYTES: usize = 512;
/// Client-server API, "Password management".
const MIN_PASSWORD_CHARS: usize = 8;
const MIN_DISTINCT_CHARS: usize = 4;

/// A hash of no known password. It is checked where an account has no hash, so that the response takes
/// as long as for an account that has one.
const DECOY_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$\
    bm9ib2R5IGtub3dzIGl0$YWxsIG9mIHRoaXMgaXMgYSBkZWNveSwgbm90IGEga2U";

/// Who wants a password to be checked or hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PasswordClient {
    /// Nobody is logged in: the address of the client.
    Network(IpAddr),
    Device(DeviceNum),
}

impl PasswordClient {
    /// One of all clients that share a turn.
    pub(in crate::users) fn of_site(self) -> Self {
        match self {
            Self::Network(address) => Self::Network(site(address)),
            Self::Device(_) => self,
        }
    }
}

/// The PHC string under which a password is stored.
#[derive(Clone)]
pub struct PasswordHash(pub(in crate::users) String);

/// The password of a new account.
pub enum NewPassword {
    Clear(String),
    Hashed(PasswordHash),
}

/// Checks that `user_id` may have `password`.
///
/// # Errors
/// [`Error::WeakPassword`], or [`Error::InvalidParam`] if it is too long.
pub(in crate::users) fn check_strength(password: &str, user_id: &UserId) -> Result<(), Error> {
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(Error::InvalidParam("a password has at most 512 bytes"));
    }
    if password.chars().count() < MIN_PASSWORD_CHARS {
        return Err(Error::WeakPassword("a password has at least 8 characters"));
    }
    let mut distinct: Vec<char> = password.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() < MIN_DISTINCT_CHARS {
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
/// [`Error::Busy`].
pub(in crate::users) async fn hash(pool: &Pool, password: String) -> Result<String, Error> {
    let salt: [u8; Salt::RECOMMENDED_LENGTH] = rand::random();
    let hash = pool.run(Kind::Password, move || {
        let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect(BOUNDS);
        let output = argon2id(&params, password.as_bytes(), &salt, OUTPUT_BYTES)?;
        let hash = phc::PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&params).expect(BOUNDS),
            salt: Some(Salt::new(&salt).expect(BOUNDS)),
            hash: output,
        };
        Ok(hash.to_string())
    });
    hash.await?
}

/// Whether `stored` is a hash of `password`. Takes as long where there is no hash.
///
/// # Errors
/// [`Error::Busy`].
pub(in crate::users) async fn verify(
    pool: &Pool,
    password: String,
    stored: Option<String>,
) -> Result<bool, Error> {
    if password.len() > MAX_PASSWORD_BYTES {
        return Ok(false);
    }
    let matches = pool.run(Kind::Password, move || {
        let hash = stored.as_deref().unwrap_or(DECOY_HASH);
        Ok(matches(password.as_bytes(), hash)? && stored.is_some())
    });
    matches.await?
}

fn matches(password: &[u8], hash: &str) -> Result<bool, Error> {
    let Ok(hash) = phc::PasswordHash::new(hash) else {
        return Ok(false);
    };
    let (Ok(params), Some(salt), Some(expected)) = (Params::try_from(&hash), hash.salt, hash.hash)
    else {
        return Ok(false);
    };
    // `Output` compares in constant time.
    Ok(argon2id(&params, password, &salt, expected.len())? == Some(expected))
}

const OUTPUT_BYTES: usize = Params::DEFAULT_OUTPUT_LEN;
const BOUNDS: &str = "the constants of this module are within argon2's bounds";

/// `None` if argon2 refuses these parameters.
fn argon2id(
    params: &Params,
    password: &[u8],
    salt: &[u8],
    length: usize,
) -> Result<Option<Output>, Error> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let hash = || {
        let mut blocks = [Block::new(); BLOCKS];
        let mut output = [0; Output::MAX_LENGTH];
        let output = output.get_mut(..length)?;
        argon2
            .hash_password_into_with_memory(password, salt, output, &mut blocks[..])
            .ok()?;
        Output::new(output).ok()
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, hash).map_err(|error| {
            log::error!(
                "cannot start a thread with 19 MiB of memory to check a password: {error}; the \
                 client gets an error and may retry; free some memory of this machine"
            );
            pool::Error
        })?;
        Ok(thread.join().expect("argon2 does not panic"))
    })
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
    fn a_password_of_more_than_512_bytes_is_refused() {
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
    fn a_user_without_password_costs_the_same_work_and_never_matches() {
        let pool = Pool::default();
        let own = smol::block_on(hash(&pool, "correct horse".into())).unwrap();
        let work = |hash: &str| {
            let hash = phc::PasswordHash::new(hash).unwrap();
            let length = hash.hash.map(|hash| hash.len());
            (Params::try_from(&hash).unwrap(), length)
        };
        assert_eq!(work(DECOY_HASH), work(&own));
        assert!(!smol::block_on(verify(&pool, "anything".into(), None)).unwrap());
    }
}
