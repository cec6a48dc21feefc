use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A length of time, at least a minute, as `"1day"` or `"12h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(pub Duration);

impl Lifetime {
    pub const DAY: Self = Self(Duration::from_hours(24));
}

impl<'de> Deserialize<'de> for Lifetime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let duration = humantime::parse_duration(&text).map_err(de::Error::custom)?;
        if !(Duration::from_mins(1)..=Duration::from_hours(24 * 365)).contains(&duration) {
            return Err(de::Error::custom("not between a minute and a year"));
        }
        Ok(Self(duration))
    }
}
