//! What a web page says of itself: [Open Graph], and what stands in for it where there is none. Pure.
//!
//! [Open Graph]: https://ogp.me/

use std::{collections::BTreeMap, convert::Infallible};

use html5gum::{DefaultEmitter, Reader, StartTag, Token, Tokenizer};

/// How long a text may be, in characters, and how many there are.
const LONGEST: usize = 500;
const FIELDS: usize = 30;

/// What a page says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageMetadata {
    /// What Open Graph calls it (`og:title`) → what it is.
    pub fields: BTreeMap<String, String>,
    /// Where its picture is; perhaps only from where the page is.
    pub image: Option<String>,
}

/// What stands in for Open Graph.
#[derive(Default)]
struct Others {
    title: Option<String>,
    description: Option<String>,
    image: Option<String>,
    paragraph: String,
}

/// Reads a page.
pub fn parse(html: &str) -> PageMetadata {
    let mut emitter = DefaultEmitter::<()>::default();
    // Else what stands in scripts and styles would be read as tags.
    emitter.naively_switch_states(true);
    let (mut page, mut others) = (PageMetadata::default(), Others::default());
    // The text of which element is being read.
    let mut inside = Vec::new();
    let mut text = String::new();
    for Ok(token) in Tokenizer::new_with_emitter(Rest(html.as_bytes()), emitter) {
        match token {
            Token::StartTag(tag) => match &**tag.name {
                b"meta" => meta(&tag, &mut page, &mut others),
                b"title" | b"h1" | b"p" => {
                    inside = tag.name.0.clone();
                    text.clear();
                }
                _ => {}
            },
            Token::String(string) if !inside.is_empty() && text.len() < 4 * LONGEST => {
                text += &String::from_utf8_lossy(&string.value.0);
            }
            Token::EndTag(tag) if *tag.name == *inside && !inside.is_empty() => {
                others.text(&inside, &text);
                inside.clear();
            }
            _ => {}
        }
    }
    others.fill(page)
}

fn meta(tag: &StartTag<()>, page: &mut PageMetadata, others: &mut Others) {
    let get = |name: &[u8]| {
        let value = tag.attributes.get(name)?;
        Some(shortened(&String::from_utf8_lossy(&value.value.0)))
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
        // Of the picture, which is measured here.
        name if name.starts_with("og:image:") && name != "og:image:alt" => {}
        name if name.starts_with("og:") && page.fields.len() < FIELDS => {
            page.fields.entry(name.to_owned()).or_insert(content);
        }
        "description" | "twitter:description" => {
            others.description.get_or_insert(content);
        }
        "twitter:title" => {
            others.title.get_or_insert(content);
        }
        "twitter:image" | "twitter:image:src" => {
            others.image.get_or_insert(content);
        }
        _ => {}
    }
}

/// What is left of a page. html5gum's own reader finds the end of a text in one go, with code that
/// is compiled into each of twenty states (80 kB); this one is read byte by byte.
struct Rest<'a>(&'a [u8]);

impl Reader for Rest<'_> {
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

impl Others {
    fn text(&mut self, element: &[u8], text: &str) {
        let text = shortened(text);
        if text.is_empty() {
            return;
        }
        match element {
            // The first that is more than a word.
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

/// The text with single blanks, and no more than so much of it.
fn shortened(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, PageMetadata, parse};

    fn field<'p>(page: &'p PageMetadata, name: &str) -> Option<&'p str> {
        page.fields.get(name).map(String::as_str)
    }

    #[test]
    fn open_graph_is_what_a_page_says_of_itself() {
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
    fn without_open_graph_the_title_and_the_first_words_stand_in() {
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
    fn what_is_long_is_cut_and_what_is_nothing_says_nothing() {
        let long = "ä".repeat(10_000);
        let page = parse(&format!("<title>{long}</title>"));
        let title = field(&page, "og:title").unwrap();
        assert_eq!(title.chars().count(), LONGEST + 1);
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
