// Agent for matrix-js-sdk with its Rust crypto (keys in memory): adds commands for keys, devices,
// verification, cross-signing and backup.

import { atLogin, commands, current, observed, sdk } from "./agent.mjs";
import { CryptoEvent, decodeRecoveryKey, VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

/** The key of the secret storage, once known. */
let storageKey = null;
/** Event id -> text of decrypted events. */
const decrypted = new Map();
/** Transaction id -> request and emoji of a running verification. */
const verifications = new Map();

atLogin.options = {
    cryptoCallbacks: {
        getSecretStorageKey: async ({ keys }) => storageKey && [Object.keys(keys)[0], storageKey],
    },
    verificationMethods: ["m.sas.v1"],
};
atLogin.prepare = async (client) => {
    await client.initRustCrypto({ useIndexedDB: false });
    client.on(CryptoEvent.VerificationRequestReceived, (request) => {
        const { transactionId: id, otherUserId: user, otherDeviceId: device } = request;
        verifications.set(id, { request });
        observed("verification_request", { id, user, device });
    });
    client.on(sdk.MatrixEventEvent.Decrypted, (event) => {
        const about = { room: event.getRoomId(), id: event.getId(), sender: event.getSender() };
        if (event.isDecryptionFailure()) {
            observed("undecryptable", { ...about, why: event.decryptionFailureReason });
        } else {
            const { body } = event.getContent();
            decrypted.set(about.id, body);
            observed("decrypted", { ...about, body });
        }
    });
};

const crypto = () => current().getCrypto();

Object.assign(commands, {
    /** Creates a room with history visibility `joined`. In others, the SDK shares room keys with invited users. */
    async create_encrypted_room({ invite }) {
        const state = {
            "m.room.encryption": { algorithm: "m.megolm.v1.aes-sha2" },
            "m.room.history_visibility": { history_visibility: "joined" },
        };
        const response = await current().createRoom({
            preset: sdk.Preset.PrivateChat,
            invite,
            initial_state: Object.entries(state).map(([type, content]) => ({ type, state_key: "", content })),
        });
        return { room: response.room_id };
    },
    async kick({ room, user }) {
        await current().kick(room, user);
    },

    /** Event id -> text of all messages by /messages; `null` if it cannot be decrypted. */
    async decrypted_history({ room }) {
        const texts = {};
        for (let from = null; from !== undefined; ) {
            const page = await current().createMessagesRequest(room, from, 100, sdk.Direction.Backward);
            for (const event of page.chunk)
                if (["m.room.encrypted", "m.room.message"].includes(event.type))
                    texts[event.event_id] =
                        decrypted.get(event.event_id) ?? (await commands.decrypt({ event: { room_id: room, ...event } }));
            from = page.chunk.length > 0 ? page.end : undefined;
        }
        return texts;
    },
    /** The event as stored by the server. */
    fetch_event: ({ room, id }) => current().fetchRoomEvent(room, id),
    /** The text of an encrypted event; `null` if this device cannot decrypt it. */
    async decrypt({ event }) {
        const held = new sdk.MatrixEvent(event);
        await current().decryptEventIfNeeded(held);
        if (held.isDecryptionFailure()) return null;
        decrypted.set(held.getId(), held.getContent().body);
        return held.getContent().body;
    },

    /** The ids of a user's devices that the SDK knows. It queries the devices of unknown users. */
    async devices({ user }) {
        return [...((await crypto().getUserDeviceInfo([user], true)).get(user)?.keys() ?? [])];
    },

    async verify({ user, device }) {
        follow(await crypto().requestDeviceVerification(user, device));
    },
    /** Requests a verification of a user in the room. Any device may accept. */
    async verify_user({ user, room }) {
        follow(await crypto().requestVerificationDM(user, room));
    },
    async accept({ id }) {
        const { request } = verifications.get(id);
        follow(request);
        await request.accept();
    },
    async confirm({ id }) {
        await verifications.get(id).sas.confirm();
    },
    /** Whether this device has verified a user. */
    async trusts_user({ user }) {
        return (await crypto().getUserVerificationStatus(user)).isCrossSigningVerified();
    },
    /** Whether another device is signed by its owner, and whether this device trusts it. */
    async device_trust({ user, device }) {
        const status = await crypto().getDeviceVerificationStatus(user, device);
        return status && { signed: status.signedByOwner, trusted: status.crossSigningVerified };
    },

    /** Sets up cross-signing, secret storage and key backup; returns the recovery key. */
    async set_up_encryption({ password }) {
        const key = await crypto().createRecoveryKeyFromPassphrase();
        storageKey = key.privateKey;
        await crypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: (send) => withPassword(send, password) });
        await crypto().bootstrapSecretStorage({ createSecretStorageKey: async () => key, setupNewKeyBackup: true });
        if (!(await crypto().isCrossSigningReady())) throw new Error("cross-signing is not ready");
        if (!(await crypto().isSecretStorageReady())) throw new Error("secret storage is not ready");
        return { recovery_key: key.encodedPrivateKey };
    },
    /** Waits until every room key of this device is in the backup; returns their number. */
    async wait_for_backup() {
        const own = (await crypto().exportRoomKeys()).length;
        for (;;) {
            // The SDK would return a cached value.
            const { count } = await current().http.authedRequest(sdk.Method.Get, "/room_keys/version");
            if (count >= own) return { count };
            await new Promise((resolve) => setTimeout(resolve, 100));
        }
    },
    /** Verifies this device by the recovery key and restores the key backup. */
    async recover({ recovery_key }) {
        storageKey = decodeRecoveryKey(recovery_key);
        if (!(await crypto().userHasCrossSigningKeys(current().getUserId(), true)))
            throw new Error("the server has no cross-signing keys of this account");
        await crypto().bootstrapCrossSigning({});
        await crypto().loadSessionBackupPrivateKeyFromSecretStorage();
        await crypto().checkKeyBackupAndEnable();
        const { total, imported } = await crypto().restoreKeyBackup();
        return { total, imported };
    },
    /** Rehydrates the dehydrated device, if there is one, and creates a new one; returns the number of
     * messages and room keys received, and the id of the new device. */
    async dehydrate_device() {
        const received = { messages: 0, keys: 0 };
        const client = current();
        const count = (keys, messages) => Object.assign(received, { messages, keys });
        client.on(CryptoEvent.RehydrationProgress, count);
        client.once(CryptoEvent.RehydrationError, (what) => observed("failure", { what: `rehydration: ${what}` }));
        await crypto().startDehydration();
        client.off(CryptoEvent.RehydrationProgress, count);
        const prefix = "/_matrix/client/unstable/org.matrix.msc3814.v1";
        const args = ["/dehydrated_device", undefined, undefined, { prefix }];
        const { device_id } = await client.http.authedRequest(sdk.Method.Get, ...args);
        return { ...received, device: device_id };
    },
    /** Whether this device has received the account's secrets from the verifying device. */
    async has_secrets() {
        const { privateKeysCachedLocally: keys } = await crypto().getCrossSigningStatus();
        return Object.values(keys).every(Boolean) && (await crypto().getSessionBackupPrivateKey()) !== null;
    },
});

/** Sends a request that needs user-interactive authentication with the password. */
async function withPassword(send, password) {
    try {
        await send(null);
    } catch (challenge) {
        if (challenge.httpStatus !== 401) throw challenge;
        const identifier = { type: "m.id.user", user: current().getUserId() };
        await send({ type: "m.login.password", identifier, password, session: challenge.data.session });
    }
}

/** Drives a verification from the request to the emoji, and reports its end. */
function follow(request) {
    const { transactionId: id, otherUserId: user } = request;
    const verification = { request, sas: null };
    verifications.set(id, verification);
    let verifier, device;
    const step = async () => {
        // The device id is unknown before a device accepts, and after the end.
        device = request.otherDeviceId ?? device;
        if (request.phase === VerificationPhase.Ready && request.initiatedByMe) {
            await request.startVerification("m.sas.v1");
        } else if (request.phase === VerificationPhase.Cancelled) {
            observed("failure", { what: `the verification was cancelled: ${request.cancellationCode}` });
        } else if (request.phase === VerificationPhase.Done) {
            if ((await crypto().getDeviceVerificationStatus(user, device)).isVerified())
                observed("verified", { user, device });
        }
        if (request.verifier && !verifier) {
            verifier = request.verifier;
            const show = (sas) => {
                verification.sas = sas;
                observed("emoji", { id, emoji: sas.sas.emoji.map(([symbol]) => symbol) });
            };
            verifier.on(VerifierEvent.ShowSas, show);
            await verifier.verify();
        }
    };
    request.on("change", () => step().catch((error) => observed("failure", { what: `${error?.stack ?? error}` })));
}
