//! Numbers that follow from a seed, and values that a request may have instead of a valid one.

use serde_json::{Value, json};

/// Stands for text that [`Value`] cannot hold. [`to_text`] replaces it.
const NESTED_ARRAYS: &str = "@@nested arrays@@";
const NESTED_OBJECTS: &str = "@@nested objects@@";
const LONE_SURROGATE: &str = "@@lone surrogate@@";
const INVALID_UTF8: &str = "@@invalid UTF-8@@";
const HUGE_FLOAT: &str = "@@huge float@@";
const HUGE_INTEGER: &str = "@@huge integer@@";
const NEGATIVE_ZERO: &str = "@@negative zero@@";
const REPEATED_KEY: &str = "@@repeated key@@";

const DEPTH: usize = 5000;

/// Segments of a path and values of a query, as they are sent.
const ARGUMENTS: &[&str] = &[
    "",
    "x",
    "@alice:localhost",
    "%40x%3A127.0.0.1%3A1",
    "!room:localhost",
    "%21room",
    "%21room%3A127.0.0.1%3A1",
    "%23alias%3Alocalhost",
    "%23%3A",
    "$event",
    "%24",
    "m.room.message",
    "m.room.power_levels",
    "m.room.create",
    "m.read",
    "override",
    "displayname",
    "localhost",
    "127.0.0.1:1",
    "%5B%3A%3A1%5D%3A1",
    "..",
    "%2E%2E",
    "%2F",
    "a%2Fb",
    "%",
    "%zz",
    "%ff",
    "%00",
    "%0D%0A",
    "%ED%A0%80",
    "%F0%9F%90%88",
    "\u{1f408}",
    "\\",
    "{}",
    "%7B%22room%22%3A1%7D",
    "-1",
    "0",
    "1.5",
    "1e400",
    "9007199254740993",
    "18446744073709551616",
    "true",
    "b",
    "s0_0",
    "+",
    "a=b",
];

/// xorshift.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds are to have nothing in common, and zero would stay zero.
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn number(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    pub fn one_in(&mut self, number: usize) -> bool {
        self.number(number) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.number(from.len())]
    }

    pub fn argument(&mut self) -> String {
        match self.number(40) {
            0 => "x".repeat(20_000),
            1 => "%41".repeat(3000),
            _ => (*self.pick(ARGUMENTS)).to_owned(),
        }
    }

    pub fn value(&mut self) -> Value {
        let values = 46;
        match self.number(values) {
            0..3 => Value::Null,
            3 => json!(true),
            4 => json!(false),
            5 => json!(0),
            6 => json!(-1),
            7 => json!(1.5),
            8 => json!(9_007_199_254_740_991_u64),
            9 => json!(9_007_199_254_740_993_u64),
            10 => json!(u64::MAX),
            11 => json!(i64::MIN),
            12 => json!(HUGE_FLOAT),
            13 => json!(HUGE_INTEGER),
            14 => json!(NEGATIVE_ZERO),
            15 => json!(""),
            16 => json!("x"),
            17 => json!("\0"),
            18 => json!(LONE_SURROGATE),
            19 => json!(INVALID_UTF8),
            20 => json!("\u{202e}\u{1f408}\u{fffd}\u{7f}"),
            21 => json!("x".repeat(255)),
            22 => json!("\u{1f408}".repeat(70)),
            23 => json!("x".repeat(65_000)),
            24 => json!("\0".repeat(40_000)),
            25 => json!("x".repeat(1_000_000)),
            26 => json!("@:"),
            27 => json!("@alice:localhost"),
            28 => json!("@x:127.0.0.1:1"),
            29 => json!(format!("@{}:localhost", "x".repeat(300))),
            30 => json!("!"),
            31 => json!("!x:localhost"),
            32 => json!("#a:localhost"),
            33 => json!("$"),
            34 => json!("*"),
            35 => json!("[::1]:99999"),
            36 => json!("mxc://"),
            37 => json!([]),
            38 => json!([[]]),
            39 => json!([null, {}, 1, ""]),
            40 => json!({}),
            41 => json!({ "": null }),
            42 => json!({ "user_id": 1, "content": [] }),
            43 => json!(NESTED_ARRAYS),
            44 => json!(NESTED_OBJECTS),
            _ => json!({ REPEATED_KEY: 1 }),
        }
    }
}

/// The JSON text of `value`, which may be no JSON.
pub fn to_text(value: &Value) -> Vec<u8> {
    let text = value.to_string();
    if !text.contains("@@") {
        return text.into_bytes();
    }
    let quoted = |name: &str| format!("\"{name}\"");
    let arrays = format!("{}{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let objects = format!("{}1{}", "{\"a\":".repeat(DEPTH), "}".repeat(DEPTH));
    let text = text
        .replace(&quoted(NESTED_ARRAYS), &arrays)
        .replace(&quoted(NESTED_OBJECTS), &objects)
        .replace(&quoted(LONE_SURROGATE), "\"\\ud800\"")
        .replace(&quoted(HUGE_FLOAT), "1e400")
        .replace(&quoted(HUGE_INTEGER), &"9".repeat(400))
        .replace(&quoted(NEGATIVE_ZERO), "-0")
        .replace(&quoted(REPEATED_KEY), "\"a\":1,\"a\"");
    let mut parts = text.split(INVALID_UTF8);
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.extend([0xff, 0xc0, 0x80]);
        bytes.extend(part.as_bytes());
    }
    bytes
}
