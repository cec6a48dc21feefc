// Runs the steps of an app and prints a JSON line per step; see `../apps.py`.

export const [url, user, picture] = process.argv.slice(2);
export const password = "correct horse battery staple";

// Standard output belongs to the protocol.
for (const level of ["trace", "debug", "info", "log", "warn"]) console[level] = console.error;

/** Runs functions, whose names are what the app does, in order. */
export async function run(steps) {
    for (const [name, step] of Object.entries(steps)) {
        let error = null;
        try {
            await step();
        } catch (failure) {
            error = `${failure?.stack ?? JSON.stringify(failure)}`;
        }
        process.stdout.write(JSON.stringify({ step: name, error }) + "\n");
    }
    process.exit();
}

export function assert(condition, found) {
    if (!condition) throw new Error(`found ${JSON.stringify(found)}`);
}

/** Resolves with what `find` returns, once that is something. */
export async function eventually(find) {
    for (let tries = 0; tries < 500; tries++) {
        const found = await find();
        if (found) return found;
        await new Promise((resolve) => setTimeout(resolve, 20));
    }
    throw new Error(`never: ${find}`);
}

export const isPng = (bytes) => Buffer.from(bytes).subarray(1, 4).toString() === "PNG";
