// Questions to the server: one line of JSON for every event; a newer question of a lane takes an older one's place.

/** Why there is no answer, in the words of the server. */
export class Refusal extends Error {
  constructor({ error, remedy = "" }, status = 0) {
    super(remedy && !remedy.startsWith("see /api") ? `${error}; ${remedy}` : error);
    this.status = status;
  }
}

/** A newer question of the same lane was asked. */
export class Superseded extends Error {}

/** Somebody stopped the question. */
export class Stopped extends Error {}

/** The server does not answer. */
export class Lost extends Error {}

const CLIENT = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const running = new Map();

/** An answer that needs no model. */
export async function get(path) {
  return (await accepted(await reached(path, {}))).json();
}

/**
 * Ask, and hear of the events on the way: `queued`, `progress` and `partial`.
 *
 * Throws Superseded if a newer question of the lane is asked meanwhile, Stopped if somebody stops it, Lost if
 * the server is gone, and Refusal if it answers with an error.
 */
export async function ask(path, body, lane, onEvent) {
  cancel(lane);
  const controller = new AbortController();
  running.set(lane, controller);
  try {
    const response = await reached(path, request(body, controller.signal, { "X-Mnemoscope-Lane": lane }));
    await accepted(response);
    for await (const event of events(response, controller.signal)) {
      if (event.event === "result") return event.result;
      if (event.event === "error") throw event.status === 409 ? new Superseded() : new Refusal(event, event.status);
      onEvent(event);
    }
    throw new Lost();
  } finally {
    if (running.get(lane) === controller) running.delete(lane);
  }
}

/** Stop the question of a lane. */
export function cancel(lane, why = new Superseded()) {
  running.get(lane)?.abort(why);
}

/** An answer as a file. */
export async function file(path, body) {
  const response = await accepted(await reached(path, request(body, null, {})));
  return response.blob();
}

function request(body, signal, headers) {
  return {
    method: "POST",
    body: JSON.stringify(body),
    signal,
    headers: { "Content-Type": "application/json", Accept: "application/x-ndjson", "X-Mnemoscope-Client": CLIENT, ...headers },
  };
}

async function reached(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    throw failure(error, options.signal);
  }
}

async function accepted(response) {
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw told === null ? new Lost() : new Refusal(told, response.status);
}

async function* events(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw failure(error, signal);
      });
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) yield JSON.parse(line);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function failure(error, signal) {
  return signal?.aborted ? signal.reason : new Lost(error.message);
}
