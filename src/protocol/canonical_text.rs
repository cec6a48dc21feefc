//! Canonical JSON of a text, with numbers as they were sent.
//!
//! Synapse also signs numbers that canonical JSON forbids, such as `0.5` or 2^53. So a signature is checked
//! over the text: such a number costs only the event or EDU that has it. Whoever checks a signature must
//! parse the text that is returned here, not the received one: if an object has a key twice, only the last
//! value is signed.
//!
//! Source: appendices, "Canonical JSON".

use std::{borrow::Cow, cmp::Ordering, ops::Range};

use memchr::memchr2;
use ruma::Int;
use serde_json::value::RawValue;

/// Deeper values are appended as they were sent: they must be canonical already. It limits the stack.
const MAX_SORTED_DEPTH: usize = 128;
/// Python reads no integer of more than 4,300 digits.
const MAX_NUMBER_BYTES: usize = 1000;

#[derive(Debug, thiserror::Error)]
pub enum CanonicalTextError {
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a number that is too large: {0}")]
    Number(String),
    #[error("a number that canonical JSON does not have: {0}")]
    NotCanonical(String),
    #[error("more than 4 GiB")]
    TooLarge,
}

/// The canonical form of `json`, which is no longer than `json`.
pub fn canonical_text(json: &[u8]) -> Result<String, CanonicalTextError> {
    let mut output = String::with_capacity(json.len());
    Canonicalizer::run(&mut output, json, |number| Ok(number.into()))?;
    Ok(output)
}

/// Appends the canonical form of the body of a request to `output`. Strings that are no Unicode, as half of a
/// surrogate pair is none, stay as they were sent: like a number, one costs only the event or EDU that has it.
pub fn append_request_text(output: &mut String, json: &[u8]) -> Result<(), CanonicalTextError> {
    Canonicalizer::run_with(output, json, |number| Ok(number.into()), true)
}

/// The canonical form of `json`, with numbers as Python writes them: Synapse checks a signature over the
/// numbers as it writes them itself.
pub fn normalized_text(json: &[u8]) -> Result<String, CanonicalTextError> {
    let mut output = String::with_capacity(json.len());
    Canonicalizer::run(&mut output, json, normalized_number)?;
    Ok(output)
}

/// The canonical form of `json`, if all its numbers are those of canonical JSON: integers of at most
/// 2^53 − 1, positive or negative.
pub fn strict_text(json: &[u8]) -> Result<String, CanonicalTextError> {
    let mut output = String::with_capacity(json.len());
    Canonicalizer::run(&mut output, json, |number| {
        let canonical = number
            .parse::<i64>()
            .ok()
            .and_then(|n| Int::try_from(n).ok());
        match canonical {
            Some(_) if number != "-0" => Ok(number.into()),
            _ => Err(CanonicalTextError::NotCanonical(shortened(number))),
        }
    })?;
    Ok(output)
}

/// The canonical form of `json` with numbers as they were sent, if all of them fit into a double.
pub fn finite_text(json: &[u8]) -> Result<String, CanonicalTextError> {
    let mut output = String::with_capacity(json.len());
    Canonicalizer::run(&mut output, json, |number| {
        let is_finite = number.parse::<f64>().is_ok_and(f64::is_finite);
        match number.len() <= MAX_NUMBER_BYTES && is_finite {
            true => Ok(number.into()),
            false => Err(CanonicalTextError::Number(shortened(number))),
        }
    })?;
    Ok(output)
}

fn shortened(number: &str) -> String {
    number.chars().take(30).collect()
}

/// Integers stay as they are, whatever their size. Others have the fewest digits that distinguish them.
fn normalized_number(number: &str) -> Result<Cow<'_, str>, CanonicalTextError> {
    let too_large = || CanonicalTextError::Number(shortened(number));
    if number.len() > MAX_NUMBER_BYTES {
        return Err(too_large());
    }
    if !number.contains(['.', 'e', 'E']) {
        return Ok(if number == "-0" { "0" } else { number }.into());
    }
    let value = number.parse::<f64>().ok().filter(|value| value.is_finite());
    let text = format!("{:?}", value.ok_or_else(too_large)?);
    // Rust and Python differ only in how they write the exponent.
    let Some((digits, exponent)) = text.split_once('e') else {
        return Ok(text.into());
    };
    let sign = if exponent.starts_with('-') { '-' } else { '+' };
    let exponent = exponent.trim_start_matches('-');
    Ok(format!("{digits}e{sign}{exponent:0>2}").into())
}

/// Writes JSON that is known to be valid. The time is linear in its size, apart from sorting: each value is
/// written once, in its place.
struct Canonicalizer<'a, N> {
    text: &'a str,
    /// Where the next token begins, or whitespace before it.
    position: usize,
    unsorted: UnsortedObjects,
    output: &'a mut String,
    number: N,
    /// Whether strings that are no Unicode are appended as they were sent.
    keeps_surrogates: bool,
}

impl<'a, N> Canonicalizer<'a, N>
where
    N: Fn(&'a str) -> Result<Cow<'a, str>, CanonicalTextError>,
{
    fn run(output: &'a mut String, json: &'a [u8], number: N) -> Result<(), CanonicalTextError> {
        Self::run_with(output, json, number, false)
    }

    fn run_with(
        output: &'a mut String,
        json: &'a [u8],
        number: N,
        keeps_surrogates: bool,
    ) -> Result<(), CanonicalTextError> {
        // This parser has no limit of depth.
        let json: &RawValue = serde_json::from_slice(json)?;
        let text = json.get();
        let mut canonicalizer = Self {
            text,
            position: 0,
            unsorted: UnsortedObjects::find(text)?,
            output,
            number,
            keeps_surrogates,
        };
        canonicalizer.value(0)
    }

    fn value(&mut self, depth: usize) -> Result<(), CanonicalTextError> {
        let (start, byte) = peek(self.text, self.position);
        self.position = start;
        match byte {
            b'{' | b'[' if depth >= MAX_SORTED_DEPTH => {
                let text = self.take(deep_value_end(self.text, start));
                *self.output += text;
            }
            b'{' => self.object(depth)?,
            b'[' => self.list(b']', |list| list.value(depth + 1))?,
            b'"' => self.string()?,
            _ => self.scalar()?,
        }
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), CanonicalTextError> {
        let Some(unsorted) = self.unsorted.at(self.position) else {
            return self.list(b'}', |list| list.member(depth));
        };
        self.output.push('{');
        let first = unsorted.members.start;
        for at in unsorted.members {
            if at > first {
                self.output.push(',');
            }
            self.position = self.unsorted.members[at as usize] as usize;
            self.member(depth)?;
        }
        self.output.push('}');
        self.position = unsorted.end as usize;
        Ok(())
    }

    fn member(&mut self, depth: usize) -> Result<(), CanonicalTextError> {
        self.string()?;
        // The colon.
        self.position = peek(self.text, self.position).0 + 1;
        self.output.push(':');
        self.value(depth + 1)
    }

    /// An array or an object, in the order of the text. `item` writes an element or a member.
    fn list(
        &mut self,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), CanonicalTextError>,
    ) -> Result<(), CanonicalTextError> {
        loop {
            // The opening bracket, a comma, or the closing bracket.
            let (at, byte) = peek(self.text, self.position);
            self.position = at + 1;
            self.output.push(byte.into());
            if byte == close {
                return Ok(());
            }
            let (at, byte) = peek(self.text, self.position);
            self.position = at;
            if byte != close {
                item(self)?;
            }
        }
    }

    fn string(&mut self) -> Result<(), CanonicalTextError> {
        let text = self.take(string_end(self.text, self.position));
        if text.contains('\\') {
            // Fails if a surrogate has no partner.
            match serde_json::from_str::<String>(text) {
                Ok(unescaped) => *self.output += &serde_json::to_string(&unescaped)?,
                Err(_) if self.keeps_surrogates => *self.output += text,
                Err(error) => return Err(error.into()),
            }
        } else {
            *self.output += text;
        }
        Ok(())
    }

    /// A number, `true`, `false` or `null`.
    fn scalar(&mut self) -> Result<(), CanonicalTextError> {
        let text = self.take(scalar_end(self.text, self.position));
        if text.starts_with(char::is_alphabetic) {
            *self.output += text;
        } else {
            *self.output += &(self.number)(text)?;
        }
        Ok(())
    }

    fn take(&mut self, end: usize) -> &'a str {
        let text = &self.text[self.position..end];
        self.position = end;
        text
    }
}

/// The objects of a text whose members are not in order, or not unique. It is small, as a text may consist
/// of little else.
#[derive(Default)]
struct UnsortedObjects {
    /// By where they begin.
    objects: Vec<UnsortedObject>,
    members: Vec<u32>,
}

#[derive(Clone)]
struct UnsortedObject {
    start: u32,
    end: u32,
    /// Where each member begins, in the order of their keys. Of those with the same key the last is there.
    members: Range<u32>,
}

impl UnsortedObjects {
    fn find(text: &str) -> Result<Self, CanonicalTextError> {
        u32::try_from(text.len()).map_err(|_| CanonicalTextError::TooLarge)?;
        let mut finder = Finder {
            text,
            found: Self::default(),
            open: Vec::new(),
        };
        finder.value(0, 0);
        let mut found = finder.found;
        found.objects.sort_unstable_by_key(|object| object.start);
        Ok(found)
    }

    fn at(&self, start: usize) -> Option<UnsortedObject> {
        let found = self
            .objects
            .binary_search_by_key(&start, |object| object.start as usize);
        found.ok().map(|at| self.objects[at].clone())
    }
}

struct Finder<'a> {
    text: &'a str,
    found: UnsortedObjects,
    /// The members of the objects that have begun.
    open: Vec<u32>,
}

impl Finder<'_> {
    /// Returns the end of the value at `position`.
    fn value(&mut self, position: usize, depth: usize) -> usize {
        let (start, byte) = peek(self.text, position);
        match byte {
            b'{' | b'[' if depth >= MAX_SORTED_DEPTH => deep_value_end(self.text, start),
            b'{' => self.object(start, depth),
            b'[' => self.array(start, depth),
            b'"' => string_end(self.text, start),
            _ => scalar_end(self.text, start),
        }
    }

    fn array(&mut self, start: usize, depth: usize) -> usize {
        let mut position = start + 1;
        loop {
            match peek(self.text, position) {
                (end, b']') => return end + 1,
                (comma, b',') => position = comma + 1,
                (element, _) => position = self.value(element, depth + 1),
            }
        }
    }

    fn object(&mut self, start: usize, depth: usize) -> usize {
        let first = self.open.len();
        let mut position = start + 1;
        let end = loop {
            match peek(self.text, position) {
                (end, b'}') => break end + 1,
                (comma, b',') => position = comma + 1,
                (key, _) => {
                    self.open.push(key as u32);
                    let (colon, _) = peek(self.text, string_end(self.text, key));
                    position = self.value(colon + 1, depth + 1);
                }
            }
        };
        self.close(start, end, first);
        end
    }

    /// Takes the members of an object, the last ones of `open`, and keeps them if they must be sorted.
    fn close(&mut self, start: usize, end: usize, first: usize) {
        let text = self.text;
        let compare = |one: &u32, other: &u32| compare_keys(text, *one as usize, *other as usize);
        let members = &mut self.open[first..];
        if !members.is_sorted_by(|one, next| compare(one, next).is_lt()) {
            members.reverse();
            members.sort_by(compare);
            let first = self.found.members.len() as u32;
            for member in members {
                // Members with equal keys are adjacent, the last one first.
                let before = self.found.members[first as usize..].last();
                if before.is_none_or(|before| compare(before, member).is_lt()) {
                    self.found.members.push(*member);
                }
            }
            self.found.objects.push(UnsortedObject {
                start: start as u32,
                end: end as u32,
                members: first..self.found.members.len() as u32,
            });
        }
        self.open.truncate(first);
    }
}

/// Compares the keys at two positions as canonical JSON sorts them: by code point.
fn compare_keys(text: &str, one: usize, other: usize) -> Ordering {
    let [one, other] = [one, other].map(|start| &text[start + 1..string_end(text, start) - 1]);
    if one.contains('\\') || other.contains('\\') {
        unescaped(one).cmp(unescaped(other))
    } else {
        one.cmp(other)
    }
}

/// The position of the next token, and its first byte. The text goes on.
fn peek(text: &str, position: usize) -> (usize, u8) {
    let rest = &text.as_bytes()[position..];
    let spaces = rest.len() - rest.trim_ascii_start().len();
    (position + spaces, rest[spaces])
}

fn scalar_end(text: &str, start: usize) -> usize {
    let is_end = |c: char| matches!(c, ',' | ']' | '}') || c.is_ascii_whitespace();
    let length = text[start..].find(is_end);
    length.map_or(text.len(), |length| start + length)
}

/// The end of the string at `start`, behind its closing quote.
fn string_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let mut position = start + 1;
    while let Some(found) = memchr2(b'"', b'\\', &bytes[position..]) {
        position += found + 1;
        if bytes[position - 1] == b'"' {
            return position;
        }
        // The escaped character.
        position += 1;
    }
    text.len()
}

/// The end of the array or object at `start`.
fn deep_value_end(text: &str, start: usize) -> usize {
    let (mut depth, mut end) = (0_usize, start);
    loop {
        match text.as_bytes()[end] {
            b'"' => end = string_end(text, end) - 1,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        end += 1;
        if depth == 0 {
            return end;
        }
    }
}

/// The characters of a string with escapes. A surrogate without a partner is U+FFFD: such a string fails
/// when it is written.
fn unescaped(text: &str) -> impl Iterator<Item = char> {
    let mut units = UnescapedUnits(text.chars()).peekable();
    std::iter::from_fn(move || match units.next()? {
        Unit::Char(char) => Some(char),
        Unit::Utf16(high) => {
            let low = units.next_if(|unit| matches!(unit, Unit::Utf16(0xDC00..=0xDFFF)));
            let low = low.and_then(|unit| match unit {
                Unit::Utf16(low) => Some(low),
                Unit::Char(_) => None,
            });
            let units = [Some(high), low].into_iter().flatten();
            let mut decoded = char::decode_utf16(units);
            Some(decoded.next()?.unwrap_or(char::REPLACEMENT_CHARACTER))
        }
    })
}

enum Unit {
    Char(char),
    Utf16(u16),
}

/// The characters of a string with escapes, those of `\u` escapes as UTF-16.
struct UnescapedUnits<'a>(std::str::Chars<'a>);

impl Iterator for UnescapedUnits<'_> {
    type Item = Unit;

    fn next(&mut self) -> Option<Unit> {
        let escaped = match self.0.next()? {
            '\\' => self.0.next()?,
            char => return Some(Unit::Char(char)),
        };
        Some(Unit::Char(match escaped {
            'b' => '\u{8}',
            't' => '\t',
            'n' => '\n',
            'f' => '\u{c}',
            'r' => '\r',
            'u' => {
                let (digits, rest) = self.0.as_str().split_at_checked(4)?;
                self.0 = rest.chars();
                return u16::from_str_radix(digits, 16).ok().map(Unit::Utf16);
            }
            char => char,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{canonical_text, normalized_text};

    fn canonical(json: &str) -> String {
        canonical_text(json.as_bytes()).unwrap()
    }

    /// Appendices, "Canonical JSON", "Examples".
    #[test]
    fn the_examples_of_the_specification_have_their_canonical_form() {
        for (json, expected) in [
            ("{}", "{}"),
            (
                "{\n \"one\": 1,\n \"two\": \"Two\"\n}",
                r#"{"one":1,"two":"Two"}"#,
            ),
            (r#"{ "b": "2", "a": "1" }"#, r#"{"a":"1","b":"2"}"#),
            (
                r#"{ "auth": { "success": true, "mxid": "@john.doe:example.com", "profile": {
                    "display_name": "John Doe", "three_pids": [ { "medium": "email",
                    "address": "john.doe@example.org" }, { "medium": "msisdn",
                    "address": "123456789" } ] } } }"#,
                r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
            ),
            (r#"{ "a": "日本語" }"#, r#"{"a":"日本語"}"#),
            (r#"{ "本": 2, "日": 1 }"#, r#"{"日":1,"本":2}"#),
            (r#"{ "a": "\u65E5" }"#, r#"{"a":"日"}"#),
            (r#"{ "a": null }"#, r#"{"a":null}"#),
        ] {
            assert_eq!(canonical(json), expected);
        }
    }

    #[test]
    fn numbers_are_kept_as_they_were_sent() {
        let numbers = "[0.5,1e+16,1e-05,9007199254740992,1e400,-0,-0.0,1.50,99999999999999999999]";
        assert_eq!(canonical(numbers), numbers);
        assert_eq!(canonical(" 0.5 "), "0.5");
        assert_eq!(
            canonical(r#"{"b" : 0.5 ,"a":[ 1E5 , 2 ] }"#),
            r#"{"a":[1E5,2],"b":0.5}"#
        );
        for json in [
            "NaN",
            "[Infinity]",
            "01",
            "{\"a\":}",
            "1 2",
            "",
            "\"\\ud800\"",
            "\"\u{1}\"",
        ] {
            canonical_text(json.as_bytes()).expect_err(json);
        }
    }

    #[test]
    fn keys_are_sorted_by_code_point_and_strings_have_the_shortest_escapes() {
        let json = r#"{"\ud83d\ude00":1,"\uffee":2,"\\":3,"A":4,"\u000a":5,"\u0001":6,"\"":7,"\/":8,"":9}"#;
        let expected = r#"{"":9,"\u0001":6,"\n":5,"\"":7,"/":8,"A":4,"\\":3,"￮":2,"😀":1}"#;
        assert_eq!(canonical(json), expected);
        let strings = r#"["\u0008\u0009\u000A\u000c\u000D\u001F\u007f","a\/b","\\\"","{]"]"#;
        let expected = "[\"\\b\\t\\n\\f\\r\\u001f\u{7f}\",\"a/b\",\"\\\\\\\"\",\"{]\"]";
        assert_eq!(canonical(strings), expected);
    }

    #[test]
    fn of_equal_keys_the_last_counts() {
        assert_eq!(
            canonical(r#"{"b":0,"a":1,"\u0061":2,"b":3,"a":4}"#),
            r#"{"a":4,"b":3}"#
        );
        assert_eq!(
            canonical(r#"{"a":{"x":1},"a":{"y":2}}"#),
            r#"{"a":{"y":2}}"#
        );
    }

    #[test]
    fn the_form_is_what_serde_writes_where_it_can_read_the_numbers() {
        let words = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            " ",
            "\n",
            "1",
            "-7",
            "true",
            "null",
            "\"a\"",
            "\"b\"",
            "\"\\n\"",
            "\"\\u0041\"",
            "\"ü\"",
            "{\"z\":1,\"a\":[]}",
            "[[],{}]",
        ];
        let mut found = 0;
        for _ in 0..100_000 {
            let json: String = (0..rand::random_range(1..9))
                .map(|_| words[rand::random_range(0..words.len())])
                .collect();
            let value = serde_json::from_str::<ruma::CanonicalJsonValue>(&json);
            match canonical_text(json.as_bytes()) {
                Ok(text) => {
                    assert_eq!(text, value.unwrap().to_string(), "{json}");
                    assert!(text.len() <= json.len());
                    found += 1;
                }
                Err(_) => assert!(value.is_err(), "{json}"),
            }
        }
        assert!(found > 1000);
    }

    #[test]
    fn each_value_is_written_once_however_deep_its_object_is() {
        // Sorting each object by moving what is in it took a hundred times as long.
        let nested = (0..100).fold("1".repeat(4_000_000), |inner, _| {
            format!(r#"{{"b":{inner},"a":1}}"#)
        });
        let flat = format!(r#"{{"b":{},"a":1}}"#, "1".repeat(4_000_000));
        let time = |json: &str| {
            let start = Instant::now();
            canonical(json);
            start.elapsed()
        };
        let fastest = |json| (0..3).map(|_| time(json)).min().unwrap();
        assert!(fastest(&nested) < 10 * fastest(&flat));
    }

    #[test]
    fn keys_with_escapes_are_sorted_by_what_they_stand_for() {
        let json = r#"{"\u00e9":1,"z":2,"\ud83d\ude00":3,"\ufb01":4,"\u005a":5,"Z":6}"#;
        assert_eq!(canonical(json), r#"{"Z":6,"z":2,"é":1,"ﬁ":4,"😀":3}"#);
        for key in [r"\ud83d", r"\ude00\ud83d", r"\ud83dx"] {
            let json = format!(r#"{{"{key}":1,"b":2,"a":3}}"#);
            canonical_text(json.as_bytes()).expect_err(key);
        }
    }

    #[test]
    fn deep_values_are_kept_as_they_are() {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        assert_eq!(canonical(&deep), deep);
        let deep = format!(
            r#"{{"b":{}"]\"" {},"a":1}}"#,
            "[".repeat(5000),
            "]".repeat(5000)
        );
        let expected = format!(
            r#"{{"a":1,"b":{}"]\"" {}}}"#,
            "[".repeat(5000),
            "]".repeat(5000)
        );
        assert_eq!(canonical(&deep), expected);
    }

    /// The right side is what `json.dumps(json.loads(…))` writes in Python 3.11.
    #[test]
    fn normalized_numbers_are_written_as_python_writes_them() {
        for (json, expected) in [
            ("0.50", "0.5"),
            ("1E2", "100.0"),
            ("1e16", "1e+16"),
            ("1e15", "1000000000000000.0"),
            ("123456789012345678.0", "1.2345678901234568e+17"),
            ("0.00001", "1e-05"),
            ("0.0001", "0.0001"),
            ("-2.50e-10", "-2.5e-10"),
            ("1e-300", "1e-300"),
            ("-0", "0"),
            ("-0.0", "-0.0"),
            ("9007199254740993", "9007199254740993"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
        ] {
            assert_eq!(
                normalized_text(json.as_bytes()).unwrap(),
                expected,
                "{json}"
            );
        }
        for json in ["1e400", "[-1e309]", &"9".repeat(5000)] {
            normalized_text(json.as_bytes()).unwrap_err();
        }
    }
}
