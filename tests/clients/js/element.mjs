// What Element and others do with matrix-js-sdk because of `/versions`: `element.mjs URL USER PICTURE`, where
// the server behind the URL announces only a part of what it serves.

import "./promise.mjs";
import { assert, isPng, password, picture, run, url, user } from "./app.mjs";

const sdk = await import("matrix-js-sdk");
const { logger } = await import("matrix-js-sdk/lib/logger.js");
logger.setLevel("error", false);

let client = sdk.createClient({ baseUrl: url });
const flag = (name) => client.doesServerSupportUnstableFeature(name);

/** The media that an app requests which knows only v1.11, the flag too (Cinny, the Dart SDK), or neither. */
async function media() {
    const authenticated = (await client.isVersionSupported("v1.11")) || (await flag("org.matrix.msc3916.stable"));
    const address = client.mxcUrlToHttp(picture, undefined, undefined, undefined, false, true, authenticated);
    const headers = authenticated ? { Authorization: `Bearer ${client.getAccessToken()}` } : {};
    return fetch(address, { headers });
}

await run({
    async "registers and has rules of all kinds"() {
        const { session } = (await client.registerRequest({}).catch((error) => error)).data;
        const auth = { type: "m.login.dummy", session };
        const registered = await client.registerRequest({ username: user, password, auth });
        client = sdk.createClient({
            baseUrl: url,
            userId: registered.user_id,
            deviceId: registered.device_id,
            accessToken: registered.access_token,
        });
        const { global } = await client.getPushRules();
        const kinds = ["override", "content", "room", "sender", "underride"];
        assert(kinds.every((kind) => Array.isArray(global[kind])), global);
    },
    async "gets an answer to everything that it asks at its start"() {
        const [turn, protocols] = [await client.turnServer(), await client.getThirdpartyProtocols()];
        assert(Object.keys({ ...turn, ...protocols }).length === 0, [turn, protocols]);
        const capabilities = await client.getCapabilities();
        assert(capabilities["m.change_password"].enabled === true, capabilities);
        const { results } = await client.searchUserDirectory({ term: user });
        assert(Array.isArray(results), results);
        const devices = (await client.getDevices()).devices;
        assert(devices.length === 1 && !JSON.stringify(devices).includes("null"), devices);
    },
    async "keeps what it stores as it was"() {
        const { room_id: room } = await client.createRoom({ preset: "private_chat" });
        const tag = { order: 0.5, "org.example.mark": true };
        await client.setRoomTag(room, "m.favourite", tag);
        const { tags } = await client.http.authedRequest(
            "GET",
            `/user/${encodeURIComponent(client.getUserId())}/rooms/${encodeURIComponent(room)}/tags`,
        );
        assert(JSON.stringify(tags["m.favourite"]) === JSON.stringify(tag), tags);
        const first = await client.sendStateEvent(room, "org.example.state", { a: 1 });
        const second = await client.sendStateEvent(room, "org.example.state", { a: 1 });
        assert(first.event_id === second.event_id, [first, second]);
        const { chunk, end } = await client.createMessagesRequest(room, null, 100, "b");
        assert(chunk.length > 5 && end === undefined, [chunk.length, end]);
    },
    async "shows a picture"() {
        const response = await media();
        assert(response.ok && isPng(await response.arrayBuffer()), response.status);
    },
    async "writes threads with the relation type of the specification where the server announces v1.4"() {
        const isAnnounced = await client.isVersionSupported("v1.4");
        // As at the start of syncing.
        const { threads } = await client.doesServerSupportThread();
        sdk.Thread.setServerSideSupport(threads);
        assert(sdk.THREAD_RELATION_TYPE.name === (isAnnounced ? "m.thread" : "io.element.thread"), isAnnounced);
    },
    async "sets up cross-signing at registration where the server announces it"() {
        if (!(await flag("org.matrix.e2e_cross_signing"))) return;
        await client.initRustCrypto({ useIndexedDB: false });
        const crypto = client.getCrypto();
        const identifier = { type: "m.id.user", user: client.getUserId() };
        await crypto.bootstrapCrossSigning({
            authUploadDeviceSigningKeys: async (upload) => {
                await upload(null).catch(({ data: { session } }) =>
                    upload({ type: "m.login.password", identifier, password, session }),
                );
            },
        });
        const keys = await client.downloadKeysForUsers([client.getUserId()]);
        assert(keys.master_keys[client.getUserId()], keys);
    },
});
