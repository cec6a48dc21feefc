//! Servers as somebody finds them who knows nothing of them: for a check of this server's own set-up.
//!
//! Nothing here is cached, `/etc/hosts` is not used, any address may be connected to, and a certificate that
//! is not valid is reported instead of ending the connection. So what a probe receives is not to be trusted:
//! it is for the owner to read.

mod certificate;
mod lookup;
mod request;

pub use self::{
    certificate::PeerCertificate,
    lookup::{Found, Probe, is_public_address},
    request::{Failure, ProbeBody, Reply, Site, empty_body, whole_body, zeros},
};
pub use super::discovery::dns::{Error as DnsError, Family, Service};
