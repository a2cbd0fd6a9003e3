// Speaking to the gateway: the token, failures as problems, server-sent events with their place kept.

const TOKEN = "ryla-token";
const PAUSE_MS = 1000;

/** A request that failed: `status` (0: nobody answered), `code`, `hint`, and `problems` of single parameters. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail ?? body.message ?? `The gateway answered with status ${status}.`);
    this.status = status;
    this.code = body.code ?? "";
    this.hint = body.hint ?? "";
    this.problems = body.problems ?? [];
  }
}

export function token() {
  return sessionStorage.getItem(TOKEN) ?? "";
}

export function setToken(secret) {
  if (secret) sessionStorage.setItem(TOKEN, secret);
  else sessionStorage.removeItem(TOKEN);
}

/** JSON whose integers beyond 2^53, such as seeds, become strings of their digits. */
export function parsed(text) {
  const tokens = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g;
  return JSON.parse(text.replace(tokens, (each) => (/^-?\d{16,}$/.test(each) ? `"${each}"` : each)));
}

/** The response, when it is a success; a Problem is thrown otherwise. */
export async function send(path, options = {}) {
  const headers = { ...options.headers };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The gateway does not answer.", hint: "Is it running? Start it with: ryla serve" });
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response) {
  try {
    return new Problem(response.status, parsed(await response.text()));
  } catch {
    return new Problem(response.status, {});
  }
}

export async function getJson(path, options = {}) {
  return parsed(await (await send(path, options)).text());
}

/** A picture as an object URL: an <img> cannot send a token. Revoke it when it is no longer shown. */
export async function pictureUrl(path) {
  return URL.createObjectURL(await (await send(path, { headers: { Accept: "image/*" } })).blob());
}

/**
 * The events of a job, `{kind, data}`, until `done`. A connection that breaks is taken up where it ended; meanwhile
 * there is an event of kind `waiting`.
 */
export async function* jobEvents(id, signal) {
  let last = "";
  for (;;) {
    try {
      const headers = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) };
      const response = await send(`jobs/${encodeURIComponent(id)}/events?preview=1`, { headers, signal });
      for await (const event of decoded(response.body)) {
        last = event.id || last;
        yield event;
        if (event.kind === "done") return;
      }
    } catch (error) {
      const refused = error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429;
      if (refused || signal.aborted) throw error;
      yield { kind: "waiting", data: {} };
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    if (signal.aborted) return;
  }
}

/** Server-sent events from a stream of bytes. */
async function* decoded(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) {
        const event = eventOf(block);
        if (event) yield event;
      }
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

function eventOf(block) {
  const found = { kind: "message", id: "", data: [] };
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (name === "event") found.kind = value;
    else if (name === "id") found.id = value;
    else if (name === "data") found.data.push(value);
  }
  return found.data.length ? { ...found, data: parsed(found.data.join("\n")) } : null;
}
