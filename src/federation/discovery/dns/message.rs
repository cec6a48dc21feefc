//! DNS messages: encoding of queries, decoding of responses.
//!
//! Source: [RFC 1035](https://www.rfc-editor.org/rfc/rfc1035), [RFC 2782](https://www.rfc-editor.org/rfc/rfc2782).

use std::{net::IpAddr, time::Duration};

use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE, rdata::RData};

/// How many CNAME records are followed within one response.
const MAX_CNAMES: usize = 8;
const HEADER_BYTES: usize = 12;
/// The minimum size of a question or a record.
const MIN_RECORD_BYTES: usize = 5;

/// Why a lookup failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("this is not a valid DNS name")]
    InvalidName,
    /// A name server answers with an error.
    #[error("the name server answers with {0}")]
    Refused(String),
    #[error("no name server answers: {0}")]
    NoResponse(String),
}

/// An SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// Empty if there is no such service.
    pub host: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A or AAAA.
    Address(IpAddr),
    /// SRV.
    Service(Service),
}

#[derive(Debug, PartialEq, Eq)]
pub enum Response {
    /// The records, none if the name has no such records, and their time to live.
    Records(Vec<Record>, Duration),
    /// The name has a CNAME record to this name, and the response has no records of it.
    Cname(String),
    /// It does not fit into one UDP packet.
    Truncated,
}

/// A query for the records of type `kind` at `name`.
pub fn encode_query(id: u16, name: &str, kind: TYPE) -> Result<Vec<u8>, Error> {
    let name = Name::new(name).map_err(|_| Error::InvalidName)?;
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let question = Question::new(name, kind.into(), CLASS::IN.into(), false);
    packet.questions.push(question);
    packet.build_bytes_vec().map_err(|_| Error::InvalidName)
}

/// None if `bytes` are no response to that query.
pub fn decode_response(
    bytes: &[u8],
    id: u16,
    name: &str,
    kind: TYPE,
) -> Option<Result<Response, Error>> {
    if bytes.get(..2)? != id.to_be_bytes() || !has_plausible_counts(bytes)? {
        return None;
    }
    let packet = Packet::parse(bytes).ok()?;
    let [question] = packet.questions.as_slice() else {
        return None;
    };
    let queried = Name::new(name).ok()?;
    let is_answer = packet.has_flags(PacketFlag::RESPONSE)
        && question.qname == queried
        && question.qtype == kind.into();
    if !is_answer {
        return None;
    }
    Some(match packet.rcode() {
        _ if packet.has_flags(PacketFlag::TRUNCATION) => Ok(Response::Truncated),
        RCODE::NoError | RCODE::NameError => Ok(read(&packet, queried, kind)),
        code => Err(Error::Refused(format!("{code:?}"))),
    })
}

/// Whether the message can contain as many questions and records as its header says: its parser allocates
/// memory for them first.
fn has_plausible_counts(bytes: &[u8]) -> Option<bool> {
    let counts = bytes.get(4..HEADER_BYTES)?.chunks_exact(2);
    let all: usize = counts
        .map(|count| usize::from(u16::from_be_bytes([count[0], count[1]])))
        .sum();
    Some(all * MIN_RECORD_BYTES <= bytes.len() - HEADER_BYTES)
}

/// The records of `name`, or of the name that its CNAME leads to.
fn read<'p>(packet: &'p Packet<'p>, mut name: Name<'p>, kind: TYPE) -> Response {
    let mut ttl = u32::MAX;
    let mut is_cname = false;
    for _ in 0..=MAX_CNAMES {
        let of_name = packet.answers.iter().filter(|record| record.name == name);
        let mut records = Vec::new();
        let mut cname = None;
        for record in of_name {
            match &record.rdata {
                RData::CNAME(to) => cname = Some(&to.0),
                data if data.type_code() == kind => records.extend(decode_record(data)),
                _ => continue,
            }
            ttl = ttl.min(record.ttl);
        }
        match cname {
            Some(to) if records.is_empty() => name = to.clone(),
            _ if records.is_empty() && is_cname => return Response::Cname(name.to_string()),
            _ => {
                // RFC 2308 takes it from the zone's SOA record. The callers have their own limits.
                let ttl = if records.is_empty() { 0 } else { ttl };
                return Response::Records(records, Duration::from_secs(ttl.into()));
            }
        }
        is_cname = true;
    }
    Response::Records(Vec::new(), Duration::ZERO)
}

fn decode_record(data: &RData) -> Option<Record> {
    match data {
        RData::A(a) => Some(Record::Address(IpAddr::V4(a.address.into()))),
        RData::AAAA(aaaa) => Some(Record::Address(IpAddr::V6(aaaa.address.into()))),
        RData::SRV(srv) => Some(Record::Service(Service {
            priority: srv.priority,
            weight: srv.weight,
            port: srv.port,
            host: srv.target.to_string(),
        })),
        _ => None,
    }
}
