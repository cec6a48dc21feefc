use std::path::PathBuf;

/// How names are looked up, and on which ports servers are whose names have none. No settings: tests have name
/// servers and ports of their own.
#[derive(Clone, Debug)]
pub struct Network {
    /// See resolv.conf(5).
    pub resolv_conf: PathBuf,
    /// See hosts(5).
    pub hosts: PathBuf,
    /// The port of the name servers.
    pub name_server_port: u16,
    pub matrix_port: u16,
    pub http_port: u16,
    pub https_port: u16,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
            name_server_port: 53,
            matrix_port: 8448,
            http_port: 80,
            https_port: 443,
        }
    }
}
