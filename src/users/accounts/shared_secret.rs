//! Registration by tools that know the server's shared secret: Synapse's documented endpoint
//! `/_synapse/admin/v1/register`, which scripts of the field use.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use hmac::{Hmac, KeyInit, Mac};
use ruma::serde::{Base64, base64::UrlSafe};
use sha1::Sha1;

use crate::{
    clock::Clock,
    config::Secret,
    users::{Error, Users, expiring::Expiring},
};

/// How long a nonce can be used.
const LIFETIME_MS: u64 = 60_000;
/// How many nonces live at once.
const MOST: usize = 256;

/// The nonces given out and not used yet.
#[derive(Debug)]
pub(in crate::users) struct Nonces {
    clock: Clock,
    given: Mutex<Expiring<()>>,
}

impl Nonces {
    pub(in crate::users) fn new(clock: Clock) -> Self {
        Self {
            clock,
            given: Mutex::new(Expiring::new(LIFETIME_MS, MOST)),
        }
    }

    fn give(&self) -> String {
        let nonce = Base64::<UrlSafe, _>::new(rand::random::<[u8; 32]>()).encode();
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.insert(self.clock.now_ms(), nonce.clone(), ());
        nonce
    }

    fn take(&self, nonce: &str) -> bool {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.remove(self.clock.now_ms(), nonce).is_some()
    }
}

/// What a tool signs with the shared secret.
pub struct SharedSecretRequest<'a> {
    /// The nonce that the server gave.
    pub nonce: &'a str,
    /// The name of the new user.
    pub username: &'a str,
    /// The password.
    pub password: &'a str,
    /// Whether the new user administers the server.
    pub admin: bool,
    /// Synapse's kind of user, if the tool names one.
    pub user_type: Option<&'a str>,
    /// HMAC-SHA1 over the above, in hexadecimal digits.
    pub mac: &'a str,
}

impl fmt::Debug for SharedSecretRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSecretRequest")
            .field("username", &self.username)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

impl SharedSecretRequest<'_> {
    fn is_signed_with(&self, secret: &str) -> bool {
        let Some(mac) = from_hex(self.mac) else {
            return false;
        };
        let mut hmac = Hmac::<Sha1>::new_from_slice(secret.as_bytes())
            .expect("HMAC takes keys of every length");
        let admin = if self.admin { "admin" } else { "notadmin" };
        let fields = [self.nonce, self.username, self.password, admin];
        for (at, field) in fields.into_iter().chain(self.user_type).enumerate() {
            if at > 0 {
                hmac.update(&[0]);
            }
            hmac.update(field.as_bytes());
        }
        hmac.verify_slice(&mac).is_ok()
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect();
    let digits = digits?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

impl Users {
    /// A nonce for one registration within a minute.
    ///
    /// # Errors
    /// [`Error::RegistrationClosed`] if the server has no shared secret.
    pub fn shared_secret_nonce(&self) -> Result<String, Error> {
        self.shared_secret()?;
        Ok(self.nonces.give())
    }

    /// Whether `request` is signed with the server's shared secret. Uses up its nonce.
    ///
    /// # Errors
    /// [`Error::RegistrationClosed`] if the server has no shared secret, [`Error::InvalidParam`]
    /// if the nonce is not one that can be used, [`Error::WrongSignature`] if the signature is
    /// another.
    pub fn check_shared_secret(&self, request: &SharedSecretRequest<'_>) -> Result<(), Error> {
        let secret = self.shared_secret()?;
        if !self.nonces.take(request.nonce) {
            return Err(Error::InvalidParam("this nonce is not known"));
        }
        if !request.is_signed_with(secret) {
            return Err(Error::WrongSignature);
        }
        Ok(())
    }

    fn shared_secret(&self) -> Result<&str, Error> {
        self.options
            .registration_shared_secret
            .as_ref()
            .map(Secret::expose)
            .ok_or(Error::RegistrationClosed(
                "this server has no registration_shared_secret",
            ))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::users::testing::with_server;

    fn request<'a>(nonce: &'a str, mac: &'a str) -> SharedSecretRequest<'a> {
        SharedSecretRequest {
            nonce,
            username: "alice",
            password: "correct horse battery",
            admin: true,
            user_type: None,
            mac,
        }
    }

    fn sign(secret: &str, message: &str) -> String {
        let mut hmac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
        hmac.update(message.as_bytes());
        let bytes = hmac.finalize().into_bytes();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_signature_is_the_one_that_synapse_documents() {
        // From `printf 'abcd\0alice\0correct horse battery\0admin' | openssl sha1 -hmac shared`.
        let mac = "3e5d49a3bd8b7e343ea170bdaab8ee7c40a06c43";
        assert!(request("abcd", mac).is_signed_with("shared"));
        assert!(!request("abcd", mac).is_signed_with("Shared"));
        let user_type = SharedSecretRequest {
            user_type: Some("bot"),
            ..request("abcd", mac)
        };
        assert!(!user_type.is_signed_with("shared"));
        let no_admin = SharedSecretRequest {
            admin: false,
            ..request("abcd", mac)
        };
        assert!(!no_admin.is_signed_with("shared"));
        for bad in ["", "zz", "abc", &mac[1..]] {
            assert!(!request("abcd", bad).is_signed_with("shared"));
        }
    }

    #[test]
    fn a_nonce_serves_once_and_for_a_minute() {
        with_server(async |server| {
            let users = &server.users;
            let signed = |nonce: &str| {
                sign(
                    "shared",
                    &format!("{nonce}\0alice\0correct horse battery\0admin"),
                )
            };
            let nonce = users.shared_secret_nonce().unwrap();
            let mac = signed(&nonce);
            users.check_shared_secret(&request(&nonce, &mac)).unwrap();
            assert!(matches!(
                users.check_shared_secret(&request(&nonce, &mac)),
                Err(Error::InvalidParam(_))
            ));

            let nonce = users.shared_secret_nonce().unwrap();
            assert!(matches!(
                users.check_shared_secret(&request(&nonce, &mac)),
                Err(Error::WrongSignature)
            ));
            let mac = signed(&nonce);
            assert!(
                users.check_shared_secret(&request(&nonce, &mac)).is_err(),
                "a wrong guess uses the nonce up"
            );

            let nonce = users.shared_secret_nonce().unwrap();
            server.clock.advance(Duration::from_millis(LIFETIME_MS + 1));
            let mac = signed(&nonce);
            assert!(matches!(
                users.check_shared_secret(&request(&nonce, &mac)),
                Err(Error::InvalidParam(_))
            ));
        });
    }
}
