use std::time::UNIX_EPOCH;

use serde::{Deserialize, Deserializer, de};

/// Which media the paths of before authenticated media give to everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnauthenticatedMedia {
    #[default]
    None,
    All,
    /// What is older than this, in milliseconds since the epoch.
    Before(u64),
}

impl UnauthenticatedMedia {
    /// Whether it includes what was stored at `created_ts`.
    pub fn includes(self, created_ts: u64) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Before(ts) => created_ts < ts,
        }
    }
}

impl<'de> Deserialize<'de> for UnauthenticatedMedia {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "none" => Ok(Self::None),
            "all" => Ok(Self::All),
            date => {
                let midnight = humantime::parse_rfc3339(&format!("{date}T00:00:00Z"));
                let since_epoch = midnight
                    .ok()
                    .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let ts = since_epoch.and_then(|time| u64::try_from(time.as_millis()).ok());
                ts.map(Self::Before)
                    .ok_or_else(|| de::Error::custom("not \"none\", \"all\" or a date"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;

    #[test]
    fn a_date_includes_what_is_older() {
        let read = |value: &str| {
            let settings = Settings::parse(&format!("unauthenticated_media = {value}"));
            settings.map(|settings| settings.unauthenticated_media)
        };
        let before = read("\"2026-12-01\"").unwrap();
        assert!(before.includes(1_796_083_199_999) && !before.includes(1_796_083_200_000));
        assert!(read("\"all\"").unwrap().includes(u64::MAX));
        assert!(!read("\"none\"").unwrap().includes(0));
        for wrong in ["\"yesterday\"", "\"2026-13-01\"", "true", "\"1960-01-01\""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
