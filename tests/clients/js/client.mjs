// Drives matrix-js-sdk for the tests: one JSON command a line on stdin, one JSON answer a line on
// stdout, and in between a line for everything a client shows its user.
//
//   in    {"id": 1, "client": "c1", "command": "send", "arguments": {"roomId": "!r", "text": "hi"}}
//   out   {"id": 1, "result": "$event"}   or   {"id": 1, "error": "why"}
//   out   {"client": "c1", "saw": "Message", "fields": {"room_id": "!r", …}}
//
// Invariant: stdout carries nothing else; the SDK's own log goes to stderr.

import { Console } from "node:console";
import { createInterface } from "node:readline";

globalThis.console = new Console(process.stderr, process.stderr);
const sdk = await import("matrix-js-sdk");
const { CryptoEvent } = await import("matrix-js-sdk/lib/crypto-api/index.js");

const COMMAND_TIMEOUT_MS = 20_000;
const clients = new Map();

function write(line) {
    process.stdout.write(JSON.stringify(line) + "\n");
}

function passwordAuth(userId, password, session) {
    return { type: "m.login.password", identifier: { type: "m.id.user", user: userId }, password, session };
}

function once(emitter, name, isWanted) {
    return new Promise((resolve) => {
        const listener = (...values) => {
            if (!isWanted(...values)) return;
            emitter.off(name, listener);
            resolve();
        };
        emitter.on(name, listener);
    });
}

function reportMessage(show, client, event) {
    if (event.getType() !== "m.room.message" || event.isDecryptionFailure()) return;
    if (event.getSender() === client.getUserId()) return;
    show("Message", {
        room_id: event.getRoomId(),
        sender: event.getSender(),
        text: event.getContent().body,
        encrypted: event.isEncrypted(),
        event_id: event.getId(),
    });
}

function reportMember(show, event) {
    const { membership, displayname } = event.getContent();
    const member = { room_id: event.getRoomId(), user_id: event.getStateKey() };
    if (membership !== "join") return;
    show("Joined", member);
    if (displayname) show("Named", { ...member, name: displayname });
}

function reportReceipts(show, event, room) {
    for (const [eventId, kinds] of Object.entries(event.getContent())) {
        for (const userId of Object.keys(kinds["m.read"] ?? {})) {
            show("Read", { room_id: room.roomId, user_id: userId, event_id: eventId });
        }
    }
}

// Which devices of these users their owners vouch for, by the keys the server has given out.
async function reportSignedDevices(show, client, userIds) {
    const crypto = client.getCrypto();
    for (const [userId, devices] of await crypto.getUserDeviceInfo(userIds)) {
        for (const deviceId of devices.keys()) {
            const status = await crypto.getDeviceVerificationStatus(userId, deviceId);
            if (status?.signedByOwner) show("OwnerSigned", { user_id: userId, device_id: deviceId });
        }
    }
}

function reportAll(name, client) {
    const show = (saw, fields) => write({ client: name, saw, fields });
    client.on(sdk.RoomEvent.Timeline, (event) => reportMessage(show, client, event));
    client.on(sdk.MatrixEventEvent.Decrypted, (event) => reportMessage(show, client, event));
    client.on(sdk.RoomStateEvent.Members, (event) => reportMember(show, event));
    client.on(sdk.RoomEvent.Receipt, (event, room) => reportReceipts(show, event, room));
    client.on(sdk.RoomEvent.MyMembership, (room, membership) => {
        if (membership === "invite") show("Invited", { room_id: room.roomId });
    });
    client.on(CryptoEvent.DevicesUpdated, (userIds) => void reportSignedDevices(show, client, userIds));
    client.on(sdk.RoomMemberEvent.Typing, (event, member) => {
        if (member.typing) show("Typing", { room_id: member.roomId, user_id: member.userId });
    });
}

const commands = {
    async logIn(_, { baseUrl, username, password }, name) {
        const session = await sdk.createClient({ baseUrl }).loginRequest(passwordAuth(username, password));
        const client = sdk.createClient({
            baseUrl,
            userId: session.user_id,
            deviceId: session.device_id,
            accessToken: session.access_token,
        });
        clients.set(name, client);
        await client.initRustCrypto({ useIndexedDB: false });
        reportAll(name, client);
        const prepared = once(client, sdk.ClientEvent.Sync, (state) => state === "PREPARED");
        await client.startClient({ lazyLoadMembers: true, threadSupport: true });
        await prepared;
        return { userId: session.user_id, deviceId: session.device_id };
    },

    async logOut(client, _, name) {
        clients.delete(name);
        await client.logout(true);
    },

    async createRoom(client, { invite, encrypted }) {
        const encryption = {
            type: "m.room.encryption",
            state_key: "",
            content: { algorithm: "m.megolm.v1.aes-sha2" },
        };
        const created = await client.createRoom({
            preset: "private_chat",
            invite,
            initial_state: encrypted ? [encryption] : [],
        });
        return created.room_id;
    },

    async join(client, { roomId }) {
        await client.joinRoom(roomId);
    },

    async send(client, { roomId, text }) {
        return (await client.sendTextMessage(roomId, text)).event_id;
    },

    async delay(client, { roomId, text, delayMs }) {
        const content = { msgtype: "m.text", body: text };
        const options = { delay: delayMs };
        const sent = await client._unstable_sendDelayedEvent(roomId, options, null, "m.room.message", content);
        return sent.delay_id;
    },

    // Gives how it is called that the delay was too long, and the longest.
    async delayTooLong(client, { roomId, delayMs }) {
        try {
            await client._unstable_sendDelayedStateEvent(roomId, { delay: delayMs }, "org.example.call", {});
        } catch (error) {
            return [error.data["org.matrix.msc4140.errcode"], error.data["org.matrix.msc4140.max_delay"]];
        }
    },

    async restartDelayed(client, { delayId }) {
        await client._unstable_restartScheduledDelayedEvent(delayId);
    },

    async sendDelayed(client, { delayId }) {
        await client._unstable_sendScheduledDelayedEvent(delayId);
    },

    async cancelDelayed(client, { delayId }) {
        await client._unstable_cancelScheduledDelayedEvent(delayId);
    },

    async cancelDelayedAsBefore(client, { delayId }) {
        await client._unstable_updateDelayedEvent(delayId, sdk.UpdateDelayedEventAction.Cancel);
    },

    // Gives the id of the event that it became, null while it is scheduled, "" if it was cancelled.
    async outcomeOfDelayed(client, { delayId }) {
        const { finalised } = await client._unstable_getDelayedEvent(delayId);
        return finalised ? (finalised.event_id ?? "") : null;
    },

    async markRead(client, { roomId, eventId }) {
        await client.sendReadReceipt(client.getRoom(roomId).findEventById(eventId));
    },

    async startTyping(client, { roomId }) {
        await client.sendTyping(roomId, true, 30_000);
    },

    async setDisplayName(client, { name }) {
        await client.setDisplayName(name);
    },

    // Gives whether the server asked for the password before it took the keys.
    async setUpCrossSigning(client, { password, anew }) {
        let challenged = false;
        await client.getCrypto().bootstrapCrossSigning({
            setupNewCrossSigning: anew,
            authUploadDeviceSigningKeys: async (upload) => {
                try {
                    return await upload(null);
                } catch (error) {
                    if (error.httpStatus !== 401) throw error;
                    challenged = true;
                    return await upload(passwordAuth(client.getUserId(), password, error.data.session));
                }
            },
        });
        return challenged;
    },

    async isCrossSigningReady(client) {
        return await client.getCrypto().isCrossSigningReady();
    },
};

function deadline(command) {
    return new Promise((_, reject) => {
        const fail = () => reject(new Error(`${command} took over ${COMMAND_TIMEOUT_MS} ms`));
        setTimeout(fail, COMMAND_TIMEOUT_MS).unref();
    });
}

async function answer(line) {
    const { id, client, command, arguments: given } = JSON.parse(line);
    try {
        const work = commands[command](clients.get(client), given, client);
        write({ id, result: (await Promise.race([work, deadline(command)])) ?? null });
    } catch (error) {
        write({ id, error: error?.stack ?? String(error) });
    }
}

const input = createInterface({ input: process.stdin });
input.on("line", (line) => void answer(line));
input.on("close", () => process.exit(0));
