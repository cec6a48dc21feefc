use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Deserializer, de};

/// How everybody reaches the administrator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// They may be on another server, for when this one is down.
    pub users: Vec<OwnedUserId>,
    pub email_addresses: Vec<String>,
    /// The URL of a page with help.
    pub page: Option<String>,
}

impl<'de> Deserialize<'de> for Contact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut contact = Self::default();
        for text in Vec::<String>::deserialize(deserializer)? {
            if text.starts_with('@') {
                let user = UserId::parse(&text).map_err(de::Error::custom)?;
                contact.users.push(user);
            } else if text.starts_with("https://") || text.starts_with("http://") {
                text.parse::<http::Uri>().map_err(de::Error::custom)?;
                if contact.page.replace(text).is_some() {
                    return Err(de::Error::custom("more than one page"));
                }
            } else if is_email_address(&text) {
                contact.email_addresses.push(text);
            } else {
                return Err(de::Error::custom(
                    "neither a user id, an address nor a page",
                ));
            }
        }
        Ok(contact)
    }
}

fn is_email_address(text: &str) -> bool {
    let parts = text.split_once('@');
    parts.is_some_and(|(user, host)| !user.is_empty() && host.contains('.'))
        && !text.contains(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use crate::config::Settings;

    #[test]
    fn a_contact_is_a_user_an_email_address_or_a_page() {
        let text = r#"contact = ["@a:example.org", "a@example.org", "https://example.org/help"]"#;
        let contact = Settings::parse(text).unwrap().contact;
        assert_eq!(contact.users, ["@a:example.org"]);
        assert_eq!(contact.email_addresses, ["a@example.org"]);
        assert_eq!(contact.page.as_deref(), Some("https://example.org/help"));
        for wrong in [
            r#""a@example.org""#,
            r#"["a"]"#,
            r#"["@a"]"#,
            r#"["a b@example.org"]"#,
            r#"["https://a.example", "https://b.example"]"#,
        ] {
            Settings::parse(&format!("contact = {wrong}")).unwrap_err();
        }
    }
}
