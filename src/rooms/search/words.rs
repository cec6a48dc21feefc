//! The words of texts and events.

use std::collections::BTreeMap;

use ruma::api::client::search::search_events::v3::SearchKeys;
use serde::Deserialize;
use serde_json::Value;

use crate::rooms::{Error, event::StoredEvent};

/// A longer word is cut.
const MAX_WORD_CHARS: usize = 40;
/// NOTSPEC: how many different words of an event are indexed, the first ones.
const MAX_WORDS: usize = 250;
/// NOTSPEC: how many different words of a search term count, the first ones.
const MAX_TERMS: usize = 16;
/// From this length on, a word of a search term also matches the words that begin with it.
const MIN_PREFIX_CHARS: usize = 3;

/// The words of an event, and how often each is in it.
pub type Words = BTreeMap<String, u8>;

/// What is searched for: the words that an event must have, all of them.
#[derive(Clone, Debug)]
pub struct Terms(Vec<String>);

impl Terms {
    pub fn new(search_term: &str) -> Self {
        let mut terms = Vec::new();
        for word in split(search_term) {
            if terms.len() < MAX_TERMS && !terms.contains(&word) {
                terms.push(word);
            }
        }
        Self(terms)
    }

    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How well `words` match, more is better; `None` if they lack one of the terms.
    pub fn score(&self, words: &Words) -> Option<u32> {
        let mut score = 0;
        for term in &self.0 {
            let matching = words.range(term.clone()..);
            let matching = matching.take_while(|(word, _)| matches(term, word));
            let found = matching.map(|(word, count)| score_of(word == term, *count));
            score += found.max()?;
        }
        Some(score)
    }
}

/// Whether an event with this word has the term.
pub(super) fn matches(term: &str, word: &str) -> bool {
    word == term || word.starts_with(term) && term.chars().count() >= MIN_PREFIX_CHARS
}

/// What a word adds to the score of an event: the whole term more than its beginning, and several
/// occurrences more than one.
pub(super) fn score_of(is_whole: bool, count: u8) -> u32 {
    let count = u32::from(count.min(4));
    if is_whole { 4 + count } else { count }
}

/// The words of the text: runs of letters and digits, in lower case. In scripts without spaces between
/// words, each character is one.
fn split(text: &str) -> impl Iterator<Item = String> {
    let mut chars = text.chars().peekable();
    std::iter::from_fn(move || {
        while chars.next_if(|char| !char.is_alphanumeric()).is_some() {}
        let first = chars.next()?;
        let mut word: String = first.to_lowercase().collect();
        if is_word(first) {
            return Some(word);
        }
        let mut count = 1;
        while let Some(char) = chars.next_if(|char| char.is_alphanumeric() && !is_word(*char)) {
            if count < MAX_WORD_CHARS {
                word.extend(char.to_lowercase());
            }
            count += 1;
        }
        Some(word)
    })
}

/// Whether the character belongs to a script without spaces between words: Thai, Lao, Burmese, Khmer,
/// Japanese, Chinese.
fn is_word(char: char) -> bool {
    matches!(char,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

/// The words of an event in the searched `keys`, all by default. An event of another type, or one that
/// was redacted, has none.
pub fn of_event(event: &StoredEvent, keys: Option<&[SearchKeys]>) -> Result<Words, Error> {
    #[derive(Deserialize)]
    struct Searched {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default)]
        content: Value,
    }
    if event.header.redacted_by.is_some() {
        return Ok(Words::new());
    }
    let Searched { kind, content } = event.parse()?;
    let is_state = event.header.state_key.is_some();
    let (key, texts) = match kind.as_str() {
        "m.room.message" if !is_state => (SearchKeys::ContentBody, vec![&content["body"]]),
        "m.room.name" if is_state => (SearchKeys::ContentName, vec![&content["name"]]),
        "m.room.topic" if is_state => (SearchKeys::ContentTopic, topic(&content)),
        _ => return Ok(Words::new()),
    };
    if keys.is_some_and(|keys| !keys.contains(&key)) {
        return Ok(Words::new());
    }
    let mut words = Words::new();
    for word in texts.into_iter().filter_map(Value::as_str).flat_map(split) {
        if let Some(count) = words.get_mut(&word) {
            *count = count.saturating_add(1);
        } else if words.len() < MAX_WORDS {
            words.insert(word, 1);
        }
    }
    Ok(words)
}

/// `topic`, and the plain text of `m.topic` if that is another one.
fn topic(content: &Value) -> Vec<&Value> {
    let mut texts = vec![&content["topic"]];
    let representations = content["m.topic"]["m.text"].as_array();
    for representation in representations.into_iter().flatten() {
        let mimetype = representation["mimetype"].as_str();
        if mimetype.is_none_or(|mimetype| mimetype == "text/plain")
            && representation["body"] != content["topic"]
        {
            texts.push(&representation["body"]);
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::{MAX_WORD_CHARS, Terms, Words, split};

    fn words(text: &str) -> Vec<String> {
        split(text).collect()
    }

    #[test]
    fn words_are_runs_of_letters_and_digits_in_lower_case() {
        assert_eq!(
            words("Grüße, ÄPFEL & 3 CO2!"),
            ["grüße", "äpfel", "3", "co2"]
        );
        assert_eq!(words(" -- "), [""; 0]);
        assert_eq!(words(&"x".repeat(300)), ["x".repeat(MAX_WORD_CHARS)]);
    }

    #[test]
    fn characters_of_scripts_without_spaces_are_words() {
        assert_eq!(words("東京abc 한국"), ["東", "京", "abc", "한국"]);
    }

    #[test]
    fn an_event_must_have_all_terms_and_whole_words_score_more_than_beginnings() {
        let event: Words = [("lighthouse".into(), 1), ("keeper".into(), 2)].into();
        let score = |term| Terms::new(term).score(&event);
        assert!(score("Lighthouse keeper").is_some());
        assert!(score("lighthouse keepers").is_none());
        assert!(score("lighthouse") > score("light"));
        assert!(score("keeper") > score("lighthouse"));
        assert!(score("li").is_none(), "too short for a beginning");
    }
}
