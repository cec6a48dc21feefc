//! The settings file: its keys, their defaults, and errors that name the line or a similar key.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ruma::{OwnedServerName, owned_server_name};
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor, value::Error as NoValue},
    forward_to_deserialize_any,
};

use super::{
    addresses::{Addresses, Listen},
    contact::Contact,
    error::Error,
    expected,
    federation::Federation,
    lifetime::Lifetime,
    memory::Memory,
    public_url::PublicUrl,
    push_gateways::PushGateways,
    secret::Secret,
    size::Size,
    trusted_proxies::TrustedProxies,
    unauthenticated_media::UnauthenticatedMedia,
    user_directory::UserDirectory,
};

/// The settings as in the file. `hearth.example.toml` describes each.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub server_name: OwnedServerName,
    pub data_dir: PathBuf,
    pub backup_dir: Option<PathBuf>,
    pub listen: Listen,
    pub tls_listen: Addresses,
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub acme: Option<String>,
    pub acme_directory: String,
    pub public_url: Option<PublicUrl>,
    pub contact: Contact,
    pub metrics_listen: Addresses,
    pub trusted_proxies: TrustedProxies,
    pub registration: Registration,
    pub registration_token: Option<Secret>,
    pub registration_shared_secret: Option<Secret>,
    pub federation: Federation,
    pub notaries: Vec<OwnedServerName>,
    pub extra_ca: Option<PathBuf>,
    pub allow_private_addresses: bool,
    pub memory: Option<Memory>,
    pub max_upload: Size,
    pub user_quota: Option<Size>,
    pub disk: Option<Size>,
    pub unauthenticated_media: UnauthenticatedMedia,
    pub url_previews: bool,
    pub search: bool,
    pub turn_uris: Vec<String>,
    pub turn_secret: Option<Secret>,
    pub turn_ttl: Lifetime,
    pub user_directory: UserDirectory,
    pub server_notices_localpart: String,
    pub push_gateways: PushGateways,
    pub share_device_names: bool,
    pub rate_limits: bool,
    pub log: log::LevelFilter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    Closed,
    Token,
    Open,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server_name: owned_server_name!("localhost"),
            data_dir: PathBuf::from("./hearth-data"),
            backup_dir: None,
            listen: Listen {
                addresses: vec![SocketAddr::from(([127, 0, 0, 1], 8008))],
                paths: Vec::new(),
            },
            tls_listen: Addresses::default(),
            tls_certificate: None,
            tls_key: None,
            acme: None,
            acme_directory: rustls_acme::acme::LETS_ENCRYPT_PRODUCTION_DIRECTORY.to_owned(),
            public_url: None,
            contact: Contact::default(),
            metrics_listen: Addresses::default(),
            trusted_proxies: TrustedProxies::default(),
            registration: Registration::Closed,
            registration_token: None,
            registration_shared_secret: None,
            federation: Federation::On,
            notaries: vec![owned_server_name!("matrix.org")],
            extra_ca: None,
            allow_private_addresses: false,
            memory: None,
            max_upload: Size::mebi(100),
            user_quota: None,
            disk: None,
            unauthenticated_media: UnauthenticatedMedia::None,
            url_previews: false,
            search: true,
            turn_uris: Vec::new(),
            turn_secret: None,
            turn_ttl: Lifetime::DAY,
            user_directory: UserDirectory::Shared,
            server_notices_localpart: "notices".to_owned(),
            push_gateways: PushGateways::default(),
            share_device_names: false,
            rate_limits: true,
            log: log::LevelFilter::Info,
        }
    }
}

impl Settings {
    /// The settings without a file. The server listens on localhost only, so registration is open.
    pub fn local() -> Self {
        Self {
            registration: Registration::Open,
            ..Self::default()
        }
    }

    /// The settings of `file`; [`local`](Self::local) without one.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = file else {
            return Ok(Self::local());
        };
        let text = fs::read_to_string(path).map_err(|error| Error::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(&text)
    }

    /// Parses a file. No error contains a value, which may be a secret.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let table: toml::Table = toml::from_str(text).map_err(|error| syntax(text, &error))?;
        let known = keys();
        if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(Error::UnknownKey {
                nearest: expected::nearest(key, known),
                key: key.clone(),
            });
        }
        toml::from_str(text).map_err(|error| wrong_value(text, &error))
    }

    /// Reads secrets from a directory: of systemd credentials, or with the files that become these.
    pub fn load_credentials(&mut self, directory: &Path) -> Result<(), Error> {
        let read = |path: PathBuf| match fs::read_to_string(&path) {
            Ok(text) => Ok(Secret::new(text.trim_end())),
            Err(error) => Err(Error::Read { path, error }),
        };
        let token = credential(directory, "registration_token");
        fill(&mut self.registration_token, token, read)?;
        let secret = credential(directory, "registration_shared_secret");
        fill(&mut self.registration_shared_secret, secret, read)?;
        let secret = credential(directory, "turn_secret");
        fill(&mut self.turn_secret, secret, read)?;
        let certificate = credential(directory, "tls_certificate");
        fill(&mut self.tls_certificate, certificate, Ok)?;
        fill(&mut self.tls_key, credential(directory, "tls_key"), Ok)
    }
}

/// The file of a secret setting: `hearth_KEY` where systemd passes it, `KEY` where the owner wrote it.
struct Credential {
    key: &'static str,
    path: Option<PathBuf>,
}

fn credential(directory: &Path, key: &'static str) -> Credential {
    let names = [format!("hearth_{key}"), key.to_owned()];
    let mut paths = names.into_iter().map(|name| directory.join(name));
    let path = paths.find(|path| path.is_file());
    Credential { key, path }
}

fn fill<T>(
    setting: &mut Option<T>,
    credential: Credential,
    read: impl FnOnce(PathBuf) -> Result<T, Error>,
) -> Result<(), Error> {
    let Credential { key, path } = credential;
    let Some(path) = path else {
        return Ok(());
    };
    if setting.is_some() {
        return Err(Error::Duplicate { key });
    }
    *setting = Some(read(path)?);
    Ok(())
}

/// The line of an error, counted from 1.
fn line(text: &str, error: &toml::de::Error) -> usize {
    let before = error.span().and_then(|span| text.get(..span.start));
    before.unwrap_or_default().matches('\n').count() + 1
}

fn syntax(text: &str, error: &toml::de::Error) -> Error {
    Error::Syntax {
        line: line(text, error),
        message: error.message().to_owned(),
    }
}

/// A value may be several lines long: its setting is the last one that begins before the error.
fn wrong_value(text: &str, error: &toml::de::Error) -> Error {
    let line = line(text, error);
    let settings = text.lines().take(line).filter_map(|line| {
        let (key, _) = line.split_once('=')?;
        let key = key.trim();
        expected::value(key).map(|expected| (key, expected))
    });
    match settings.last() {
        Some((key, expected)) => Error::Value {
            line,
            key: key.to_owned(),
            expected,
        },
        None => syntax(text, error),
    }
}

/// The keys of [`Settings`]: serde passes them to the deserializer.
fn keys() -> &'static [&'static str] {
    struct KeyCollector<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for KeyCollector<'_> {
        type Error = NoValue;

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            _visitor: V,
        ) -> Result<V::Value, NoValue> {
            *self.0 = fields;
            Err(de::Error::custom("only the names were wanted"))
        }

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, NoValue> {
            Err(de::Error::custom("settings are a struct"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
            ignored_any
        }
    }

    let mut keys: &'static [&'static str] = &[];
    // It always fails, after it has set `keys`.
    let _ = Settings::deserialize(KeyCollector(&mut keys));
    keys
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Error, Memory, Secret, Settings, keys};
    use crate::config::Config;

    /// The settings of the example, without the `#`.
    fn example() -> String {
        include_str!("hearth.example.toml")
            .lines()
            .filter_map(|line| line.strip_prefix('#'))
            .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
            .flat_map(|line| [line, "\n"])
            .collect()
    }

    #[test]
    fn every_setting_is_in_the_example_once() {
        let example: toml::Table = toml::from_str(&example()).unwrap();
        let mut in_example: Vec<_> = example.keys().map(String::as_str).collect();
        let mut in_code = keys().to_vec();
        in_example.sort_unstable();
        in_code.sort_unstable();
        assert!(!in_code.is_empty());
        assert_eq!(in_example, in_code);
    }

    #[test]
    fn every_setting_says_what_it_expects() {
        for key in keys() {
            assert!(super::expected::value(key).is_some(), "{key}");
        }
    }

    #[test]
    fn the_example_shows_the_defaults() {
        let mut shown = Settings::parse(&example()).unwrap();
        // Settings without a default have an example value.
        for path in [
            &mut shown.backup_dir,
            &mut shown.tls_certificate,
            &mut shown.tls_key,
            &mut shown.extra_ca,
        ] {
            assert!(path.take().is_some());
        }
        assert_eq!(shown.memory.take(), Some(Memory::DEFAULT));
        assert!(shown.public_url.take().is_some());
        assert!(shown.acme.take().is_some());
        for size in [&mut shown.user_quota, &mut shown.disk] {
            assert!(size.take().is_some());
        }
        for secret in [
            &mut shown.registration_token,
            &mut shown.registration_shared_secret,
            &mut shown.turn_secret,
        ] {
            assert!(secret.take().is_some());
        }
        assert_eq!(shown, Settings::default());
    }

    #[test]
    fn the_example_without_changes_is_the_default() {
        let settings = Settings::parse(include_str!("hearth.example.toml")).unwrap();
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn the_settings_files_that_the_readme_shows_are_valid() {
        let blocks = include_str!("../../README.md").split("\n\n");
        let shown = blocks.filter(|block| block.starts_with("    server_name = "));
        let names = shown.map(|block| {
            let config = Settings::parse(block).and_then(Config::try_from);
            config
                .unwrap_or_else(|error| panic!("{error}: {block}"))
                .server_name
        });
        assert_eq!(names.collect::<Vec<_>>(), ["localhost", "example.org"]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_most_similar_one() {
        for (wrong, right) in [
            ("servername", "server_name"),
            ("tls_certificat", "tls_certificate"),
            ("ratelimits", "rate_limits"),
            ("shared_secret", "registration_shared_secret"),
            ("hostname", "server_name"),
            ("port", "listen"),
        ] {
            let error = Settings::parse(&format!("{wrong} = 1")).unwrap_err();
            let Error::UnknownKey { key, nearest } = error else {
                panic!("{error}");
            };
            assert_eq!((key.as_str(), nearest), (wrong, right));
        }
    }

    #[test]
    fn an_invalid_value_is_refused_with_its_setting_and_what_is_expected_but_not_the_value() {
        for (text, expected) in [
            (
                "log = \"info\"\nregistration_token = 4711",
                "line 2: `registration_token` has to be a text in quotes",
            ),
            (
                "log = \"info\"\n\nmemory = \"a lot\"",
                "line 3: `memory` has to be an amount of at least 32 MB, such as \"128M\"",
            ),
            (
                "listen = 8008",
                "line 1: `listen` has to be a list of addresses with ports, such as \
                 [\"127.0.0.1:8008\"], or of paths, such as [\"unix:/run/hearth/hearth.sock\"]; \
                 a host name in it has to resolve",
            ),
            (
                "tls_listen = [\n  \"[::]\",\n]",
                "line 1: `tls_listen` has to be a list of addresses with ports, such as \
                 [\"[::]:8448\"]; a host name in it has to resolve",
            ),
            (
                "registration = true",
                "line 1: `registration` has to be \"closed\", \"token\" or \"open\"",
            ),
        ] {
            assert_eq!(Settings::parse(text).unwrap_err().to_string(), expected);
        }
        assert!(
            Settings::parse("log = \"verbose\"")
                .unwrap_err()
                .to_string()
                .contains("\"info\"")
        );
        let error = Settings::parse("registration = open").unwrap_err();
        assert!(matches!(error, Error::Syntax { line: 1, .. }), "{error}");
    }

    #[test]
    fn secrets_are_read_from_credentials() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        put("hearth_registration_token", "swordfish\n");
        put("hearth_unknown", "for somebody else");
        let key = put("hearth_tls_key", "PEM");
        let mut settings = Settings::default();
        settings.load_credentials(directory.path()).unwrap();
        let expected = Settings {
            registration_token: Some(Secret::new("swordfish")),
            tls_key: Some(key),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn a_credential_for_a_setting_in_the_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("hearth_registration_token"), "a").unwrap();
        let mut settings = Settings::parse("registration_token = \"b\"").unwrap();
        let error = settings.load_credentials(directory.path()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("`registration_token`"), "{message}");
    }
}
