// matrix-js-sdk with its Rust crypto, which keeps its keys in memory: what `agent.mjs` does, and commands
// for keys, devices, verification, cross-signing and backup.

import { atLogin, commands, current, saw, sdk } from "./agent.mjs";
import { CryptoEvent, decodeRecoveryKey, VerificationPhase, VerifierEvent } from "matrix-js-sdk/lib/crypto-api/index.js";

/** The key to what the account keeps on the server, once it is known. */
let storageKey = null;
/** What could be read so far, by event id. */
const read = new Map();
/** Verifications under way, by transaction id: the request, and what shows its emoji. */
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
        saw("asked", { id, user, device });
    });
    client.on(sdk.MatrixEventEvent.Decrypted, (event) => {
        const about = { room: event.getRoomId(), id: event.getId(), sender: event.getSender() };
        if (event.isDecryptionFailure()) {
            saw("unreadable", { ...about, why: event.decryptionFailureReason });
        } else {
            const { body } = event.getContent();
            read.set(about.id, body);
            saw("secret", { ...about, body });
        }
    });
};

const crypto = () => current().getCrypto();

Object.assign(commands, {
    /** A room whose past is for those only who were there; of any other the SDK gives away the keys as it invites. */
    async create_secret_room({ invite }) {
        const state = {
            "m.room.encryption": { algorithm: "m.megolm.v1.aes-sha2" },
            "m.room.history_visibility": { history_visibility: "joined" },
        };
        const answer = await current().createRoom({
            preset: sdk.Preset.PrivateChat,
            invite,
            initial_state: Object.entries(state).map(([type, content]) => ({ type, state_key: "", content })),
        });
        return { room: answer.room_id };
    },
    async kick({ room, user }) {
        await current().kick(room, user);
    },

    /** The texts of a room by event id, as pages of /messages; `null` where a text cannot be read. */
    async read_back({ room }) {
        const texts = {};
        for (let from = null; from !== undefined; ) {
            const page = await current().createMessagesRequest(room, from, 100, sdk.Direction.Backward);
            for (const event of page.chunk)
                if (["m.room.encrypted", "m.room.message"].includes(event.type))
                    texts[event.event_id] =
                        read.get(event.event_id) ?? (await commands.decipher({ event: { room_id: room, ...event } }));
            from = page.chunk.length > 0 ? page.end : undefined;
        }
        return texts;
    },
    /** The event as the server has it. */
    as_sent: ({ room, id }) => current().fetchRoomEvent(room, id),
    /** The text of an event that came by another way; `null` if this device cannot read it. */
    async decipher({ event }) {
        const held = new sdk.MatrixEvent(event);
        await current().decryptEventIfNeeded(held);
        if (held.isDecryptionFailure()) return null;
        read.set(held.getId(), held.getContent().body);
        return held.getContent().body;
    },

    /** The ids of a user's devices, as the SDK knows them by now; it asks for those of users new to it only. */
    async devices({ user }) {
        return [...((await crypto().getUserDeviceInfo([user], true)).get(user)?.keys() ?? [])];
    },

    async verify({ user, device }) {
        follow(await crypto().requestDeviceVerification(user, device));
    },
    /** Verifies a user, whichever device in the room accepts. */
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
    /** Whether this device holds a user for verified. */
    async trusts_user({ user }) {
        return (await crypto().getUserVerificationStatus(user)).isCrossSigningVerified();
    },
    /** What this device makes of another: whether its owner has signed it, and whether it trusts it. */
    async opinion({ user, device }) {
        const status = await crypto().getDeviceVerificationStatus(user, device);
        return status && { signed: status.signedByOwner, trusted: status.crossSigningVerified };
    },

    /** Makes the account's cross-signing keys, a store for secrets and a backup of room keys; returns the recovery key. */
    async secure({ password }) {
        const key = await crypto().createRecoveryKeyFromPassphrase();
        storageKey = key.privateKey;
        await crypto().bootstrapCrossSigning({ authUploadDeviceSigningKeys: (ask) => confirmed(ask, password) });
        await crypto().bootstrapSecretStorage({ createSecretStorageKey: async () => key, setupNewKeyBackup: true });
        if (!(await crypto().isCrossSigningReady())) throw new Error("cross-signing is not ready");
        if (!(await crypto().isSecretStorageReady())) throw new Error("the store for secrets is not ready");
        return { recovery_key: key.encodedPrivateKey };
    },
    /** Waits until every room key that this device has is in the backup; returns how many there are. */
    async backed_up() {
        const own = (await crypto().exportRoomKeys()).length;
        for (;;) {
            // The SDK itself would answer from what it remembers.
            const { count } = await current().http.authedRequest(sdk.Method.Get, "/room_keys/version");
            if (count >= own) return { count };
            await new Promise((resolve) => setTimeout(resolve, 100));
        }
    },
    /** What somebody does with the recovery key on a new device. */
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
    /** Takes over what was sent to the device that was left on the server, if there is one, and leaves a new
     * one there; the number of messages taken over, of room keys in them, and the id of the new one. */
    async leave_device() {
        const taken = { messages: 0, keys: 0 };
        const client = current();
        const count = (keys, messages) => Object.assign(taken, { messages, keys });
        client.on(CryptoEvent.RehydrationProgress, count);
        client.once(CryptoEvent.RehydrationError, (what) => saw("trouble", { what: `rehydration: ${what}` }));
        await crypto().startDehydration();
        client.off(CryptoEvent.RehydrationProgress, count);
        const prefix = "/_matrix/client/unstable/org.matrix.msc3814.v1";
        const args = ["/dehydrated_device", undefined, undefined, { prefix }];
        const { device_id } = await client.http.authedRequest(sdk.Method.Get, ...args);
        return { ...taken, device: device_id };
    },
    /** Whether a device that was verified has been given the account's secrets by the one that did it. */
    async has_secrets() {
        const { privateKeysCachedLocally: keys } = await crypto().getCrossSigningStatus();
        return Object.values(keys).every(Boolean) && (await crypto().getSessionBackupPrivateKey()) !== null;
    },
});

/** Does a request as the server asks for the password. */
async function confirmed(ask, password) {
    try {
        await ask(null);
    } catch (challenge) {
        if (challenge.httpStatus !== 401) throw challenge;
        const identifier = { type: "m.id.user", user: current().getUserId() };
        await ask({ type: "m.login.password", identifier, password, session: challenge.data.session });
    }
}

/** Takes a verification from the request to the emoji, and reports how it ends. */
function follow(request) {
    const { transactionId: id, otherUserId: user } = request;
    const own = { request, sas: null };
    verifications.set(id, own);
    let verifier, device;
    const step = async () => {
        // It is not known before somebody accepts, and not any more at the end.
        device = request.otherDeviceId ?? device;
        if (request.phase === VerificationPhase.Ready && request.initiatedByMe) {
            await request.startVerification("m.sas.v1");
        } else if (request.phase === VerificationPhase.Cancelled) {
            saw("trouble", { what: `the verification was cancelled: ${request.cancellationCode}` });
        } else if (request.phase === VerificationPhase.Done) {
            if ((await crypto().getDeviceVerificationStatus(user, device)).isVerified())
                saw("verified", { user, device });
        }
        if (request.verifier && !verifier) {
            verifier = request.verifier;
            const show = (sas) => {
                own.sas = sas;
                saw("emoji", { id, emoji: sas.sas.emoji.map(([symbol]) => symbol) });
            };
            verifier.on(VerifierEvent.ShowSas, show);
            await verifier.verify();
        }
    };
    request.on("change", () => step().catch((error) => saw("trouble", { what: `${error?.stack ?? error}` })));
}
