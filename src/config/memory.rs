//! One number for the memory of the whole process, and what each part gets of it.
//!
//! The program itself takes about 12 MB and one password hash 19 MiB; the shares below leave room
//! for both from 64M on.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

const K: usize = 1024;
const M: usize = 1024 * K;
const G: usize = 1024 * M;

/// What an idle connection costs, measured: 27 KiB, with TLS 29 KiB.
const CONNECTION: usize = 32 * K;

/// How much memory the process may use, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory(usize);

impl Memory {
    /// What a server gets that was not told otherwise.
    pub const DEFAULT: Self = Self(128 * M);
    /// With less, the shares are too small to work with.
    const LEAST: Self = Self(32 * M);

    /// What the database may keep of its pages.
    pub fn database_cache(self) -> usize {
        self.0 / 8 * 3
    }

    /// How many connections are served at once, of all clients and servers together.
    pub fn connections(self) -> usize {
        (self.0 / 8 / CONNECTION).clamp(64, 8192)
    }

    /// How many bytes of request bodies are held at once.
    pub fn bodies(self) -> usize {
        self.0 / 16
    }

    /// How many clients' rates are remembered.
    pub fn rates(self) -> usize {
        // An entry takes about 64 bytes of the 1/128 that this is.
        self.0 / 128 / 64
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for Memory {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "a size is a number and a unit, as \"128M\" or \"1G\"";
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: usize = number.parse().map_err(|_| EXPECTED)?;
        let unit = match unit.trim() {
            "K" | "KB" | "KiB" => K,
            "M" | "MB" | "MiB" => M,
            "G" | "GB" | "GiB" => G,
            _ => return Err(EXPECTED),
        };
        let memory = Self(number.checked_mul(unit).ok_or("that is too much memory")?);
        if memory < Self::LEAST {
            return Err("the server needs at least 32M");
        }
        Ok(memory)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M", self.0 / M)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn a_size_is_a_number_and_a_unit() {
        for text in ["1024M", "1G", "1GB", "1GiB", "1048576K", "1 G"] {
            assert_eq!(text.parse::<Memory>(), Ok(Memory(1 << 30)), "{text}");
        }
        for text in [
            "",
            "M",
            "128",
            "-1M",
            "128X",
            "1.5G",
            "99999999999999999999G",
        ] {
            text.parse::<Memory>().expect_err(text);
        }
        "31M"
            .parse::<Memory>()
            .expect_err("too little to work with");
    }

    #[test]
    fn the_shares_leave_room_for_the_program_and_one_password() {
        const PROGRAM: usize = 12 << 20;
        const PASSWORD: usize = 19 << 20;
        for text in ["64M", "128M", "1G"] {
            let memory: Memory = text.parse().unwrap();
            let shares = memory.database_cache()
                + memory.connections() * super::CONNECTION
                + memory.bodies()
                + memory.rates() * 64;
            assert!(
                shares + PROGRAM + PASSWORD <= memory.0 + (4 << 20),
                "{text}"
            );
        }
    }
}
