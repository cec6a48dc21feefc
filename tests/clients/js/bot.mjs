// What a bot does with matrix-bot-sdk: `bot.mjs URL USER PICTURE`.

import { createRequire } from "node:module";
import { assert, eventually, isPng, password, picture, run, url, user } from "./app.mjs";

// The SDK loads its native encryption, a binary that npm does not have, even if a bot does not use it.
const require = createRequire(import.meta.url);
const encryption = require.resolve("@matrix-org/matrix-sdk-crypto-nodejs");
require.cache[encryption] = { id: encryption, filename: encryption, loaded: true, exports: {} };
const { LogLevel, LogService, MatrixAuth, MatrixClient, MemoryStorageProvider } = require("matrix-bot-sdk");

LogService.setLevel(LogLevel.ERROR);

let bot;
let me;
let room;
const seen = [];

await run({
    async "registers in two requests"() {
        const { accessToken } = await new MatrixAuth(url).passwordRegister(user, password);
        bot = new MatrixClient(url, accessToken, new MemoryStorageProvider());
        me = await bot.getUserId();
    },
    async "is called by its localpart"() {
        room = await bot.createRoom({ preset: "public_chat", name: "bots" });
        const [member] = await bot.getJoinedRoomMembersWithProfiles(room).then(Object.entries);
        assert(member[0] === me && member[1].display_name === user, member);
    },
    async "sees a message that it sent"() {
        bot.on("room.message", (where, event) => seen.push(event.event_id));
        await bot.start();
        const sent = await bot.sendText(room, "hello");
        await eventually(() => seen.includes(sent));
    },
    async "shows a picture from the old path with its token"() {
        const { data, contentType } = await bot.downloadContent(picture);
        assert(isPng(data) && contentType === "image/png", contentType);
    },
    async "reads back account data as they were"() {
        const content = { "org.example.nested": [{ a: 0 }] };
        await bot.setAccountData("org.example.bot", content);
        const read = await bot.getAccountData("org.example.bot");
        assert(JSON.stringify(read) === JSON.stringify(content), read);
    },
    async "types without a timeout"() {
        const path = `/_matrix/client/v3/rooms/${encodeURIComponent(room)}/typing/${encodeURIComponent(me)}`;
        await bot.doRequest("PUT", path, null, { typing: true });
    },
    async "gets the same event for the same state"() {
        const send = () => bot.sendStateEvent(room, "org.example.state", "", { a: 1 });
        const [first, second] = [await send(), await send()];
        assert(first === second, [first, second]);
    },
    async "changes its name in the room by a state event, and back"() {
        const own = await bot.getRoomStateEvent(room, "m.room.member", me);
        const nickname = { ...own, displayname: "Bot", join_authorised_via_users_server: me };
        for (const content of [nickname, own]) await bot.sendStateEvent(room, "m.room.member", me, content);
        const read = await bot.getRoomStateEvent(room, "m.room.member", me);
        assert(JSON.stringify(read) === JSON.stringify(own), read);
    },
    async "redacts an event that the server does not have"() {
        const redaction = await bot.redactEvent(room, "$" + "A".repeat(43), "gone");
        assert(redaction.startsWith("$"), redaction);
    },
    async "is told that a new state of the creation is refused"() {
        const refused = await bot.sendStateEvent(room, "m.room.create", "", {}).catch((error) => error);
        assert(refused.statusCode === 400, refused.statusCode);
    },
});
