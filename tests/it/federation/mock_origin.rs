//! A mock homeserver that publishes its key and signs what a test makes up.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hearth::protocol::ServerKey;
use http::{Method, Request};
use ruma::{
    CanonicalJsonObject, RoomVersionId,
    signatures::{hash_and_sign_event, sign_json},
};
use serde_json::{Value, json};

use crate::{
    client_api::percent_encode,
    mock_web_server::MockWebServer,
    test_server::{JsonResponse, TestServer, expect_ok, parse},
};

/// A server whose name has another host than that of a [`MockOrigin`], which is what a server ACL compares.
pub fn server_with_another_host() -> TestServer {
    TestServer::with(&format!(
        "registration = \"open\"\nserver_name = \"127.0.0.1:8448\"\nfederation = \"on\"\n\
         extra_ca = \"{}/src/http/tests/root.pem\"\nallow_private_addresses = true",
        env!("CARGO_MANIFEST_DIR")
    ))
}

/// The starts of paths, and what they are answered with.
type Answers = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

pub struct MockOrigin {
    key: ServerKey,
    server: MockWebServer,
    answers: Answers,
}

impl MockOrigin {
    /// A server whose key is valid for so many milliseconds.
    pub fn with_key_for(here: &TestServer, ms: u64) -> Self {
        let key = ServerKey::generate();
        let published: Arc<OnceLock<Vec<u8>>> = Arc::default();
        let keys = published.clone();
        let answers = Answers::default();
        let prepared = answers.clone();
        let server = MockWebServer::with_json(0, move |path| {
            let prepared = prepared.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = prepared.iter().rfind(|(start, _)| path.starts_with(start));
            answer
                .map(|(_, answer)| answer.clone())
                .or_else(|| keys.get().cloned())
        });
        let origin = Self {
            key,
            server,
            answers,
        };
        let keys = origin.sign(json!({
            "server_name": origin.name(),
            "verify_keys": { origin.key.id().as_str(): { "key": origin.key.public_key() } },
            "old_verify_keys": {},
            "valid_until_ts": here.clock.now_ms() + ms,
        }));
        let is_first = published.set(keys.to_string().into_bytes()).is_ok();
        assert!(is_first);
        origin
    }

    pub fn new(here: &TestServer) -> Self {
        Self::with_key_for(here, 24 * 3_600_000)
    }

    pub fn name(&self) -> String {
        self.server.name()
    }

    pub fn user(&self, name: &str) -> String {
        format!("@{name}:{}", self.name())
    }

    /// Answers requests whose path starts with `start`, without its query, with `answer` from now on.
    pub fn answer(&self, start: &str, answer: &Value) {
        let answer = (start.to_owned(), answer.to_string().into_bytes());
        let answers = self.answers.lock();
        answers.unwrap_or_else(PoisonError::into_inner).push(answer);
    }

    fn sign(&self, object: Value) -> Value {
        let mut object: CanonicalJsonObject = serde_json::from_value(object).expect("an object");
        sign_json(&self.name(), &self.key, &mut object).expect("it is signed");
        serde_json::to_value(object).expect("JSON")
    }

    /// The event with its hash and a signature, and its id.
    pub fn event(&self, version: &RoomVersionId, event: Value) -> (String, Value) {
        let rules = version.rules().expect("a known version");
        let mut event: CanonicalJsonObject = serde_json::from_value(event).expect("an object");
        let signed = hash_and_sign_event(&self.name(), &self.key, &mut event, &rules.redaction);
        signed.expect("it is signed");
        let id = ruma::signatures::reference_hash(&event, &rules).expect("a hash");
        let event = serde_json::to_value(event).expect("JSON");
        (format!("${id}"), event)
    }

    /// Joins this user of its own to a room of `there`.
    pub fn join(&self, there: &TestServer, version: &RoomVersionId, (user, room): (&str, &str)) {
        let (room, user) = (percent_encode(room), percent_encode(user));
        let template = format!("/_matrix/federation/v1/make_join/{room}/{user}?ver={version}");
        let mut template = expect_ok(self.send(there, Method::GET, &template, &Value::Null));
        let (id, join) = self.event(version, template["event"].take());
        let id = percent_encode(&id);
        let path = format!("/_matrix/federation/v2/send_join/{room}/{id}");
        expect_ok(self.send(there, Method::PUT, &path, &join));
    }

    /// Sends a signed request. The body of a `GET` is `null`.
    pub fn send(&self, to: &TestServer, method: Method, path: &str, body: &Value) -> JsonResponse {
        parse(&to.respond(self.request(to, method, path, body)))
    }

    /// A signed request.
    pub fn request(
        &self,
        to: &TestServer,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Request<Vec<u8>> {
        let mut signed = json!({
            "method": method.as_str(), "uri": path, "origin": self.name(), "destination": to.name(),
        });
        let mut content = Vec::new();
        if !body.is_null() {
            signed["content"] = body.clone();
            content = body.to_string().into_bytes();
        }
        let signed = self.sign(signed);
        let signature = signed["signatures"][self.name()][self.key.id().as_str()].as_str();
        let authorization = format!(
            "X-Matrix origin=\"{}\",destination=\"{}\",key=\"{}\",sig=\"{}\"",
            self.name(),
            to.name(),
            self.key.id(),
            signature.expect("a signature")
        );
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", authorization).body(content);
        request.expect("a valid request")
    }
}
