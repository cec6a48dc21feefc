// What a phone does with push notifications: `push.mjs URL USER PICTURE`. The push gateway is here too.

import "./promise.mjs";
import http from "node:http";
import { assert, eventually, password, run, url, user } from "./app.mjs";

const sdk = await import("matrix-js-sdk");
const { logger } = await import("matrix-js-sdk/lib/logger.js");
logger.setLevel("error", false);

const received = [];
let status = 200;
let rejected = [];

const gateway = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    if (request.method !== "POST" || request.url !== "/_matrix/push/v1/notify") {
        response.writeHead(404).end();
        return;
    }
    received.push({ status, ...JSON.parse(Buffer.concat(parts)).notification });
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify({ rejected }));
});
await new Promise((listening) => gateway.listen(0, "127.0.0.1", listening));
const gatewayUrl = `http://127.0.0.1:${gateway.address().port}/_matrix/push/v1/notify`;

async function registered(username) {
    const client = sdk.createClient({ baseUrl: url });
    const { session } = (await client.registerRequest({}).catch((error) => error)).data;
    const auth = { type: "m.login.dummy", session };
    const { user_id: userId, device_id: deviceId, access_token: accessToken } = await client.registerRequest({
        username,
        password,
        auth,
    });
    return sdk.createClient({ baseUrl: url, userId, deviceId, accessToken });
}

let phone, friend, room, last;

/** The first notification that the gateway accepted for this event. */
const accepted = (id) => eventually(() => received.find((it) => it.event_id === id && it.status === 200));

async function write(body) {
    const { event_id: id } = await friend.sendEvent(room, "m.room.message", { msgtype: "m.text", body });
    return id;
}

await run({
    async "sets a pusher and lists it"() {
        phone = await registered(user);
        friend = await registered(`${user}-friend`);
        const pusher = {
            kind: "http",
            app_id: "org.example.phone",
            pushkey: user,
            app_display_name: "Phone",
            device_display_name: "Phone",
            lang: "en",
            data: { url: gatewayUrl, format: "event_id_only", default_payload: { aps: {} } },
        };
        await phone.setPusher(pusher);
        const { pushers } = await phone.getPushers();
        assert(pushers.length === 1 && pushers[0].data.url === gatewayUrl, pushers);
    },
    async "is woken for an invite"() {
        ({ room_id: room } = await friend.createRoom({ invite: [phone.getUserId()] }));
        const invite = await eventually(() => received.find((it) => it.room_id === room));
        assert(invite.counts.unread === 1, invite);
        await phone.joinRoom(room);
    },
    async "is woken for a message, which it fetches by its id"() {
        last = await write("are you there?");
        const notification = await accepted(last);
        const [device] = notification.devices;
        assert(notification.content === undefined && notification.counts.unread === 1, notification);
        assert(device.pushkey === user && device.data.default_payload && !device.data.url, device);
        const event = await phone.fetchRoomEvent(room, notification.event_id);
        assert(event.content.body === "are you there?", event);
    },
    async "has no badge once the message is read"() {
        const path = `/rooms/${encodeURIComponent(room)}/receipt/m.read/${encodeURIComponent(last)}`;
        await phone.http.authedRequest("POST", path, undefined, {});
        await eventually(() => received.find((it) => it.event_id === undefined && it.counts.unread === 0));
    },
    async "lists what it was notified of, as read"() {
        const listed = await phone.http.authedRequest("GET", "/notifications");
        const [notification] = listed.notifications;
        assert(notification.event.event_id === last && notification.read, listed);
    },
    async "is woken after an outage of the gateway, for each message once and in order"() {
        status = 502;
        const first = await write("one");
        await eventually(() => received.find((it) => it.event_id === first));
        const second = await write("two");
        status = 200;
        await accepted(second);
        const ids = received.filter((it) => it.status === 200 && [first, second].includes(it.event_id));
        assert(ids.length === 2 && ids[0].event_id === first, received);
    },
    async "loses the pusher that the gateway rejects"() {
        rejected = [user];
        await write("three");
        await eventually(async () => (await phone.getPushers()).pushers.length === 0);
    },
});
