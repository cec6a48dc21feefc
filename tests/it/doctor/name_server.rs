//! A name server on the loopback.

use std::{net::UdpSocket, thread};

use simple_dns::{
    CLASS, Name, Packet, QTYPE, RCODE, ResourceRecord, TYPE,
    rdata::{A, AAAA, CNAME, RData, SRV},
};

/// Answers by UDP until the process of the tests ends. A line of `zone` is a name, a type and the data; with the
/// data `fails`, queries for that name and type fail. Returns the port.
pub fn start(zone: String) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    let port = socket.local_addr().expect("it has an address").port();
    thread::spawn(move || {
        let mut query = [0; 4096];
        while let Ok((size, from)) = socket.recv_from(&mut query) {
            let answer = answer(&zone, &query[..size]);
            // Whoever does not wait any more needs none.
            let _ = socket.send_to(&answer, from);
        }
    });
    port
}

fn answer(zone: &str, query: &[u8]) -> Vec<u8> {
    let packet = Packet::parse(query).expect("a query");
    let question = &packet.questions[0];
    let QTYPE::TYPE(kind) = question.qtype else {
        panic!("not a type")
    };
    let name = question.qname.to_string();
    let mut reply = packet.clone().into_reply();
    let fails = format!("{name} {kind:?} fails");
    if zone.lines().any(|line| line.trim() == fails) {
        *reply.rcode_mut() = RCODE::ServerFailure;
    } else {
        reply.answers = records(zone, &name, kind);
        if reply.answers.is_empty() {
            *reply.rcode_mut() = RCODE::NameError;
        }
    }
    reply.build_bytes_vec().expect("an answer")
}

fn records(zone: &str, name: &str, kind: TYPE) -> Vec<ResourceRecord<'static>> {
    let mut found = Vec::new();
    for line in zone.lines() {
        let Some((owner, data)) = record(line) else {
            continue;
        };
        if owner != name {
            continue;
        }
        let is_alias = matches!(data, RData::CNAME(_));
        if !is_alias && data.type_code() != kind {
            continue;
        }
        let alias = match &data {
            RData::CNAME(to) => Some(to.0.to_string()),
            _ => None,
        };
        let owner = Name::new(owner).expect("a name").into_owned();
        found.push(ResourceRecord::new(owner, CLASS::IN, 60, data));
        if let Some(alias) = alias {
            found.extend(records(zone, &alias, kind));
        }
    }
    found
}

fn record(line: &str) -> Option<(&str, RData<'static>)> {
    let named = |name: &str| Name::new(name).expect("a name").into_owned();
    let words: Vec<_> = line.split_whitespace().collect();
    let data = match words[..] {
        [_, "A", address] => {
            let address: std::net::Ipv4Addr = address.parse().ok()?;
            let address = address.into();
            RData::A(A { address })
        }
        [_, "AAAA", address] => {
            let address: std::net::Ipv6Addr = address.parse().ok()?;
            let address = address.into();
            RData::AAAA(AAAA { address })
        }
        [_, "CNAME", to] => RData::CNAME(CNAME(named(to))),
        [_, "SRV", port, host] => RData::SRV(SRV {
            priority: 10,
            weight: 5,
            port: port.parse().ok()?,
            target: named(host),
        }),
        _ => return None,
    };
    Some((words[0], data))
}
