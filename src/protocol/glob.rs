//! Globs of users and of other servers: `*` is any bytes, `?` one.
//!
//! The positions of each byte in the text are computed once, as bit sets; then each byte of a glob takes one shift
//! and one intersection, whatever wildcards are around it. (`wildmatch`, which ruma uses, compares every part of
//! a pattern at every position: a server ACL of 500 entries of the form `*aaa…b` takes it 9 ms for one server on
//! a PC.)

/// The longest text: no server name and no user id has more.
pub const MAX_TEXT_BYTES: usize = 255;

/// A text that is compared with globs.
pub struct GlobText<'a> {
    text: &'a str,
    /// The positions of each byte.
    positions: Box<[Positions; 256]>,
}

impl<'a> GlobText<'a> {
    /// `None` if it has more than [`MAX_TEXT_BYTES`].
    pub fn new(text: &'a str) -> Option<Self> {
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let mut positions = Box::new([Positions::default(); 256]);
        for (at, byte) in text.bytes().enumerate() {
            positions[usize::from(byte)].insert(at);
        }
        Some(Self { text, positions })
    }

    pub fn text(&self) -> &'a str {
        self.text
    }

    /// Whether `glob` matches the whole text: `*` any bytes, `?` one.
    pub fn matches(&self, glob: &str) -> bool {
        let text = self.text.as_bytes();
        let Some((prefix, rest)) = glob.split_once('*') else {
            return glob.len() == text.len() && is_at(text, glob);
        };
        let (middle, suffix) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(end) = text.len().checked_sub(suffix.len()) else {
            return false;
        };
        if prefix.len() > end || !is_at(text, prefix) || !is_at(&text[end..], suffix) {
            return false;
        }
        // Each part at its first place leaves the most for the next.
        let mut start = prefix.len();
        for part in middle.split('*').filter(|part| !part.is_empty()) {
            match self.find(part, start) {
                Some(at) if at + part.len() <= end => start = at + part.len(),
                _ => return false,
            }
        }
        true
    }

    /// The first place of `part`, which has no `*`, from `start` on.
    fn find(&self, part: &str, start: usize) -> Option<usize> {
        let mut found = Positions::from(start);
        for (offset, byte) in part.bytes().enumerate() {
            if byte != b'?' {
                found = found.and(self.positions[usize::from(byte)].minus(offset));
            }
            if found.is_empty() {
                return None;
            }
        }
        found.first()
    }
}

/// Whether `text` begins with `part`, which has no `*`.
fn is_at(text: &[u8], part: &str) -> bool {
    text.len() >= part.len()
        && part
            .bytes()
            .zip(text)
            .all(|(of_part, of_text)| of_part == b'?' || of_part == *of_text)
}

/// A set of positions in a text: a bit each, the first 128 in the first number.
#[derive(Clone, Copy, Default)]
struct Positions([u128; 2]);

impl Positions {
    /// All positions from `start` on.
    fn from(start: usize) -> Self {
        match start {
            0..128 => Self([u128::MAX << start, u128::MAX]),
            128..256 => Self([0, u128::MAX << (start - 128)]),
            _ => Self::default(),
        }
    }

    fn insert(&mut self, at: usize) {
        self.0[at / 128] |= 1 << (at % 128);
    }

    fn and(self, other: Self) -> Self {
        Self([self.0[0] & other.0[0], self.0[1] & other.0[1]])
    }

    /// Each position minus `offset`; those before are dropped.
    fn minus(self, offset: usize) -> Self {
        let [low, high] = self.0;
        match offset {
            0 => self,
            1..128 => Self([low >> offset | high << (128 - offset), high >> offset]),
            128..256 => Self([high >> (offset - 128), 0]),
            _ => Self::default(),
        }
    }

    fn is_empty(self) -> bool {
        self.0 == [0, 0]
    }

    fn first(self) -> Option<usize> {
        match self.0 {
            [0, 0] => None,
            [0, high] => Some(128 + high.trailing_zeros() as usize),
            [low, _] => Some(low.trailing_zeros() as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_matches_the_whole_text() {
        for (glob, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("*b*", "abc", true),
            ("a?c", "abc", true),
            ("a**c", "ac", true),
            ("abc", "abcd", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "aab", false),
            ("ü*", "über", true),
        ] {
            let text = GlobText::new(text).expect("it is short");
            assert_eq!(text.matches(glob), expected, "{glob} {}", text.text());
        }
        assert!(GlobText::new(&"a".repeat(256)).is_none());
    }
}
