// Questions to the server: one line of JSON for every event, and a newer question takes an older one's place.

/** Why there is no answer, in the words of the server. */
export class Refusal extends Error {
  constructor({ error, remedy = "" }, status = 0) {
    super(remedy ? `${error}; ${remedy}` : error);
    this.status = status;
  }
}

/** A newer question of the same lane was asked, or somebody cancelled this one. */
export class Superseded extends Error {}

const CLIENT = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const AWAY = { error: "the server does not answer", remedy: "start it again with: mnemoscope serve" };
const running = new Map();

/** What the server tells without asking a model. */
export async function get(path) {
  const response = await reached(path, {});
  return (await accepted(response)).json();
}

/**
 * Ask, and hear of what happens on the way.
 *
 * `onEvent` is told of `queued` and `progress`. Throws Superseded if a newer question of the lane is asked
 * meanwhile, and Refusal if the server does not answer with a result.
 */
export async function ask(path, body, lane, onEvent) {
  cancel(lane);
  const controller = new AbortController();
  running.set(lane, controller);
  try {
    const response = await reached(path, request(body, controller.signal, { "X-Mnemoscope-Lane": lane }));
    await accepted(response);
    for await (const event of events(response)) {
      if (event.event === "result") return event.result;
      if (event.event === "error") throw event.status === 409 ? new Superseded() : new Refusal(event, event.status);
      onEvent(event);
    }
    throw new Refusal(AWAY);
  } finally {
    if (running.get(lane) === controller) running.delete(lane);
  }
}

/** Stop what a lane is asking. */
export function cancel(lane) {
  running.get(lane)?.abort();
}

/** An answer as a file. */
export async function file(body) {
  const response = await accepted(await reached("/api/export", request(body, null, {})));
  return response.blob();
}

function request(body, signal, headers) {
  return {
    method: "POST",
    body: JSON.stringify(body),
    signal,
    headers: {
      "Content-Type": "application/json",
      Accept: "application/x-ndjson",
      "X-Mnemoscope-Client": CLIENT,
      ...headers,
    },
  };
}

async function reached(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    throw failure(error);
  }
}

async function accepted(response) {
  if (response.ok) return response;
  throw new Refusal(await response.json().catch(() => AWAY), response.status);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        throw failure(error);
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

function failure(error) {
  return error.name === "AbortError" ? new Superseded() : new Refusal(AWAY);
}
