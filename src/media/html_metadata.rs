//! The metadata of a web page: [Open Graph], with fallbacks.
//!
//! [Open Graph]: https://ogp.me/

use std::{collections::BTreeMap, convert::Infallible};

use html5gum::{DefaultEmitter, Reader, StartTag, Token, Tokenizer};

const MAX_TEXT_CHARS: usize = 500;
const MAX_FIELDS: usize = 30;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageMetadata {
    /// By Open Graph property, such as `og:title`.
    pub fields: BTreeMap<String, String>,
    /// The URL of its picture, which may be relative.
    pub image: Option<String>,
}

/// What is used where Open Graph properties are missing.
#[derive(Default)]
struct Fallbacks {
    title: Option<String>,
    description: Option<String>,
    image: Option<String>,
    paragraph: String,
}

pub fn parse(html: &str) -> PageMetadata {
    let mut emitter = DefaultEmitter::<()>::default();
    // So that the content of scripts and styles is not parsed as tags.
    emitter.naively_switch_states(true);
    let (mut page, mut fallbacks) = (PageMetadata::default(), Fallbacks::default());
    // The element whose text is being read.
    let mut element = Vec::new();
    let mut text = String::new();
    for Ok(token) in Tokenizer::new_with_emitter(Bytes(html.as_bytes()), emitter) {
        match token {
            Token::StartTag(tag) => match &**tag.name {
                b"meta" => meta(&tag, &mut page, &mut fallbacks),
                b"title" | b"h1" | b"p" => {
                    element = tag.name.0.clone();
                    text.clear();
                }
                _ => {}
            },
            Token::String(string) if !element.is_empty() && text.len() < 4 * MAX_TEXT_CHARS => {
                text += &String::from_utf8_lossy(&string.value.0);
            }
            Token::EndTag(tag) if *tag.name == *element && !element.is_empty() => {
                fallbacks.text(&element, &text);
                element.clear();
            }
            _ => {}
        }
    }
    fallbacks.fill(page)
}

fn meta(tag: &StartTag<()>, page: &mut PageMetadata, fallbacks: &mut Fallbacks) {
    let get = |name: &[u8]| {
        let value = tag.attributes.get(name)?;
        Some(truncate(&String::from_utf8_lossy(&value.value.0)))
    };
    let name = get(b"property").or_else(|| get(b"name"));
    let (Some(name), Some(content)) = (name, get(b"content")) else {
        return;
    };
    if content.is_empty() {
        return;
    }
    match &*name.to_ascii_lowercase() {
        "og:image" | "og:image:url" | "og:image:secure_url" => {
            page.image.get_or_insert(content);
        }
        // The server measures the picture itself.
        name if name.starts_with("og:image:") && name != "og:image:alt" => {}
        name if name.starts_with("og:") && page.fields.len() < MAX_FIELDS => {
            page.fields.entry(name.to_owned()).or_insert(content);
        }
        "description" | "twitter:description" => {
            fallbacks.description.get_or_insert(content);
        }
        "twitter:title" => {
            fallbacks.title.get_or_insert(content);
        }
        "twitter:image" | "twitter:image:src" => {
            fallbacks.image.get_or_insert(content);
        }
        _ => {}
    }
}

/// The unread part of a page, read byte by byte. html5gum's own reader searches for the end of a text, with code
/// that is compiled into each of twenty states (80 kB).
struct Bytes<'a>(&'a [u8]);

impl Reader for Bytes<'_> {
    type Error = Infallible;

    fn read_byte(&mut self) -> Result<Option<u8>, Infallible> {
        Ok(self.0.split_off_first().copied())
    }

    fn try_read_string(&mut self, text: &[u8], case_sensitive: bool) -> Result<bool, Infallible> {
        let Some((start, rest)) = self.0.split_at_checked(text.len()) else {
            return Ok(false);
        };
        let same = start == text || !case_sensitive && start.eq_ignore_ascii_case(text);
        if same {
            self.0 = rest;
        }
        Ok(same)
    }
}

impl Fallbacks {
    fn text(&mut self, element: &[u8], text: &str) {
        let text = truncate(text);
        if text.is_empty() {
            return;
        }
        match element {
            // The first of at least 40 bytes, else the longest.
            b"p" if self.paragraph.len() < 40 && text.len() > self.paragraph.len() => {
                self.paragraph = text;
            }
            b"title" | b"h1" => {
                self.title.get_or_insert(text);
            }
            _ => {}
        }
    }

    fn fill(self, mut page: PageMetadata) -> PageMetadata {
        let paragraph = (!self.paragraph.is_empty()).then_some(self.paragraph);
        for (name, other) in [
            ("og:title", self.title),
            ("og:description", self.description.or(paragraph)),
        ] {
            if let Some(other) = other {
                page.fields.entry(name.to_owned()).or_insert(other);
            }
        }
        page.image = page.image.or(self.image);
        page
    }
}

/// Collapses whitespace and truncates.
fn truncate(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(MAX_TEXT_CHARS) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_TEXT_CHARS, PageMetadata, parse};

    fn field<'p>(page: &'p PageMetadata, name: &str) -> Option<&'p str> {
        page.fields.get(name).map(String::as_str)
    }

    #[test]
    fn open_graph_properties_are_read() {
        let page = parse(
            "<!doctype html><html><head><title>Other</title>\
             <meta property=\"og:title\" content=\"Fish &amp; Chips\">\
             <meta property='og:description' content='Two\n words'>\
             <META PROPERTY=og:image CONTENT=/fish.png>\
             <meta property=og:image:width content=1000000>\
             <meta property='og:title' content='Second'>\
             <script>document.write('<meta property=\"og:type\" content=\"bad\">')</script>",
        );
        assert_eq!(field(&page, "og:title"), Some("Fish & Chips"));
        assert_eq!(field(&page, "og:description"), Some("Two words"));
        assert_eq!(page.image.as_deref(), Some("/fish.png"));
        assert_eq!(page.fields.len(), 2);
    }

    #[test]
    fn without_open_graph_title_and_first_paragraph_are_used() {
        let page = parse(
            "<title> A\n title </title><style>p { }</style><p></p><p>Menu</p>\
             <p>What this page is about, in <b>some</b> more words than one.</p><p>More",
        );
        assert_eq!(field(&page, "og:title"), Some("A title"));
        let about = "What this page is about, in some more words than one.";
        assert_eq!(field(&page, "og:description"), Some(about));
        assert_eq!(page.image, None);
    }

    #[test]
    fn long_texts_are_truncated_and_empty_pages_have_no_metadata() {
        let long = "ä".repeat(10_000);
        let page = parse(&format!("<title>{long}</title>"));
        let title = field(&page, "og:title").unwrap();
        assert_eq!(title.chars().count(), MAX_TEXT_CHARS + 1);
        for nothing in [
            "",
            "<",
            "</title>",
            "<title",
            "\0",
            "<meta>",
            "<meta content=x>",
        ] {
            assert_eq!(parse(nothing), PageMetadata::default(), "{nothing}");
        }
        let many: String = (0..100)
            .map(|n| format!("<meta property=og:{n} content=x>"))
            .collect();
        assert_eq!(parse(&many).fields.len(), 30);
    }
}
