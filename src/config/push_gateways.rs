use http::uri::{Authority, Uri};
use serde::{Deserialize, Deserializer, de};

/// The push gateways that the owner trusts: they may be without TLS and at private addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushGateways(Vec<Gateway>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Gateway {
    /// `http` or `https`; `None` allows both.
    scheme: Option<String>,
    host: String,
    /// `None` allows all.
    port: Option<u16>,
}

impl PushGateways {
    /// Whether the gateway at `host` and `port` is listed, for `scheme`.
    pub fn contains(&self, scheme: &str, host: &str, port: u16) -> bool {
        self.0.iter().any(|gateway| {
            gateway.scheme.as_deref().is_none_or(|only| only == scheme)
                && gateway.host.eq_ignore_ascii_case(host)
                && gateway.port.is_none_or(|only| only == port)
        })
    }
}

impl Gateway {
    /// An address such as `http://10.0.0.2:8000`, or a host with or without a port.
    fn parse(text: &str) -> Option<Self> {
        if text.contains(['@', '?', '#']) {
            return None;
        }
        let (scheme, authority) = if text.contains("://") {
            let uri: Uri = text.parse().ok()?;
            if uri.path() != "/" {
                return None;
            }
            (
                uri.scheme_str().map(str::to_owned),
                uri.authority()?.clone(),
            )
        } else {
            (None, text.parse::<Authority>().ok()?)
        };
        let default_port = match scheme.as_deref() {
            None => None,
            Some("http") => Some(80),
            Some("https") => Some(443),
            Some(_) => return None,
        };
        let host = authority.host().to_owned();
        // A port that is none must not allow all.
        let has_port = authority.as_str().len() > host.len();
        let port = authority.port_u16();
        if host.is_empty() || has_port != port.is_some() {
            return None;
        }
        Some(Self {
            scheme,
            host,
            port: port.or(default_port),
        })
    }
}

impl<'de> Deserialize<'de> for PushGateways {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let gateways = Vec::<String>::deserialize(deserializer)?;
        let gateways = gateways.iter().map(|text| {
            Gateway::parse(text).ok_or_else(|| de::Error::custom("not the address of a gateway"))
        });
        gateways.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::PushGateways;
    use crate::config::Settings;

    fn read(value: &str) -> Option<PushGateways> {
        let settings = Settings::parse(&format!("push_gateways = {value}"));
        settings.ok().map(|settings| settings.push_gateways)
    }

    #[test]
    fn an_address_is_one_gateway_and_a_name_is_all_on_a_host() {
        let gateways = read(r#"["http://10.0.0.2:8000", "https://a.lan", "ntfy.lan", "b:1"]"#);
        let gateways = gateways.expect("gateways");
        for (scheme, host, port, expected) in [
            ("http", "10.0.0.2", 8000, true),
            ("http", "10.0.0.2", 8001, false),
            ("https", "10.0.0.2", 8000, false),
            ("https", "a.lan", 443, true),
            ("https", "a.lan", 8443, false),
            ("http", "a.lan", 443, false),
            ("http", "ntfy.lan", 80, true),
            ("https", "NTFY.lan", 8443, true),
            ("http", "b", 1, true),
            ("http", "b", 2, false),
            ("http", "c", 80, false),
        ] {
            let found = gateways.contains(scheme, host, port);
            assert_eq!(found, expected, "{scheme}://{host}:{port}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for value in [
            r#""ntfy.lan""#,
            "[1]",
            r#"["ftp://ntfy.lan"]"#,
            r#"["http://ntfy.lan/_matrix/push/v1/notify"]"#,
            r#"["http://a@ntfy.lan"]"#,
            r#"["ntfy.lan:99999"]"#,
            r#"["ntfy.lan:"]"#,
            r#"["a b"]"#,
            r#"[""]"#,
        ] {
            assert_eq!(read(value), None, "{value}");
        }
    }
}
