//! Canonical JSON of a text, with numbers as they were sent.
//!
//! Synapse also signs numbers that canonical JSON forbids, such as `0.5` or 2^53. So a signature is checked
//! over the text: such a number costs only the event or EDU that has it. Whoever checks a signature must
//! parse the text that is returned here, not the received one: if an object has a key twice, only the last
//! value is signed.
//!
//! Source: appendices, "Canonical JSON".

use std::borrow::Cow;

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
    #[error("more than 4 GiB")]
    TooLarge,
}

/// The canonical form of `json`, which is no longer than `json`.
pub fn canonical_text(json: &[u8]) -> Result<String, CanonicalTextError> {
    let mut output = String::with_capacity(json.len());
    append_canonical_text(&mut output, json)?;
    Ok(output)
}

/// Appends the canonical form of `json` to `output`.
pub fn append_canonical_text(output: &mut String, json: &[u8]) -> Result<(), CanonicalTextError> {
    Canonicalizer::run(output, json, |number| Ok(number.into()))
}

/// The canonical form of `json`, with numbers as Python writes them: Synapse checks a signature over the
/// numbers as it writes them itself.
pub fn normalized_text(json: &[u8]) -> Result<String, CanonicalTextError> {
    let mut output = String::with_capacity(json.len());
    Canonicalizer::run(&mut output, json, normalized_number)?;
    Ok(output)
}

/// Integers stay as they are, whatever their size. Others have the fewest digits that distinguish them.
fn normalized_number(number: &str) -> Result<Cow<'_, str>, CanonicalTextError> {
    let too_large = || CanonicalTextError::Number(number.chars().take(30).collect());
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

/// Reads JSON that is known to be valid.
struct Canonicalizer<'a, N> {
    rest: &'a str,
    output: &'a mut String,
    number: N,
}

/// Where a member of an object is in the output. It is small, as an object may consist of little else.
struct Member {
    start: u32,
    end: u32,
}

impl Member {
    fn text<'o>(&self, output: &'o str) -> &'o str {
        &output[self.start as usize..self.end as usize]
    }

    fn key<'o>(&self, output: &'o str) -> impl Iterator<Item = u8> + use<'o> {
        let text = self.text(output);
        unescaped(&text[1..string_len(text) - 1])
    }
}

impl<'a, N> Canonicalizer<'a, N>
where
    N: Fn(&'a str) -> Result<Cow<'a, str>, CanonicalTextError>,
{
    fn run(output: &'a mut String, json: &'a [u8], number: N) -> Result<(), CanonicalTextError> {
        // This parser has no limit of depth.
        let json: &RawValue = serde_json::from_slice(json)?;
        let rest = json.get();
        let mut canonicalizer = Self {
            rest,
            output,
            number,
        };
        canonicalizer.value(0)
    }

    fn value(&mut self, depth: usize) -> Result<(), CanonicalTextError> {
        match self.peek() {
            b'{' | b'[' if depth >= MAX_SORTED_DEPTH => self.deep_value(),
            b'{' => self.object(depth)?,
            b'[' => self.array(depth)?,
            b'"' => self.string()?,
            _ => self.scalar()?,
        }
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), CanonicalTextError> {
        self.skip(1);
        self.output.push('{');
        let begin = self.output.len();
        let mut members = Vec::new();
        while self.peek() != b'}' {
            let start = self.position()?;
            self.string()?;
            self.peek();
            self.skip(1);
            self.output.push(':');
            self.value(depth + 1)?;
            let end = self.position()?;
            members.push(Member { start, end });
            self.end_item();
        }
        self.skip(1);
        self.sort(begin, members);
        self.output.push('}');
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), CanonicalTextError> {
        self.skip(1);
        self.output.push('[');
        while self.peek() != b']' {
            self.value(depth + 1)?;
            self.end_item();
        }
        self.skip(1);
        self.output.push(']');
        Ok(())
    }

    /// Appends the comma behind a member or an element, if there is another one.
    fn end_item(&mut self) {
        if self.peek() == b',' {
            self.skip(1);
            self.output.push(',');
        }
    }

    /// Sorts the members of the object that begins at `begin`. Of those with the same key the last stays.
    fn sort(&mut self, begin: usize, mut members: Vec<Member>) {
        let output = &*self.output;
        if members.is_sorted_by(|one, next| one.key(output).lt(next.key(output))) {
            return;
        }
        members.reverse();
        members.sort_by(|one, other| one.key(output).cmp(other.key(output)));
        members.dedup_by(|one, before| one.key(output).eq(before.key(output)));
        let sorted: Vec<_> = members.iter().map(|member| member.text(output)).collect();
        let sorted = sorted.join(",");
        self.output.truncate(begin);
        self.output.push_str(&sorted);
    }

    fn string(&mut self) -> Result<(), CanonicalTextError> {
        self.peek();
        let text = self.take(string_len(self.rest));
        if text.contains('\\') {
            // Fails if a surrogate has no partner.
            let text: String = serde_json::from_str(text)?;
            *self.output += &serde_json::to_string(&text)?;
        } else {
            *self.output += text;
        }
        Ok(())
    }

    /// A number, `true`, `false` or `null`.
    fn scalar(&mut self) -> Result<(), CanonicalTextError> {
        let is_end = |c: char| matches!(c, ',' | ']' | '}') || c.is_ascii_whitespace();
        let text = self.take(self.rest.find(is_end).unwrap_or(self.rest.len()));
        if text.starts_with(char::is_alphabetic) {
            *self.output += text;
        } else {
            *self.output += &(self.number)(text)?;
        }
        Ok(())
    }

    fn deep_value(&mut self) {
        let (mut depth, mut end) = (0_usize, 0);
        loop {
            match self.rest.as_bytes()[end] {
                b'"' => end += string_len(&self.rest[end..]) - 1,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            end += 1;
            if depth == 0 {
                break;
            }
        }
        let text = self.take(end);
        *self.output += text;
    }

    fn position(&self) -> Result<u32, CanonicalTextError> {
        u32::try_from(self.output.len()).map_err(|_| CanonicalTextError::TooLarge)
    }

    /// Skips whitespace. The byte after it.
    fn peek(&mut self) -> u8 {
        self.rest = self.rest.trim_ascii_start();
        self.rest.as_bytes()[0]
    }

    fn skip(&mut self, bytes: usize) {
        self.take(bytes);
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }
}

/// The length of the string at the beginning of `text`, with its quotes.
fn string_len(text: &str) -> usize {
    let mut is_escaped = false;
    let end = text[1..].bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    end.map_or(text.len(), |end| end + 2)
}

/// The bytes of a string that is escaped as in canonical JSON.
fn unescaped(text: &str) -> impl Iterator<Item = u8> {
    let mut bytes = text.bytes();
    std::iter::from_fn(move || match bytes.next()? {
        b'\\' => match bytes.next()? {
            b'b' => Some(8),
            b't' => Some(b'\t'),
            b'n' => Some(b'\n'),
            b'f' => Some(12),
            b'r' => Some(b'\r'),
            b'u' => {
                // A control character: two zeros and two hexadecimal digits.
                let digits = [bytes.nth(2)?, bytes.next()?];
                u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()
            }
            escaped => Some(escaped),
        },
        byte => Some(byte),
    })
}

#[cfg(test)]
mod tests {
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
