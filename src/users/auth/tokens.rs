//! Access, refresh, login and OpenID tokens. The database has only their SHA-256.

use std::fmt;

use ruma::serde::{Base64, base64::UrlSafe};
use sha2::{Digest, Sha256};

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// What a token is for. The prefix shows what a leaked token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Access,
    Refresh,
    Login,
    OpenId,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Access => "hth_",
            Self::Refresh => "hthr_",
            Self::Login => "hthl_",
            Self::OpenId => "htho_",
        }
    }
}

/// A token in the clear, to be sent to the client.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A new token with 256 random bits.
    pub(super) fn generate(kind: Kind) -> Self {
        let secret = Base64::<UrlSafe, _>::new(rand::random::<[u8; 32]>());
        Self(format!("{}{}", kind.prefix(), secret.encode()))
    }

    pub(super) fn hash(&self) -> TokenHash {
        hash(&self.0)
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

pub(in crate::users) fn hash(token: &str) -> TokenHash {
    Sha256::digest(token).into()
}
