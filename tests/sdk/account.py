"""A user without an SDK, who makes what the clients under test find."""

import http.client
import json
import time
import urllib.parse

PASSWORD = "correct horse battery staple"


class Account:
    def __init__(self, url, name):
        self.url = url
        self._connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
        self._token = None
        self._transaction = 0
        self._last_ms = 0
        body = {"username": name, "password": PASSWORD, "auth": {"type": "m.login.dummy"}}
        response = self.request("POST", "register", body)
        self.user, self._token = response["user_id"], response["access_token"]

    def request(self, method, path, body=None):
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        content = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, f"/_matrix/client/v3/{path}", content, headers)
            response = self._connection.getresponse()
        except (ConnectionError, http.client.HTTPException):
            # The server was started again. The transaction ids make it safe to repeat.
            self._connection.close()
            self._connection.request(method, f"/_matrix/client/v3/{path}", content, headers)
            response = self._connection.getresponse()
        data = json.load(response)
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {data}")
        return data

    def create_room(self, name, invite=(), **fields):
        body = {"preset": "private_chat", "name": name, "invite": list(invite), **fields}
        return self.request("POST", "createRoom", body)["room_id"]

    def join(self, room):
        self.request("POST", f"join/{quoted(room)}", {})

    def invite(self, room, user):
        self.request("POST", f"rooms/{quoted(room)}/invite", {"user_id": user})

    def send(self, room, body, relation=None, **content):
        """Sends a text; no two of an account have the same time."""
        while int(time.time() * 1000) == self._last_ms:
            pass
        content = {"msgtype": "m.text", "body": body, **content}
        if relation:
            content["m.relates_to"] = relation
        event = self.send_event(room, "m.room.message", content)
        self._last_ms = int(time.time() * 1000)
        return event

    def send_event(self, room, kind, content):
        self._transaction += 1
        path = f"rooms/{quoted(room)}/send/{kind}/{self._transaction}"
        return self.request("PUT", path, content)["event_id"]

    def edit(self, room, event, body):
        new = {"msgtype": "m.text", "body": body}
        relation = {"rel_type": "m.replace", "event_id": event}
        return self.send(room, f"* {body}", relation, **{"m.new_content": new})

    def reply_in_thread(self, room, root, body):
        return self.send(room, body, {"rel_type": "m.thread", "event_id": root})

    def react(self, room, event, key):
        relation = {"rel_type": "m.annotation", "event_id": event, "key": key}
        return self.send_event(room, "m.reaction", {"m.relates_to": relation})

    def redact(self, room, event):
        self._transaction += 1
        self.request("PUT", f"rooms/{quoted(room)}/redact/{quoted(event)}/{self._transaction}", {})

    def tag(self, room, tag):
        self.request("PUT", f"user/{quoted(self.user)}/rooms/{quoted(room)}/tags/{tag}", {"order": 0.5})

    def set_account_data(self, kind, content):
        self.request("PUT", f"user/{quoted(self.user)}/account_data/{kind}", content)


def quoted(text):
    return urllib.parse.quote(text, safe="")
