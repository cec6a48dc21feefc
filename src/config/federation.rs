//! Which other servers this one has to do with.

use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Deserializer, de};

/// Which other servers this one has to do with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Federation {
    /// All.
    On,
    /// None.
    Off,
    /// These.
    With(Vec<OwnedServerName>),
}

impl Federation {
    /// Whether this server has to do with `server`.
    pub fn allows(&self, server: &ServerName) -> bool {
        match self {
            Self::On => true,
            Self::Off => false,
            Self::With(friends) => friends.iter().any(|friend| friend == server),
        }
    }
}

impl<'de> Deserialize<'de> for Federation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "not \"on\", \"off\" or a list of server names")]
        enum Written {
            Word(String),
            Names(Vec<OwnedServerName>),
        }
        match Written::deserialize(deserializer)? {
            Written::Word(word) if word == "on" => Ok(Self::On),
            Written::Word(word) if word == "off" => Ok(Self::Off),
            Written::Word(_) => Err(de::Error::custom(
                "not \"on\", \"off\" or a list of server names",
            )),
            Written::Names(names) => Ok(Self::With(names)),
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::Federation;
    use crate::config::Settings;

    fn read(value: &str) -> Option<Federation> {
        let settings = Settings::parse(&format!("federation = {value}"));
        settings.ok().map(|settings| settings.federation)
    }

    #[test]
    fn a_server_has_to_do_with_all_others_with_none_or_with_friends() {
        let friend = server_name!("friend.example");
        let stranger = server_name!("stranger.example");
        let allowed = |value: &str| {
            let federation = read(value).expect("a value");
            [friend, stranger].map(|server| federation.allows(server))
        };
        assert_eq!(allowed("\"on\""), [true, true]);
        assert_eq!(allowed("\"off\""), [false, false]);
        assert_eq!(allowed("[\"friend.example\"]"), [true, false]);
    }

    #[test]
    fn anything_else_is_refused() {
        for value in ["\"yes\"", "true", "[1]", "[\"not a name\"]"] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
