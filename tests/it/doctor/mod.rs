//! `hearth doctor`: what it says of set-ups that are broken.

mod certificates;
mod name_server;
mod nightly;
mod proxy;
mod world;

use self::{
    certificates::Certificate,
    proxy::{Proxy, response},
    world::{Setup, World},
};
use crate::test_server::{TestServer, expect_ok};

const SERVER_FILE: &str = "/.well-known/matrix/server";
const CLIENT_FILE: &str = "/.well-known/matrix/client";
const CORS: &str = "access-control-allow-origin: *\r\n";

fn check(setup: Setup) -> world::Report {
    World::new(setup).check()
}

fn with_zone(zone: &[&'static str]) -> Setup {
    Setup {
        zone: zone.to_vec(),
        ..Setup::default()
    }
}

fn with_page(path: &'static str, page: String) -> Setup {
    Setup {
        pages: vec![(path, page)],
        ..Setup::default()
    }
}

fn with_certificate(certificate: Certificate) -> Setup {
    Setup {
        certificate,
        ..Setup::default()
    }
}

fn with_proxy(change: impl FnOnce(&mut Proxy)) -> Setup {
    let mut setup = Setup::default();
    change(&mut setup.proxy);
    setup
}

fn json(body: &str, headers: &str) -> String {
    response(200, "application/json", body, headers)
}

#[test]
fn a_server_in_order_is_green() {
    let report = check(Setup::default());
    assert_eq!(report.problems(), [""; 0]);
    assert!(report.is_green());
}

#[test]
fn a_local_server_is_green_and_says_that_nobody_reaches_it() {
    let server = TestServer::new();
    let response = expect_ok(server.administer("doctor", &serde_json::json!({})));
    let report = world::Report(response["report"].clone());
    report.names(&["dns unknown", "Only this machine"]);
    report.is_only_a_warning();
}

#[test]
fn a_name_without_an_address_is_named() {
    let report = check(with_zone(&["example.test A none"]));
    report
        .names(&["dns error", "no address in the DNS", "Enter an A record"])
        .is_red();
}

#[test]
fn a_server_that_its_notary_does_not_reach_is_named() {
    let report = check(Setup {
        is_reached: false,
        ..Setup::default()
    });
    report
        .names(&["elsewhere error", "does not reach this server", "CGNAT"])
        .is_red();
}

#[test]
fn an_ipv6_address_that_does_not_answer_is_named() {
    let report = check(with_zone(&["example.test AAAA ::1"]));
    report
        .names(&["federation error", "[::1]", "Remove the AAAA record"])
        .names(&["clients error", "[::1]"])
        .is_red();
}

#[test]
fn a_leftover_srv_record_is_named() {
    let zone = ["_matrix._tcp.example.test SRV PORT example.test"];
    let report = check(with_zone(&zone));
    report
        .names(&[
            "srv warning",
            "_matrix._tcp.example.test is not used",
            "Remove it",
        ])
        .is_only_a_warning();
}

/// Without a well-known file, others look for SRV records.
fn with_services(zone: &[&'static str]) -> Setup {
    Setup {
        pages: vec![(SERVER_FILE, response(404, "text/html", "none", ""))],
        ..with_zone(zone)
    }
}

#[test]
fn an_srv_record_that_leads_to_an_alias_is_named() {
    let zone = [
        "_matrix-fed._tcp.example.test SRV PORT alias.example.test",
        "alias.example.test CNAME example.test",
    ];
    check(with_services(&zone))
        .names(&[
            "srv error",
            "alias.example.test, which is a CNAME",
            "A or AAAA records",
        ])
        .is_red();
}

#[test]
fn an_srv_record_without_a_host_or_an_address_is_named() {
    let zone = ["_matrix-fed._tcp.example.test SRV PORT nowhere.test"];
    check(with_services(&zone))
        .names(&["srv error", "nowhere.test, which has no address"])
        .is_red();
}

#[test]
fn a_deprecated_srv_record_is_named() {
    let zone = ["_matrix._tcp.example.test SRV PORT example.test"];
    check(with_services(&zone))
        .names(&[
            "srv warning",
            "the old name",
            "_matrix-fed._tcp.example.test",
        ])
        .is_only_a_warning();
}

#[test]
fn a_name_server_that_fails_for_srv_records_is_named() {
    let zone = ["_matrix-fed._tcp.example.test SRV fails"];
    check(with_services(&zone))
        .names(&["srv error", "cannot be looked up", "name a port"])
        .is_red();
}

#[test]
fn a_well_known_file_for_servers_that_is_wrong_is_named() {
    let html = response(200, "text/html", "<html>Welcome</html>", "");
    let http = response(302, "", "", "location: http://example.test/matrix\r\n");
    for (page, problem) in [
        (html, "is no JSON"),
        (json("{}", ""), "has no text `m.server`"),
        (
            json("{\"m.server\":\"https://example.test\"}", ""),
            "without https://",
        ),
        (http, "is not https"),
        (response(500, "text/html", "", ""), "answers 500"),
    ] {
        // The port of the tests is found without the file, so it is only a warning.
        check(with_page(SERVER_FILE, page))
            .names(&[
                "well-known warning",
                problem,
                "\"m.server\":\"example.test:443\"",
            ])
            .is_only_a_warning();
    }
}

#[test]
fn a_missing_well_known_file_for_servers_is_named_if_it_is_needed() {
    let report = check(Setup {
        pages: vec![
            (SERVER_FILE, response(404, "text/html", "none", "")),
            (
                "/_matrix/key/v2/server",
                response(404, "text/html", "none", ""),
            ),
        ],
        settings: "public_url = \"https://matrix.example.test\"".to_owned(),
        ..Setup::default()
    });
    report
        .names(&[
            "well-known error",
            "answers 404",
            "\"m.server\":\"matrix.example.test:443\"",
        ])
        .is_red();
}

#[test]
fn a_well_known_file_for_apps_that_is_wrong_is_named() {
    let url = "{\"m.homeserver\":{\"base_url\":\"https://example.test\"}}";
    for (page, problem) in [
        (
            json(url, ""),
            "without the header `Access-Control-Allow-Origin: *`",
        ),
        (
            json(url, &CORS.repeat(2)),
            "`Access-Control-Allow-Origin` twice",
        ),
        (json("{\"m.homeserver\":{}}", CORS), "has no `base_url`"),
        (
            response(200, "text/html", "<html>", CORS),
            "has no `base_url`",
        ),
    ] {
        check(with_page(CLIENT_FILE, page))
            .names(&["well-known error", CLIENT_FILE, problem])
            .is_red();
    }
    let other = "{\"m.homeserver\":{\"base_url\":\"https://other.test\"}}";
    check(with_page(CLIENT_FILE, json(other, CORS)))
        .names(&["well-known warning", "https://other.test", "`public_url`"])
        .is_only_a_warning();
}

#[test]
fn a_missing_well_known_file_for_apps_is_named_if_they_need_it() {
    let report = check(Setup {
        settings: "public_url = \"https://matrix.example.test\"".to_owned(),
        ..with_page(CLIENT_FILE, response(404, "text/html", "none", ""))
    });
    report
        .names(&[
            "well-known error",
            "answers 404",
            "\"base_url\":\"https://matrix.example.test\"",
        ])
        .is_red();
}

#[test]
fn certificates_that_others_refuse_are_named() {
    for (certificate, problem, advice) in [
        (Certificate::Expired, "ended 10 days ago", "Renew it"),
        (
            Certificate::OfAnotherName,
            "is for other.test, not for example.test",
            "Get a certificate",
        ),
        (
            Certificate::WithoutItsChain,
            "without the certificates between",
            "fullchain.pem",
        ),
        (
            Certificate::SelfSigned,
            "is self-signed",
            "from an authority",
        ),
        (
            Certificate::SelfSignedAuthority,
            "is self-signed",
            "from an authority",
        ),
    ] {
        check(with_certificate(certificate))
            .names(&["certificate error", problem, advice])
            .is_red();
    }
    check(with_certificate(Certificate::EndsSoon))
        .names(&["certificate warning", "ends in 8 days", "Renew it"])
        .is_only_a_warning();
}

#[test]
fn a_port_at_which_nothing_answers_is_named() {
    let report = check(Setup {
        is_deaf: true,
        is_reached: false,
        ..Setup::default()
    });
    report
        .names(&[
            "federation error",
            "Nothing usable answers at 127.0.0.1:",
            "Forward port",
        ])
        .is_red();
}

#[test]
fn a_router_without_hairpin_nat_is_named() {
    let report = check(Setup {
        is_deaf: true,
        ..Setup::default()
    });
    report
        .names(&[
            "hairpin warning",
            "Others reach this server",
            "NAT loopback",
        ])
        .is_only_a_warning();
}

#[test]
fn what_a_notary_saw_before_does_not_excuse_a_port_at_which_nothing_answers_now() {
    let report = check(Setup {
        is_deaf: true,
        fetched_ago_ms: 120_000,
        ..Setup::default()
    });
    report
        .names(&["federation error", "Nothing usable answers", "Forward port"])
        .is_red();
}

#[test]
fn a_proxy_that_does_not_reach_hearth_is_named() {
    check(with_proxy(|proxy| proxy.status = Some(502)))
        .names(&[
            "federation error",
            "does not reach hearth: it answers 502",
            "`listen`",
        ])
        .names(&["clients error", "502"])
        .is_red();
}

#[test]
fn another_server_in_the_place_of_this_one_is_named() {
    let keys = "{\"server_name\":\"other.test\",\"verify_keys\":{}}";
    check(with_page("/_matrix/key/v2/server", json(keys, "")))
        .names(&[
            "federation error",
            "is the server other.test, not example.test",
        ])
        .names(&["clients error", "is the server other.test"])
        .is_red();
    let keys =
        "{\"server_name\":\"example.test\",\"verify_keys\":{\"ed25519:a\":{\"key\":\"AA\"}}}";
    check(with_page("/_matrix/key/v2/server", json(keys, "")))
        .names(&[
            "federation error",
            "another installation of example.test",
            "data directory",
        ])
        .is_red();
}

#[test]
fn a_proxy_that_passes_only_some_paths_is_named() {
    let none = || response(404, "text/html", "none", "");
    check(with_page("/_matrix/federation/v1/version", none()))
        .names(&[
            "federation error",
            "but not for /_matrix/federation",
            "all paths below /_matrix",
        ])
        .is_red();
    check(with_page("/_matrix/client/versions", none()))
        .names(&["clients error", "answers no Matrix server"])
        .is_red();
}

#[test]
fn a_proxy_that_changes_the_headers_for_web_apps_is_named() {
    check(with_proxy(|proxy| proxy.removes_cors = true))
        .names(&[
            "clients error",
            "without the header `Access-Control-Allow-Origin: *`",
        ])
        .is_red();
    check(with_proxy(|proxy| proxy.adds_cors = true))
        .names(&[
            "clients error",
            "twice",
            "neither remove it nor add another",
        ])
        .is_red();
}

#[test]
fn a_proxy_that_decodes_paths_is_named() {
    check(with_proxy(|proxy| proxy.decodes_paths = true))
        .names(&[
            "proxy error",
            "decodes or rewrites paths",
            "AllowEncodedSlashes",
        ])
        .is_red();
}

#[test]
fn a_firewall_that_refuses_a_method_is_not_taken_for_one_that_changes_paths() {
    let report = check(with_proxy(|proxy| proxy.refuses_put = true));
    report
        .names(&[
            "proxy error",
            "does not arrive: it answers 403",
            "all methods",
        ])
        .is_red();
    let problems = report.problems();
    assert!(
        !problems.iter().any(|it| it.contains("decodes")),
        "{problems:?}"
    );
}

#[test]
fn a_proxy_with_a_small_limit_of_bodies_is_named() {
    check(with_proxy(|proxy| proxy.max_body = Some(1 << 20)))
        .names(&[
            "proxy error",
            "does not pass a body of 8 MB: it answers 413",
            "client_max_body_size",
        ])
        .is_red();
}

#[test]
fn a_proxy_that_hides_where_requests_come_from_is_named() {
    check(with_proxy(|proxy| proxy.forwarded_for = None))
        .names(&[
            "proxy warning",
            "does not say where requests come from",
            "proxy_set_header X-Forwarded-For",
        ])
        .is_only_a_warning();
    let keeps = |proxy: &mut Proxy| {
        proxy.forwarded_for = None;
        proxy.keeps_forwarded_for = true;
    };
    check(with_proxy(keeps))
        .names(&["proxy warning", "what clients claim"])
        .is_only_a_warning();
}

#[test]
fn a_proxy_that_is_not_trusted_is_named() {
    let report = check(Setup {
        settings: "trusted_proxies = [\"10.9.8.7\"]".to_owned(),
        ..Setup::default()
    });
    report
        .names(&[
            "proxy warning",
            "127.0.0.1 in front",
            "Add \"127.0.0.1\" to `trusted_proxies`",
        ])
        .is_only_a_warning();
}

#[test]
fn a_clock_that_is_wrong_is_named() {
    let report = check(Setup {
        date: "Mon, 21 Sep 2026 15:13:20 GMT",
        ..Setup::default()
    });
    report
        .names(&["clock error", "3600 seconds slow", "timedatectl"])
        .is_red();
    let report = check(Setup {
        date: "Mon, 21 Sep 2026 14:12:20 GMT",
        ..Setup::default()
    });
    report
        .names(&["clock warning", "60 seconds fast"])
        .is_only_a_warning();
}

#[test]
fn the_echo_of_a_request_is_only_for_the_check_itself() {
    let server = TestServer::new();
    let path = "/_matrix/client/unstable/hearth.doctor/0123/x";
    let (status, body) = server.request(http::Method::PUT, path, serde_json::Value::Null);
    assert_eq!(
        (status, body["errcode"].as_str()),
        (404, Some("M_NOT_FOUND"))
    );
}
