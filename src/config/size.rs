use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

const K: u64 = 1024;
const M: u64 = 1024 * K;
const G: u64 = 1024 * M;
const T: u64 = 1024 * G;

/// An amount of bytes: `"100M"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    pub const fn mebi(count: u64) -> Self {
        Self(count * M)
    }

    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "a size is a number and a unit, as \"128M\" or \"1G\"";
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        let unit = match unit.trim() {
            "K" | "KB" | "KiB" => K,
            "M" | "MB" | "MiB" => M,
            "G" | "GB" | "GiB" => G,
            "T" | "TB" | "TiB" => T,
            _ => return Err(EXPECTED),
        };
        number.checked_mul(unit).map(Self).ok_or("that is too much")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = |unit: u64| (self.0 / unit, self.0 % unit * 10 / unit);
        match self.0 {
            0..M => write!(f, "{} kB", self.0.div_ceil(K)),
            M..G => {
                let (whole, tenth) = tenths(M);
                write!(f, "{whole}.{tenth} MB")
            }
            _ => {
                let (whole, tenth) = tenths(G);
                write!(f, "{whole}.{tenth} GB")
            }
        }
    }
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        for text in ["1024M", "1G", "1GB", "1GiB", "1048576K", "1 G"] {
            assert_eq!(text.parse(), Ok(Size(1 << 30)), "{text}");
        }
        for text in [
            "",
            "M",
            "128",
            "-1M",
            "128X",
            "1.5G",
            "99999999999999999999G",
            "99999999999T",
        ] {
            text.parse::<Size>().expect_err(text);
        }
    }

    #[test]
    fn a_size_is_shown_in_the_unit_that_fits() {
        for (bytes, shown) in [
            (0, "0 kB"),
            (1, "1 kB"),
            (3 << 19, "1.5 MB"),
            (25 << 28, "6.2 GB"),
        ] {
            assert_eq!(Size(bytes).to_string(), shown);
        }
    }
}
