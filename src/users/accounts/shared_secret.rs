//! Registration with the server's shared secret: Synapse's endpoint `/_synapse/admin/v1/register`.

use std::{fmt, net::IpAddr, time::Duration};

use hmac::{Hmac, KeyInit, Mac};
use ruma::serde::{Base64, base64::UrlSafe};
use sha1::Sha1;

use crate::{
    config::Secret,
    users::{Error, Users},
};

const NONCE_LIFETIME: Duration = Duration::from_mins(1);

pub struct SharedSecretRequest<'a> {
    /// From [`Users::shared_secret_nonce`].
    pub nonce: &'a str,
    pub username: &'a str,
    pub password: &'a str,
    pub admin: bool,
    pub user_type: Option<&'a str>,
    /// HMAC-SHA1 over the other fields, in hexadecimal digits.
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
    /// A nonce for one registration by a client of `network`. If there are too many nonces, the network with
    /// the most of them loses the oldest.
    ///
    /// # Errors
    /// [`Error::RegistrationClosed`] if the server has no shared secret.
    pub fn shared_secret_nonce(&self, network: IpAddr) -> Result<String, Error> {
        self.shared_secret()?;
        let nonce = Base64::<UrlSafe, _>::new(rand::random::<[u8; 32]>()).encode();
        self.nonces
            .insert_for_holder(nonce.clone(), network, NONCE_LIFETIME, |network| *network);
        Ok(nonce)
    }

    /// Checks that `request` is signed with the server's shared secret. Removes its nonce.
    ///
    /// # Errors
    /// [`Error::RegistrationClosed`] if the server has no shared secret, [`Error::InvalidParam`] if the nonce
    /// is unknown, [`Error::WrongSignature`].
    pub fn check_shared_secret(&self, request: &SharedSecretRequest<'_>) -> Result<(), Error> {
        let secret = self.shared_secret()?;
        if self.nonces.remove(request.nonce).is_none() {
            return Err(Error::InvalidParam(
                "`nonce` has been used, has expired, or is unknown",
            ));
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
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{store::hex, users::testing::with_server};

    const NETWORK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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
        hex(&hmac.finalize().into_bytes())
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
    fn one_network_cannot_flush_the_nonce_of_another() {
        with_server(async |server| {
            let nonce = server.users.shared_secret_nonce(NETWORK).unwrap();
            for _ in 0..1000 {
                let other = Ipv4Addr::new(192, 0, 2, 1).into();
                server.users.shared_secret_nonce(other).unwrap();
            }
            let mac = sign(
                "shared",
                &format!("{nonce}\0alice\0correct horse battery\0admin"),
            );
            let checked = server.users.check_shared_secret(&request(&nonce, &mac));
            assert!(checked.is_ok());
        });
    }

    #[test]
    fn a_nonce_can_be_used_once_within_a_minute() {
        with_server(async |server| {
            let users = &server.users;
            let signed = |nonce: &str| {
                sign(
                    "shared",
                    &format!("{nonce}\0alice\0correct horse battery\0admin"),
                )
            };
            let nonce = users.shared_secret_nonce(NETWORK).unwrap();
            let mac = signed(&nonce);
            users.check_shared_secret(&request(&nonce, &mac)).unwrap();
            assert!(matches!(
                users.check_shared_secret(&request(&nonce, &mac)),
                Err(Error::InvalidParam(_))
            ));

            let nonce = users.shared_secret_nonce(NETWORK).unwrap();
            assert!(matches!(
                users.check_shared_secret(&request(&nonce, &mac)),
                Err(Error::WrongSignature)
            ));
            let mac = signed(&nonce);
            assert!(
                users.check_shared_secret(&request(&nonce, &mac)).is_err(),
                "a wrong guess uses the nonce up"
            );

            let nonce = users.shared_secret_nonce(NETWORK).unwrap();
            let expired = NONCE_LIFETIME + Duration::from_millis(1);
            server.clock.advance(expired);
            let mac = signed(&nonce);
            assert!(matches!(
                users.check_shared_secret(&request(&nonce, &mac)),
                Err(Error::InvalidParam(_))
            ));
        });
    }
}
