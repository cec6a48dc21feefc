use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Deserializer, de};

/// With which other servers this one federates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Federation {
    On,
    Off,
    Only(Vec<OwnedServerName>),
}

impl Federation {
    pub fn allows(&self, server: &ServerName) -> bool {
        match self {
            Self::On => true,
            Self::Off => false,
            Self::Only(servers) => servers.iter().any(|allowed| allowed == server),
        }
    }
}

impl<'de> Deserialize<'de> for Federation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "not \"on\", \"off\" or a list of server names")]
        enum Value {
            Word(String),
            Names(Vec<OwnedServerName>),
        }
        match Value::deserialize(deserializer)? {
            Value::Word(word) if word == "on" => Ok(Self::On),
            Value::Word(word) if word == "off" => Ok(Self::Off),
            Value::Word(_) => Err(de::Error::custom(
                "not \"on\", \"off\" or a list of server names",
            )),
            Value::Names(names) => Ok(Self::Only(names)),
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
    fn a_server_has_to_do_with_all_others_with_none_or_with_servers() {
        let friend = server_name!("friend.example");
        let other = server_name!("other.example");
        let allowed = |value: &str| {
            let federation = read(value).expect("a value");
            [friend, other].map(|server| federation.allows(server))
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
