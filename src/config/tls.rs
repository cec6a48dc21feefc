use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use super::{Error, Settings, server_name::is_local};

/// Where TLS connections are accepted, and with which certificate.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Never empty.
    pub listen: Vec<SocketAddr>,
    pub source: CertificateSource,
}

#[derive(Clone, Debug)]
pub enum CertificateSource {
    Files(PemFiles),
    Acme(Acme),
}

#[derive(Clone, Debug)]
pub struct PemFiles {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Certificates of an ACME authority (RFC 8555).
#[derive(Clone, Debug)]
pub struct Acme {
    /// The e-mail address that the authority may write to.
    pub contact: String,
    /// The URL of the authority's directory.
    pub directory: String,
    /// The host names, each with a certificate of its own, the one that clients connect to first.
    /// Never empty.
    pub names: Vec<String>,
    /// Whether the authority reaches this server without TLS, too: on port 80.
    pub http: bool,
}

impl Tls {
    pub(super) fn of(settings: &Settings) -> Result<Option<Self>, Error> {
        let listen = settings.tls_listen.0.clone();
        let files = (&settings.tls_certificate, &settings.tls_key);
        let is_default = settings.acme_directory == Settings::default().acme_directory;
        if settings.acme.is_none() && !is_default {
            return Err(Error::Contradiction(
                "`acme_directory` does nothing without `acme`: set that to your e-mail address",
            ));
        }
        if let Some(contact) = &settings.acme {
            if files != (&None, &None) {
                return Err(Error::Contradiction(
                    "`acme` gets a certificate, and `tls_certificate` and `tls_key` are one: remove \
                     `acme` or both of them",
                ));
            }
            return Acme::of(settings, contact.clone()).map(|acme| {
                let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 443));
                Some(Self {
                    listen: if listen.is_empty() { vec![all] } else { listen },
                    source: CertificateSource::Acme(acme),
                })
            });
        }
        match (listen.is_empty(), files) {
            (true, (None, None)) => Ok(None),
            (false, (Some(certificate), Some(key))) => Ok(Some(Self {
                listen,
                source: CertificateSource::Files(PemFiles {
                    certificate: certificate.clone(),
                    key: key.clone(),
                }),
            })),
            (true, _) => Err(Error::Contradiction(
                "`tls_certificate` and `tls_key` do nothing without `tls_listen`; \
                 give it an address, as \"[::]:8448\"",
            )),
            (false, _) => Err(Error::Contradiction(
                "`tls_listen` needs both `tls_certificate` and `tls_key`, or `acme`",
            )),
        }
    }
}

impl Acme {
    fn of(settings: &Settings, contact: String) -> Result<Self, Error> {
        let is_address = contact.split_once('@').is_some_and(|(user, host)| {
            !user.is_empty() && host.contains('.') && !contact.contains([' ', ',', ':', '?'])
        });
        if !is_address {
            return Err(Error::Contradiction(
                "`acme` is your e-mail address, as \"you@example.org\": the authority writes to it when \
                 a certificate is about to expire",
            ));
        }
        if !settings.acme_directory.starts_with("https://") {
            return Err(Error::Contradiction(
                "`acme_directory` is the https address of an ACME directory, as \
                 \"https://acme-v02.api.letsencrypt.org/directory\"",
            ));
        }
        if is_local(&settings.server_name) {
            return Err(Error::Contradiction(
                "`acme` gets certificates for public names: set `server_name` to one",
            ));
        }
        let public = settings.public_url.as_ref();
        let public = public.and_then(|url| url.host()).map(str::to_owned);
        let mut names: Vec<String> = public.into_iter().collect();
        let own = settings.server_name.host().to_owned();
        if !names.contains(&own) {
            names.push(own);
        }
        names.retain(|name| name.parse::<IpAddr>().is_err() && !name.starts_with('['));
        if names.is_empty() {
            return Err(Error::Contradiction(
                "`acme` gets certificates for host names, not for addresses: remove it, or set \
                 `public_url`",
            ));
        }
        Ok(Self {
            contact,
            directory: settings.acme_directory.clone(),
            names,
            http: settings
                .listen
                .addresses
                .iter()
                .any(|address| address.port() == 80),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{CertificateSource, Tls};
    use crate::config::{Error, Settings};

    fn tls(text: &str) -> Result<Option<Tls>, Error> {
        Tls::of(&Settings::parse(text)?)
    }

    fn names(text: &str) -> Vec<String> {
        let text = format!("acme = \"you@example.org\"\n{text}");
        match tls(&text).unwrap().unwrap().source {
            CertificateSource::Acme(acme) => acme.names,
            source @ CertificateSource::Files(_) => panic!("{source:?}"),
        }
    }

    #[test]
    fn tls_needs_an_address_a_certificate_and_a_key() {
        let listen = "tls_listen = [\"[::]:8448\"]\n";
        let files = "tls_certificate = \"a.pem\"\ntls_key = \"b.pem\"\n";
        for wrong in [listen, files, &format!("{listen}tls_key = \"b.pem\"")] {
            tls(wrong).unwrap_err();
        }
        let tls = tls(&format!("{listen}{files}")).unwrap().unwrap();
        assert_eq!(tls.listen.len(), 1);
    }

    #[test]
    fn certificates_by_acme_are_for_the_names_of_the_server() {
        let name = "server_name = \"example.org\"\n";
        assert_eq!(names(name), ["example.org"]);
        let url = "public_url = \"https://matrix.example.org\"\n";
        assert_eq!(
            names(&(name.to_owned() + url)),
            ["matrix.example.org", "example.org"]
        );
        let same = "public_url = \"https://example.org:8443\"\n";
        assert_eq!(names(&(name.to_owned() + same)), ["example.org"]);
        let address = "server_name = \"192.0.2.1\"\n";
        assert_eq!(names(&(address.to_owned() + url)), ["matrix.example.org"]);
    }

    #[test]
    fn acme_listens_on_443_by_itself() {
        let text = "server_name = \"example.org\"\nacme = \"you@example.org\"\n";
        let listen = |text: &str| tls(text).unwrap().unwrap().listen;
        assert_eq!(listen(text), ["[::]:443".parse().unwrap()]);
        let own = format!("{text}tls_listen = [\"[::]:8448\"]");
        assert_eq!(listen(&own), ["[::]:8448".parse().unwrap()]);
    }

    #[test]
    fn acme_that_can_get_no_certificate_is_refused() {
        let acme = "acme = \"you@example.org\"\n";
        for wrong in [
            "acme = \"you\"\nserver_name = \"example.org\"",
            acme,
            "acme_directory = \"https://authority.example/directory\"",
            &format!("{acme}server_name = \"192.0.2.1\""),
            &format!("{acme}server_name = \"[2001:db8::1]:8448\""),
            &format!(
                "{acme}server_name = \"example.org\"\ntls_certificate = \"a\"\ntls_key = \"b\""
            ),
            &format!(
                "{acme}server_name = \"example.org\"\nacme_directory = \"http://example.org\""
            ),
        ] {
            tls(wrong).unwrap_err();
        }
    }
}
