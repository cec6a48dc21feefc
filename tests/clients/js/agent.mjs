// Agent for matrix-js-sdk: executes one command per line of standard input, and writes results and
// observations as JSON lines to standard output. `../client.py` is the other side and describes the
// protocol. `encrypted.mjs` adds encryption.

import { createInterface } from "node:readline";
import { webcrypto } from "node:crypto";

import "./promise.mjs";

export const sdk = await import("matrix-js-sdk");
const { logger } = await import("matrix-js-sdk/lib/logger.js");

const [baseUrl, limit] = process.argv.slice(2);
const syncLimit = Number(limit);
logger.setLevel("warn", false);
// Standard output belongs to the protocol.
for (const level of ["trace", "debug", "info", "log", "warn"]) console[level] = console.error;

const writeMessage = (message) => process.stdout.write(JSON.stringify(message) + "\n");
export const observed = (what, fields) => writeMessage({ observed: what, ...fields });

/** Resolved unless syncing is paused. */
let maySync = Promise.withResolvers();
maySync.resolve();

/** Replaces the versions that the server announces, if set. */
let versions;

/** `fetch` with syncs that can be paused. */
async function fetchFn(url, options) {
    const { pathname } = new URL(url);
    if (pathname.endsWith("/sync")) await maySync.promise;
    if (versions && pathname.endsWith("/versions")) return Response.json({ versions });
    const response = await fetch(url, options);
    if (response.status === 404 && (await response.clone().json()).errcode === "M_UNRECOGNIZED")
        observed("unrecognized", { path: pathname });
    return response;
}

/** The current session. Before `login` it has no access token. */
let client = sdk.createClient({ baseUrl });
export const current = () => client;

/** Extension of `login`: options of the client, and a function that runs before the first sync. */
export const atLogin = { options: {}, async prepare() {} };

export const commands = {
    /** Registers through user-interactive authentication: requests the flows, completes the dummy stage. */
    async register({ user, password }) {
        const body = { username: user, password, inhibit_login: true };
        const challenge = await client.registerRequest(body).then(
            () => Promise.reject(new Error("registered without authentication")),
            (error) => error,
        );
        if (challenge.httpStatus !== 401) throw challenge;
        const { flows, session } = challenge.data;
        if (!flows.some(({ stages }) => stages.join() === "m.login.dummy"))
            throw new Error(`no flow of m.login.dummy alone in ${JSON.stringify(flows)}`);
        const response = await client.registerRequest({ ...body, auth: { type: "m.login.dummy", session } });
        return { user_id: response.user_id };
    },

    async login({ user, password, versions: replaced }) {
        versions = replaced;
        const { flows } = await client.loginFlows();
        if (!flows.some(({ type }) => type === "m.login.password")) throw new Error("no login by password");
        const session = await client.loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user },
            password,
            initial_device_display_name: "matrix-js-sdk",
        });
        client = sdk.createClient({
            baseUrl,
            fetchFn,
            userId: session.user_id,
            deviceId: session.device_id,
            accessToken: session.access_token,
            ...atLogin.options,
        });
        await atLogin.prepare(client);
        const whoami = await client.whoami();
        return { user_id: whoami.user_id, device_id: whoami.device_id };
    },

    /** Starts syncing; returns after the first sync. */
    async sync() {
        report(client);
        const { promise, resolve } = Promise.withResolvers();
        client.on(sdk.ClientEvent.Sync, function first(state) {
            if (state !== sdk.SyncState.Prepared) return;
            client.off(sdk.ClientEvent.Sync, first);
            resolve();
        });
        const filter = new sdk.Filter(client.getUserId());
        filter.setTimelineLimit(syncLimit);
        filter.setUnreadThreadNotifications(true);
        await client.startClient({
            filter,
            lazyLoadMembers: true,
            threadSupport: true,
            pendingEventOrdering: sdk.PendingEventOrdering.Detached,
        });
        await promise;
    },

    async create_room({ name, topic, invite }) {
        const response = await client.createRoom({ preset: sdk.Preset.PrivateChat, name, topic, invite });
        return { room: response.room_id };
    },
    async invite({ room, user }) {
        await client.invite(room, user);
    },
    async join({ room }) {
        await client.joinRoom(room);
    },
    async leave({ room }) {
        await client.leave(room);
    },

    send: ({ room, type, content, txn }) => sent(room, (id) => client.sendEvent(room, type, content, id), txn),
    redact: ({ room, target, txn }) => sent(room, (id) => client.redactEvent(room, target, id), txn),

    async typing({ room, on }) {
        await client.sendTyping(room, on, 30_000);
    },
    async read({ room, id }) {
        await client.sendReadReceipt(client.getRoom(room).findEventById(id));
    },
    async profile({ name, avatar }) {
        await client.setDisplayName(name);
        await client.setAvatarUrl(avatar);
    },

    async upload({ data, name, type, encrypt }) {
        let bytes = Buffer.from(data, "base64");
        let file = null;
        if (encrypt) [bytes, file] = await encrypted(bytes);
        const { content_uri: url } = await client.uploadContent(new Blob([bytes], { type }), { name, type });
        return { url, file: file && { ...file, url } };
    },
    async download({ url, file }) {
        const got = await media(url);
        return file ? { ...got, data: await decrypted(got.data, file) } : got;
    },
    thumbnail: ({ url, width, height }) => media(url, width, height, "crop"),

    /** Sends no further sync until `resume`. */
    async pause() {
        maySync = Promise.withResolvers();
    },
    async resume() {
        maySync.resolve();
    },

    /** The events missing in a gap: from its token back to the event `until`, oldest first. */
    async fill_gap({ room, token, until }) {
        const events = [];
        for (let from = token; from; ) {
            const page = await client.createMessagesRequest(room, from, 50, sdk.Direction.Backward);
            const end = page.chunk.findIndex((event) => event.event_id === until);
            events.push(...(end < 0 ? page.chunk : page.chunk.slice(0, end)));
            if (end >= 0) return events.map(eventFields).reverse();
            from = page.end;
        }
        throw new Error(`${until} is not before the gap`);
    },

    /** All events of the room by /messages, newest first. */
    async history({ room, page }) {
        const events = [];
        let from = null;
        do {
            const response = await client.createMessagesRequest(room, from, page, sdk.Direction.Backward);
            events.push(...response.chunk);
            from = response.chunk.length > 0 ? response.end : undefined;
        } while (from);
        return events.map(eventFields);
    },

    /** The SDK's own timeline of the room after scrolling back to its beginning, newest first. */
    async scroll({ room }) {
        const held = client.getRoom(room);
        while (held.oldState.paginationToken !== null) await client.scrollback(held, 50);
        const events = held.getLiveTimeline().getEvents();
        return events.map((event) => eventFields(event.event)).reverse();
    },

    /** The event ids in the thread of `root`. */
    async thread({ room, root }) {
        const events = client.getRoom(room).getThread(root)?.events ?? [];
        return events.map((event) => event.getId());
    },

    /** Lists the threads of the room, and loads the thread of `root` to its start. Its event ids, oldest first. */
    async load_thread({ room: id, root }) {
        const room = client.getRoom(id);
        await room.createThreadsTimelineSets();
        await room.fetchRoomThreads();
        const { timelineSet } = room.getThread(root);
        const timeline = timelineSet.getLiveTimeline();
        while (await client.paginateEventTimeline(timeline, { backwards: true, limit: 10 }));
        return timeline.getEvents().map((event) => event.getId());
    },

    /** Retries at once, as after a notification that the network is back. */
    async retry_now() {
        client.retryImmediately();
    },
    async logout() {
        client.stopClient();
        await client.logout(true);
        client = sdk.createClient({ baseUrl });
    },
};

/**
 * Sends an event. While the SDK marks it as not sent, sends it again with the same transaction id after
 * the next sync, as Element does. The event may also arrive by sync although the response was lost.
 */
async function sent(room, send, txn) {
    const held = client.getRoom(room);
    let attempt = () => send(txn);
    for (;;) {
        try {
            return { id: (await attempt()).event_id };
        } catch (failure) {
            observed("retried", { txn, reason: `${failure}` });
            const event = held.getPendingEvents().find((event) => event.getTxnId() === txn);
            if (event && event.status !== sdk.EventStatus.NOT_SENT) throw failure;
            if (event) await syncing();
            const echo = held
                .getLiveTimeline()
                .getEvents()
                .find((event) => event.getUnsigned().transaction_id === txn);
            if (echo) return { id: echo.getId() };
            if (!event) throw failure;
            attempt = () => client.resendEvent(event, held);
        }
    }
}

/** Fetches media as Element does: with authentication if `/versions` announces that. */
async function media(url, width, height, method) {
    const authenticated = await client.isVersionSupported("v1.11");
    const address = client.mxcUrlToHttp(url, width, height, method, false, true, authenticated);
    const headers = authenticated ? { Authorization: `Bearer ${client.getAccessToken()}` } : {};
    const response = await fetch(address, { headers });
    if (!response.ok) throw new Error(`${address}: ${response.status} ${await response.text()}`);
    const data = Buffer.from(await response.arrayBuffer()).toString("base64");
    return { type: response.headers.get("Content-Type"), data };
}

const unpadded = (bytes) => Buffer.from(bytes).toString("base64").replace(/=+$/, "");

/** Encrypts an attachment; returns the ciphertext and the `EncryptedFile` of the specification. */
async function encrypted(bytes) {
    const counter = webcrypto.getRandomValues(new Uint8Array(16)).fill(0, 8);
    const key = await webcrypto.subtle.generateKey({ name: "AES-CTR", length: 256 }, true, ["encrypt", "decrypt"]);
    const sealed = await webcrypto.subtle.encrypt({ name: "AES-CTR", counter, length: 64 }, key, bytes);
    const hash = await webcrypto.subtle.digest("SHA-256", sealed);
    const file = {
        v: "v2",
        key: await webcrypto.subtle.exportKey("jwk", key),
        iv: unpadded(counter),
        hashes: { sha256: unpadded(hash) },
    };
    return [Buffer.from(sealed), file];
}

async function decrypted(data, { key: jwk, iv, hashes }) {
    const sealed = Buffer.from(data, "base64");
    const hash = unpadded(await webcrypto.subtle.digest("SHA-256", sealed));
    if (hash !== hashes.sha256) throw new Error("the hash of the file differs");
    const key = await webcrypto.subtle.importKey("jwk", jwk, "AES-CTR", false, ["decrypt"]);
    const counter = Buffer.from(iv, "base64");
    const clear = await webcrypto.subtle.decrypt({ name: "AES-CTR", counter, length: 64 }, key, sealed);
    return Buffer.from(clear).toString("base64");
}

/** Waits for the next successful sync. */
async function syncing() {
    const { promise, resolve } = Promise.withResolvers();
    const watch = (state) => state === sdk.SyncState.Syncing && resolve();
    client.on(sdk.ClientEvent.Sync, watch);
    await promise;
    client.off(sdk.ClientEvent.Sync, watch);
}

/** The fields of an event that both agents report. */
function eventFields({ event_id, type, sender, state_key, content, unsigned, redacts }) {
    return {
        id: event_id,
        type,
        sender,
        state_key,
        content,
        redacts: redacts ?? content.redacts,
        txn: unsigned?.transaction_id,
    };
}

/** Reports events of the SDK as observations. */
function report(client) {
    client.on(sdk.RoomEvent.Timeline, (event, room, toStart, removed, { liveEvent }) => {
        if (!room || toStart || !liveEvent) return;
        observed("event", { room: room.roomId, ...eventFields(event.event) });
        if (event.getType() === sdk.EventType.Reaction) setImmediate(() => reaction(room, event));
    });
    client.on(sdk.RoomEvent.TimelineReset, (room, timelines) => {
        if (!room || timelines !== room.getUnfilteredTimelineSet()) return;
        const token = timelines.getLiveTimeline().getPaginationToken(sdk.EventTimeline.BACKWARDS);
        observed("gap", { room: room.roomId, token });
    });
    client.on(sdk.RoomEvent.Redaction, (event, room) =>
        observed("redacted", { room: room.roomId, id: event.getAssociatedId() }),
    );
    client.on(sdk.MatrixEventEvent.Replaced, (event) =>
        observed("edited", { room: event.getRoomId(), id: event.getId(), body: event.getContent().body }),
    );
    // The SDK calculates the name after it has updated the membership.
    for (const change of [sdk.RoomEvent.MyMembership, sdk.RoomEvent.Name])
        client.on(change, (room) =>
            observed("membership", { room: room.roomId, membership: room.getMyMembership(), name: room.name }),
        );
    client.on(sdk.RoomStateEvent.Members, (_event, state, member) =>
        observed("member", {
            room: state.roomId,
            user: member.userId,
            membership: member.membership,
            name: member.rawDisplayName,
            avatar: member.getMxcAvatarUrl(),
        }),
    );
    client.on(sdk.RoomMemberEvent.Typing, (_event, member) =>
        observed("typing", { room: member.roomId, user: member.userId, on: member.typing }),
    );
    client.on(sdk.RoomEvent.Receipt, (event, room) => {
        for (const [id, kinds] of Object.entries(event.getContent()))
            for (const user of Object.keys(kinds["m.read"] ?? {})) observed("receipt", { room: room.roomId, user, id });
    });
    client.on(sdk.ClientEvent.Room, (room) =>
        room.on(sdk.RoomEvent.UnreadNotifications, () =>
            observed("unread", { room: room.roomId, unread: room.getUnreadNotificationCount() }),
        ),
    );
    client.on(sdk.HttpApiEvent.SessionLoggedOut, (error) => observed("failure", { what: `logged out: ${error}` }));
    client.on(sdk.ClientEvent.SyncUnexpectedError, (error) => observed("failure", { what: `sync: ${error.stack}` }));
}

/** Reports the aggregated reactions of an event. */
function reaction(room, event) {
    const { event_id: id, key } = event.getRelation();
    const known = room.relations.getChildEventsForEvent(id, "m.annotation", "m.reaction");
    const users = (known?.getSortedAnnotationsByKey() ?? [])
        .filter(([shown]) => shown === key)
        .flatMap(([, events]) => [...events].map((event) => event.getSender()));
    observed("reacted", { room: room.roomId, id, key, users });
}

process.on("unhandledRejection", (error) => observed("failure", { what: `unhandled: ${error?.stack ?? error}` }));

const lines = createInterface({ input: process.stdin });
lines.on("line", async (line) => {
    const { number, command, ...fields } = JSON.parse(line);
    try {
        writeMessage({ number, result: (await commands[command](fields)) ?? null });
    } catch (error) {
        writeMessage({ number, error: `${error?.stack ?? error}` });
    }
});
lines.on("close", () => process.exit(0));
