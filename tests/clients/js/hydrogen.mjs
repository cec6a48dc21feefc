// What Hydrogen does, without its views: `hydrogen.mjs URL USER PICTURE`. The SDK expects a browser; what it
// needs of one is here, with IndexedDB from `fake-indexeddb`.

import "fake-indexeddb/auto";
import { assert, eventually, isPng, password, picture, run, url, user } from "./app.mjs";

const storage = new Map();
globalThis.localStorage = {
    getItem: (key) => storage.get(key) ?? null,
    setItem: (key, value) => storage.set(key, value),
    removeItem: (key) => storage.delete(key),
};
globalThis.window = globalThis;
globalThis.document = { addEventListener() {}, removeEventListener() {} };
globalThis.history = {};
globalThis.navigator ??= { platform: "", onLine: true };
globalThis.addEventListener ??= () => {};
globalThis.removeEventListener ??= () => {};

// Node knows no referrer but an address.
const { fetch } = globalThis;
globalThis.fetch = (address, { referrer, ...options } = {}) => fetch(address, options);

const { Client, LoadStatus, Logger, Platform } = await import("hydrogen-view-sdk");

const logger = new Logger({ platform: { clock: { now: Date.now }, random: Math.random } });
const platform = new Platform({ container: {}, assetPaths: {}, config: {}, logger });
// Without encryption, which needs a build of libolm.
Object.assign(platform, { loadOlm: () => null, loadOlmWorker: () => null });
Object.defineProperty(platform, "updateService", { value: { updateAuthData() {} } });

const client = new Client(platform);
let room;
let token;

await run({
    async "registers stage by stage"() {
        const registration = await client.startRegistration(url, user, password, "Hydrogen", (flows) =>
            flows.find(({ stages }) => stages.join() === "m.login.dummy"),
        );
        for (let stage = await registration.start(); stage; ) stage = await registration.submitStage(stage);
        token = registration.authData.accessToken;
        await client.startWithAuthData({ ...registration.authData, homeserver: url });
    },
    async "has synced and shows its rooms"() {
        assert(client.loadStatus.get() === LoadStatus.Ready, [client.loadStatus.get(), `${client.loadError}`]);
        const created = await client.session.createRoom({ type: 2, name: "aviary", isEncrypted: false });
        await eventually(() => created.roomId ?? (created.error && Promise.reject(created.error)));
        room = await eventually(() => client.session.rooms.get(created.roomId));
        assert(room.name === "aviary", room.name);
    },
    async "sends a message, which gets into its timeline"() {
        const timeline = await room.openTimeline();
        const ignore = () => {};
        timeline.entries.subscribe({ onReset: ignore, onAdd: ignore, onUpdate: ignore, onRemove: ignore, onMove: ignore });
        await room.sendEvent("m.room.message", { msgtype: "m.text", body: "hello" });
        const hasEcho = () =>
            [...timeline.entries].some(({ content, isPending }) => content?.body === "hello" && !isPending);
        await eventually(hasEcho);
    },
    async "marks the room as read and as a favourite"() {
        await room.clearUnread();
        const path = `/_matrix/client/v3/user/${encodeURIComponent(client.session.userId)}/rooms/${encodeURIComponent(room.id)}`;
        const send = (method, tail, body) =>
            fetch(`${url}${path}/${tail}`, {
                method,
                headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
                body: body && JSON.stringify(body),
            }).then((response) => response.json());
        const tag = { order: 0.5, "org.example.mark": true };
        await send("PUT", "tags/m.favourite", tag);
        const { tags } = await send("GET", "tags");
        assert(JSON.stringify(tags["m.favourite"]) === JSON.stringify(tag), tags);
    },
    async "shows a picture"() {
        const address = client.session.mediaRepository.mxcUrl(picture);
        const headers = { Authorization: `Bearer ${token}` };
        const response = await fetch(address, { headers });
        assert(response.ok && isPng(await response.arrayBuffer()), [address, response.status]);
    },
});
