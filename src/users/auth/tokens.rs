//! The secrets that open accounts. The database holds their SHA-256 only.

use std::fmt;

use ruma::serde::{Base64, base64::UrlSafe};
use sha2::{Digest, Sha256};

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// What a token is for. Each kind has a prefix of its own, so that a leaked token can be told for
/// what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::users) enum Kind {
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

/// A token in the clear, on its way to the client.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A new token with 256 random bits.
    pub(in crate::users) fn generate(kind: Kind) -> Self {
        let secret = Base64::<UrlSafe, _>::new(rand::random::<[u8; 32]>());
        Self(format!("{}{}", kind.prefix(), secret.encode()))
    }

    /// What the database knows it by.
    pub(in crate::users) fn hash(&self) -> TokenHash {
        hash(&self.0)
    }

    /// The text for the client.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What the database knows `token` by.
pub(in crate::users) fn hash(token: &str) -> TokenHash {
    Sha256::digest(token).into()
}
