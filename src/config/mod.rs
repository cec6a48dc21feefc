//! What the operator decides: read once at the start from `hearth.toml`, checked, then passed down.
//!
//! [`Settings`] is the file as it is written, [`Config`] what the server works with: everything in
//! it is consistent. A new setting is a field of [`Settings`] and an entry in
//! `hearth.example.toml`; a test holds the two together.

mod federation;
mod memory;
mod secret;
mod settings;
mod size;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ruma::{OwnedServerName, ServerName};

pub use self::{
    federation::Federation, memory::Memory, secret::Secret, settings::Settings, size::Size,
};

/// Settings that fit together.
#[derive(Clone, Debug)]
pub struct Config {
    /// The part after the colon in every identifier made here; never changes.
    pub server_name: OwnedServerName,
    /// The directory that holds everything durable.
    pub data_dir: PathBuf,
    /// Where to listen without encryption.
    pub listen: Vec<SocketAddr>,
    /// Where to listen with TLS, and with what.
    pub tls: Option<Tls>,
    /// Who may make an account.
    pub registration: Registration,
    /// What tools sign their registrations with, if they may.
    pub registration_shared_secret: Option<Secret>,
    /// Which other servers this one has to do with.
    pub federation: Federation,
    /// Who is believed about the keys of servers that are gone.
    pub notaries: Vec<OwnedServerName>,
    /// A PEM file with authorities that vouch for other servers, beside the system's.
    pub extra_ca: Option<PathBuf>,
    /// Whether other servers may be at addresses of private networks.
    pub allow_private_addresses: bool,
    /// What the whole process may use.
    pub memory: Memory,
    /// The largest file, of a user here or of another server.
    pub max_upload: Size,
    /// How much a user may upload in all; none where that has no end.
    pub user_quota: Option<Size>,
    /// What everything in `data_dir` may take up of the disk, as far as it can be had again.
    pub disk: Option<Size>,
    /// Whether web pages are asked what they say of themselves when somebody here sends a link.
    pub url_previews: bool,
    /// Whether clients are slowed down when they ask too often.
    pub rate_limits: bool,
    /// What is worth a line in the log.
    pub log: log::LevelFilter,
}

/// The encrypted listeners.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Where to listen; never empty.
    pub listen: Vec<SocketAddr>,
    /// A PEM file with the certificate and what leads from it to a root.
    pub certificate: PathBuf,
    /// A PEM file with its private key.
    pub key: PathBuf,
}

/// Who may make an account.
#[derive(Clone, Debug)]
pub enum Registration {
    /// Nobody.
    Closed,
    /// Whoever knows the token.
    Token(Secret),
    /// Everybody who can reach the server.
    Open,
}

/// Why the server cannot start with these settings. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is not TOML, or a value has the wrong type.
    #[error("line {line}: {message}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// A key that no setting has.
    #[error("there is no setting `{key}`; did you mean `{nearest}`?")]
    UnknownKey {
        /// What stands in the file.
        key: String,
        /// The setting whose name is nearest.
        nearest: &'static str,
    },
    /// A setting that is also handed over.
    #[error(
        "`{key}` stands in the settings, and there is a credential `hearth_{key}` too; \
         remove one of them"
    )]
    Twice {
        /// The setting.
        key: &'static str,
    },
    /// Settings that contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
}

impl Config {
    /// The settings of `file`, or those for a server that only this machine can reach, with the
    /// secrets from a directory of `credentials`.
    ///
    /// # Errors
    /// If a file cannot be read, or what they say does not fit together.
    pub fn load(file: Option<&Path>, credentials: Option<&Path>) -> Result<Self, Error> {
        let mut settings = match file {
            None => Settings::local(),
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|error| Error::Read {
                    path: path.to_owned(),
                    error,
                })?;
                Settings::parse(&text)?
            }
        };
        if let Some(directory) = credentials {
            settings.take_credentials(directory)?;
        }
        settings.try_into()
    }

    /// Whether only this machine knows the server by its name.
    pub fn is_local(&self) -> bool {
        is_local(&self.server_name)
    }
}

fn is_local(name: &ServerName) -> bool {
    let host = name.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

impl TryFrom<Settings> for Config {
    type Error = Error;

    fn try_from(settings: Settings) -> Result<Self, Error> {
        let registration = registration(&settings)?;
        let tls = tls(
            settings.tls_listen,
            settings.tls_certificate,
            settings.tls_key,
        )?;
        if settings.listen.is_empty() && tls.is_none() {
            return Err(Error::Contradiction(
                "`listen` and `tls_listen` are both empty: nobody could reach the server; \
                 give one of them an address",
            ));
        }
        Ok(Self {
            server_name: settings.server_name,
            data_dir: settings.data_dir,
            listen: settings.listen,
            tls,
            registration,
            registration_shared_secret: settings.registration_shared_secret,
            federation: settings.federation,
            notaries: settings.notaries,
            extra_ca: settings.extra_ca,
            allow_private_addresses: settings.allow_private_addresses,
            memory: settings.memory.unwrap_or_else(Memory::of_group),
            max_upload: settings.max_upload,
            user_quota: settings.user_quota,
            disk: settings.disk,
            url_previews: settings.url_previews,
            rate_limits: settings.rate_limits,
            log: settings.log,
        })
    }
}

fn registration(settings: &Settings) -> Result<Registration, Error> {
    use self::settings::Registration as Kind;

    match (settings.registration, &settings.registration_token) {
        (Kind::Closed, _) => Ok(Registration::Closed),
        (Kind::Token, Some(token)) if !token.expose().is_empty() => {
            Ok(Registration::Token(token.clone()))
        }
        (Kind::Token, _) => Err(Error::Contradiction(
            "`registration = \"token\"` needs a `registration_token`: \
             choose one and give it to the people you invite",
        )),
        (Kind::Open, Some(_)) => Err(Error::Contradiction(
            "`registration = \"open\"` lets everybody in without the `registration_token`; \
             set `registration = \"token\"` to ask for it, or remove the token",
        )),
        (Kind::Open, None) if reachable(settings) => Err(Error::Contradiction(
            "`registration = \"open\"` would let anybody in the world make an account here; \
             set `registration = \"token\"` and a `registration_token`, \
             or `registration = \"closed\"`",
        )),
        (Kind::Open, None) => Ok(Registration::Open),
    }
}

/// Whether anybody but this machine may be able to reach the server: by its name, or because it
/// listens elsewhere than on the loopback.
fn reachable(settings: &Settings) -> bool {
    let mut addresses = settings.listen.iter().chain(&settings.tls_listen);
    !is_local(&settings.server_name) || addresses.any(|address| !address.ip().is_loopback())
}

fn tls(
    listen: Vec<SocketAddr>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<Tls>, Error> {
    match (listen.is_empty(), certificate, key) {
        (true, None, None) => Ok(None),
        (false, Some(certificate), Some(key)) => Ok(Some(Tls {
            listen,
            certificate,
            key,
        })),
        (true, _, _) => Err(Error::Contradiction(
            "`tls_certificate` and `tls_key` do nothing without `tls_listen`; \
             give it an address, as \"[::]:8448\"",
        )),
        (false, _, _) => Err(Error::Contradiction(
            "`tls_listen` needs both `tls_certificate` and `tls_key`",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, Error, Registration, Settings};

    fn config(text: &str) -> Result<Config, Error> {
        Settings::parse(text)?.try_into()
    }

    fn refusal(text: &str) -> String {
        config(text)
            .expect_err("these settings are refused")
            .to_string()
    }

    #[test]
    fn without_a_file_registration_is_open_and_nobody_else_can_reach_the_server() {
        let config = Config::load(None, None).unwrap();
        assert!(matches!(config.registration, Registration::Open));
        assert!(config.is_local());
        assert!(
            config
                .listen
                .iter()
                .all(|address| address.ip().is_loopback())
        );
    }

    #[test]
    fn with_a_file_registration_is_closed_unless_it_says_otherwise() {
        let config = config("").unwrap();
        assert!(matches!(config.registration, Registration::Closed));
    }

    #[test]
    fn a_public_name_with_open_registration_is_refused_with_advice() {
        let message = refusal("server_name = \"example.org\"\nregistration = \"open\"");
        assert!(message.contains("`registration = \"token\"`"), "{message}");
    }

    #[test]
    fn open_registration_is_refused_when_others_can_connect() {
        for listen in ["0.0.0.0:8008", "[::]:8008", "192.168.1.2:8008"] {
            refusal(&format!("listen = [\"{listen}\"]\nregistration = \"open\""));
        }
        for name in ["localhost", "hs.localhost", "127.0.0.1:8008", "[::1]:8008"] {
            config(&format!(
                "server_name = \"{name}\"\nregistration = \"open\""
            ))
            .unwrap();
        }
    }

    #[test]
    fn a_token_must_be_there_when_it_is_asked_for_and_only_then() {
        refusal("registration = \"token\"");
        refusal("registration = \"token\"\nregistration_token = \"\"");
        refusal("registration = \"open\"\nregistration_token = \"hello\"");
        let text = "server_name = \"example.org\"\n\
                    registration = \"token\"\nregistration_token = \"hello\"";
        let Registration::Token(token) = config(text).unwrap().registration else {
            panic!("registration by token");
        };
        assert_eq!(token.expose(), "hello");
    }

    #[test]
    fn tls_needs_an_address_a_certificate_and_a_key() {
        let listen = "tls_listen = [\"[::]:8448\"]\n";
        let files = "tls_certificate = \"a.pem\"\ntls_key = \"b.pem\"\n";
        refusal(listen);
        refusal(files);
        refusal(&format!("{listen}tls_key = \"b.pem\""));
        let tls = config(&format!("{listen}{files}")).unwrap().tls.unwrap();
        assert_eq!(tls.listen.len(), 1);
    }

    #[test]
    fn a_server_that_listens_nowhere_is_refused() {
        assert!(refusal("listen = []").contains("`listen`"));
    }

    #[test]
    fn no_secret_shows_in_what_is_printed_for_debugging() {
        let text = "registration = \"token\"\nregistration_token = \"swordfish\"\n\
                    registration_shared_secret = \"swordfish\"";
        let printed = format!("{:?} {:?}", Settings::parse(text), config(text));
        assert!(!printed.contains("swordfish"), "{printed}");
    }
}
