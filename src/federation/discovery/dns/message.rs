//! Messages of the domain name system: what is asked, and what an answer says.
//!
//! Source: [RFC 1035](https://www.rfc-editor.org/rfc/rfc1035), [RFC 2782](https://www.rfc-editor.org/rfc/rfc2782).

use std::{net::IpAddr, time::Duration};

use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE, rdata::RData};

use super::{Error, Service};

/// How many aliases lead on from a name.
const ALIASES: usize = 8;
/// What stands before the questions of a message.
const HEADER: usize = 12;
/// The least that a question or a record takes.
const LEAST: usize = 5;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A or AAAA.
    Address(IpAddr),
    /// SRV.
    Service(Service),
}

/// What a name server says of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// What there is, and how long that holds. Nothing, if the name has no such records.
    Records(Vec<Record>, Duration),
    /// The name is an alias, of which the server says no more.
    Alias(String),
    /// Not all of it has room in one packet.
    Truncated,
}

/// Asks for the records of type `what` at `name`.
pub fn question(id: u16, name: &str, what: TYPE) -> Result<Vec<u8>, Error> {
    let name = Name::new(name).map_err(|_| Error::NoName)?;
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let question = Question::new(name, what.into(), CLASS::IN.into(), false);
    packet.questions.push(question);
    packet.build_bytes_vec().map_err(|_| Error::NoName)
}

/// What `bytes` answers to the question; nothing, if they are no answer to it.
pub fn answer(bytes: &[u8], id: u16, name: &str, what: TYPE) -> Option<Result<Answer, Error>> {
    if bytes.get(..2)? != id.to_be_bytes() || !counts_are_possible(bytes)? {
        return None;
    }
    let packet = Packet::parse(bytes).ok()?;
    let [question] = packet.questions.as_slice() else {
        return None;
    };
    let asked = Name::new(name).ok()?;
    let is_answer = packet.has_flags(PacketFlag::RESPONSE)
        && question.qname == asked
        && question.qtype == what.into();
    if !is_answer {
        return None;
    }
    Some(match packet.rcode() {
        _ if packet.has_flags(PacketFlag::TRUNCATION) => Ok(Answer::Truncated),
        RCODE::NoError | RCODE::NameError => Ok(read(&packet, asked, what)),
        code => Err(Error::Refused(format!("{code:?}"))),
    })
}

/// Whether so many questions and records as the message says have room in it: its reader makes room
/// for them before it looks.
fn counts_are_possible(bytes: &[u8]) -> Option<bool> {
    let counts = bytes.get(4..HEADER)?.chunks_exact(2);
    let all: usize = counts
        .map(|count| usize::from(u16::from_be_bytes([count[0], count[1]])))
        .sum();
    Some(all * LEAST <= bytes.len() - HEADER)
}

/// What the message says of `name`, or of what that is an alias of.
fn read<'p>(packet: &'p Packet<'p>, mut name: Name<'p>, what: TYPE) -> Answer {
    let mut holds = u32::MAX;
    let mut is_alias = false;
    for _ in 0..=ALIASES {
        let of_name = packet.answers.iter().filter(|record| record.name == name);
        let mut records = Vec::new();
        let mut alias = None;
        for record in of_name {
            match &record.rdata {
                RData::CNAME(to) => alias = Some(&to.0),
                data if data.type_code() == what => records.extend(understood(data)),
                _ => continue,
            }
            holds = holds.min(record.ttl);
        }
        match alias {
            Some(to) if records.is_empty() => name = to.clone(),
            _ if records.is_empty() && is_alias => return Answer::Alias(name.to_string()),
            _ => {
                // RFC 2308 would take it from the zone; whoever asks knows better how long to wait.
                let holds = if records.is_empty() { 0 } else { holds };
                return Answer::Records(records, Duration::from_secs(holds.into()));
            }
        }
        is_alias = true;
    }
    Answer::Records(Vec::new(), Duration::ZERO)
}

fn understood(data: &RData) -> Option<Record> {
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
