//! Lookups at a name server on the loopback.

use std::{
    fs, iter,
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
    time::Duration,
};

use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE,
    rdata::{A, AAAA, CNAME, RData, SRV},
};
use smol::{
    Async,
    io::{AsyncReadExt, AsyncWriteExt},
};
use tempfile::TempDir;

use super::{Dns, Error, Records, Service, SystemFiles};
use crate::{executor::Executor, pool::Pool};

/// A name server with a zone. To queries for names that begin with
/// - `large.` it answers by UDP only that the response is truncated,
/// - `broken.` it answers with an error,
/// - `forged.` it answers first with responses to other queries.
pub struct NameServer {
    zone: Mutex<String>,
    queries: Mutex<Vec<String>>,
}

/// A [`NameServer`] and a client of it.
pub struct Lookups {
    pub server: Arc<NameServer>,
    pub dns: Dns,
    directory: TempDir,
}

impl Lookups {
    /// A line of `zone` is a name, a time to live, a type and the data.
    pub fn new(executor: &Executor, zone: &str) -> Self {
        // A port that is free for TCP may be in use for UDP.
        let (tcp, udp) = iter::repeat_with(|| {
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let udp = UdpSocket::bind(tcp.local_addr().unwrap());
            (tcp, udp)
        })
        .find_map(|(tcp, udp)| Some((tcp, udp.ok()?)))
        .unwrap();
        let port = tcp.local_addr().unwrap().port();
        let server = Arc::new(NameServer {
            zone: Mutex::new(zone.to_owned()),
            queries: Mutex::default(),
        });
        let (udp, tcp) = (Async::new(udp).unwrap(), Async::new(tcp).unwrap());
        executor.spawn(query_udp(server.clone(), udp)).detach();
        executor.spawn(query_tcp(server.clone(), tcp)).detach();
        let directory = tempfile::tempdir().unwrap();
        let files = SystemFiles {
            resolv_conf: directory.path().join("resolv.conf"),
            hosts: directory.path().join("hosts"),
            port,
        };
        let settings = "nameserver 127.0.0.1\n";
        fs::write(&files.resolv_conf, settings).unwrap();
        Self {
            server,
            dns: Dns::new(files, &Pool::default()),
            directory,
        }
    }

    pub fn hosts(&self, text: &str) {
        fs::write(self.directory.path().join("hosts"), text).unwrap();
    }

    fn resolvers(&self, text: &str) {
        fs::write(self.directory.path().join("resolv.conf"), text).unwrap();
    }
}

impl NameServer {
    pub fn set_zone(&self, zone: &str) {
        zone.clone_into(&mut self.zone.lock().unwrap());
    }

    /// The queries since the last call, each as name and type.
    pub fn queries(&self) -> Vec<String> {
        std::mem::take(&mut self.queries.lock().unwrap())
    }

    fn answers(&self, query: &[u8], is_udp: bool) -> Vec<Vec<u8>> {
        let packet = Packet::parse(query).unwrap();
        let question = &packet.questions[0];
        let name = question.qname.to_string();
        let QTYPE::TYPE(what) = question.qtype else {
            panic!("not a type")
        };
        self.queries
            .lock()
            .unwrap()
            .push(format!("{name} {what:?}"));
        let zone = self.zone.lock().unwrap().clone();
        let mut reply = packet.clone().into_reply();
        if name.starts_with("broken.") {
            *reply.rcode_mut() = RCODE::ServerFailure;
        } else if name.starts_with("large.") && is_udp {
            reply.set_flags(PacketFlag::TRUNCATION);
        } else {
            reply.answers = of_name(&zone, &name, what);
            if reply.answers.is_empty() {
                *reply.rcode_mut() = RCODE::NameError;
            }
        }
        let mut answers = Vec::new();
        if name.starts_with("forged.") {
            let lie = record("forged.example 60 A 203.0.113.66").unwrap();
            for (id, qname) in [(packet.id() ^ 1, &*name), (packet.id(), "other.example")] {
                let mut other = reply.clone();
                other.set_id(id);
                other.questions[0].qname = Name::new(qname).unwrap();
                other.answers = vec![lie.clone()];
                answers.push(other.build_bytes_vec().unwrap());
            }
            answers.push(vec![0xff; 3]);
            let mut impossible = query.to_vec();
            impossible[6..12].fill(0xff);
            answers.push(impossible);
        }
        answers.push(reply.build_bytes_vec_compressed().unwrap());
        answers
    }
}

async fn query_udp(server: Arc<NameServer>, socket: Async<UdpSocket>) {
    let mut packet = [0; 512];
    loop {
        let (size, from) = socket.recv_from(&mut packet).await.unwrap();
        for answer in server.answers(&packet[..size], true) {
            socket.send_to(&answer, from).await.unwrap();
        }
    }
}

async fn query_tcp(server: Arc<NameServer>, listener: Async<TcpListener>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        answer_by_tcp(&server, stream).await;
    }
}

async fn answer_by_tcp(server: &NameServer, mut stream: Async<TcpStream>) {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await.unwrap();
    let mut question = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut question).await.unwrap();
    for answer in server.answers(&question, false) {
        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
        stream.write_all(&length).await.unwrap();
        stream.write_all(&answer).await.unwrap();
    }
}

/// The records of type `what` at `name`, and at the name that its CNAME leads to.
fn of_name(zone: &str, name: &str, what: TYPE) -> Vec<ResourceRecord<'static>> {
    let mut found = Vec::new();
    let records = zone.lines().filter_map(record);
    for record in records.filter(|record| record.name == Name::new(name).unwrap()) {
        if let RData::CNAME(alias) = &record.rdata {
            let alias = alias.0.to_string();
            found.push(record);
            if !alias.starts_with("elsewhere.") {
                found.extend(of_name(zone, &alias, what));
            }
        } else if record.rdata.type_code() == what {
            found.push(record);
        }
    }
    found
}

fn record(line: &str) -> Option<ResourceRecord<'static>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let named = |name: &str| Name::new(name).unwrap().into_owned();
    let (name, ttl, data) = match words.as_slice() {
        [] => return None,
        [name, ttl, "A", address] => {
            let address: std::net::Ipv4Addr = address.parse().unwrap();
            (
                name,
                ttl,
                RData::A(A {
                    address: address.into(),
                }),
            )
        }
        [name, ttl, "AAAA", address] => {
            let address: std::net::Ipv6Addr = address.parse().unwrap();
            (
                name,
                ttl,
                RData::AAAA(AAAA {
                    address: address.into(),
                }),
            )
        }
        [name, ttl, "CNAME", to] => (name, ttl, RData::CNAME(CNAME(named(to)))),
        [name, ttl, "SRV", priority, weight, port, host] => {
            let srv = SRV {
                priority: priority.parse().unwrap(),
                weight: weight.parse().unwrap(),
                port: port.parse().unwrap(),
                target: named(host),
            };
            (name, ttl, RData::SRV(srv))
        }
        _ => panic!("no record: {line}"),
    };
    let ttl = ttl.parse().unwrap();
    Some(ResourceRecord::new(named(name), CLASS::IN, ttl, data))
}

/// Looks names up at a name server that knows `zone`.
fn with(zone: &str, test: impl AsyncFnOnce(Lookups)) {
    let executor = Executor::default();
    let lookups = Lookups::new(&executor, zone);
    smol::block_on(executor.run(test(lookups)));
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_host_has_addresses_of_both_families_in_turn_with_the_shortest_ttl() {
    let zone = "a.example 60 A 192.0.2.1\n\
                a.example 60 A 192.0.2.2\n\
                a.example 90 AAAA 2001:db8::1\n\
                b.example 90 A 192.0.2.3";
    with(zone, async |lookups| {
        let found = lookups.dns.addresses("A.Example").await.unwrap();
        let both = addresses(&["2001:db8::1", "192.0.2.1", "192.0.2.2"]);
        assert_eq!((found.records, found.ttl.as_secs()), (both, 60));
        let mut queries = lookups.server.queries();
        queries.sort_unstable();
        assert_eq!(queries, ["A.Example A", "A.Example AAAA"]);
    });
}

#[test]
fn cname_records_are_followed_whether_the_name_server_follows_them_or_not() {
    let zone = "a.example 60 CNAME b.example\n\
                b.example 30 CNAME c.example\n\
                c.example 90 A 192.0.2.1\n\
                d.example 60 CNAME elsewhere.example\n\
                elsewhere.example 90 A 192.0.2.2";
    with(zone, async |lookups| {
        let found = lookups.dns.addresses("a.example").await.unwrap();
        assert_eq!(found.records, addresses(&["192.0.2.1"]));
        assert_eq!(found.ttl, Duration::from_secs(30));
        let found = lookups.dns.addresses("d.example").await.unwrap();
        assert_eq!(found.records, addresses(&["192.0.2.2"]));
    });
}

#[test]
fn a_loop_of_cname_records_is_an_error() {
    let zone = "a.example 60 CNAME elsewhere.a.example\n\
                elsewhere.a.example 60 CNAME elsewhere.b.example\n\
                elsewhere.b.example 60 CNAME elsewhere.a.example";
    with(zone, async |lookups| {
        let found = lookups.dns.addresses("a.example").await;
        assert!(matches!(found, Err(Error::Refused(_))), "{found:?}");
    });
}

#[test]
fn srv_records_have_all_their_fields() {
    let zone = "_s._tcp.a.example 60 SRV 10 5 443 b.example\n\
                _s._tcp.a.example 70 SRV 20 0 80 .\n";
    with(zone, async |lookups| {
        let found = lookups.dns.services("_s._tcp.a.example").await.unwrap();
        let service = |priority, weight, port, host: &str| Service {
            priority,
            weight,
            port,
            host: host.to_owned(),
        };
        let both = vec![service(10, 5, 443, "b.example"), service(20, 0, 80, "")];
        let expected = Records {
            records: both,
            ttl: Duration::from_secs(60),
        };
        assert_eq!(found, expected);
        let none = lookups.dns.services("_s._tcp.b.example").await.unwrap();
        assert_eq!(none.records, []);
    });
}

#[test]
fn a_truncated_response_is_requested_again_by_tcp() {
    let zone: String = (0..100)
        .map(|n| format!("large.example 60 A 192.0.2.{n}\n"))
        .collect();
    with(&zone, async |lookups| {
        let found = lookups.dns.addresses("large.example").await.unwrap();
        assert_eq!(found.records.len(), 100);
    });
}

#[test]
fn with_use_vc_queries_are_sent_by_tcp() {
    with("a.example 60 A 192.0.2.1", async |lookups| {
        lookups.resolvers("nameserver 127.0.0.1\noptions use-vc\n");
        let found = lookups.dns.addresses("a.example").await.unwrap();
        assert_eq!(found.records, addresses(&["192.0.2.1"]));
        assert_eq!(lookups.server.queries().len(), 2);
    });
}

#[test]
fn responses_to_other_queries_are_ignored() {
    with("forged.example 60 A 192.0.2.1", async |lookups| {
        let found = lookups.dns.addresses("forged.example").await.unwrap();
        assert_eq!(found.records, addresses(&["192.0.2.1"]));
    });
}

#[test]
fn the_hosts_file_comes_before_the_name_servers() {
    with("a.example 60 A 192.0.2.1", async |lookups| {
        lookups.hosts("192.0.2.99 a.example\n");
        let found = lookups.dns.addresses("a.example").await.unwrap();
        assert_eq!(found.records, addresses(&["192.0.2.99"]));
        assert_eq!(lookups.server.queries(), [] as [&str; 0]);
    });
}

#[test]
fn the_next_name_server_is_queried_when_one_does_not_answer_or_refuses() {
    with("a.example 60 A 192.0.2.1", async |lookups| {
        // Nobody is at the first: the loopback has many addresses.
        lookups.resolvers("nameserver 127.0.0.99\nnameserver 127.0.0.1\n");
        let found = lookups.dns.addresses("a.example").await.unwrap();
        assert_eq!(found.records, addresses(&["192.0.2.1"]));
        let refused = lookups.dns.addresses("broken.example").await;
        assert!(refused.is_err(), "{refused:?}");
    });
}

#[test]
fn a_name_without_records_is_no_error_and_an_invalid_name_is_one() {
    let long = "a".repeat(64) + ".example";
    with("", async |lookups| {
        let found = lookups.dns.addresses("a.example").await.unwrap();
        assert_eq!(found.records, [] as [IpAddr; 0]);
        let failed = lookups.dns.addresses(&long).await;
        assert!(matches!(failed, Err(Error::InvalidName)), "{failed:?}");
        let failed = lookups.dns.services("broken.example").await;
        assert!(matches!(failed, Err(Error::Refused(_))), "{failed:?}");
    });
}
