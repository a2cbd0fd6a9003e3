// What keeps the gateway from being ready, with the command that mends it.

import { parsed, token } from "./api.js";
import { byId, element } from "./dom.js";

const SOON_MS = 5000;
const LATER_MS = 30000;

/** Look now, and again from time to time. */
export async function watchReadiness() {
  const state = await look();
  const place = byId("ready");
  const words = JSON.stringify(state);
  // It is announced when it changes, not each time that it was looked at.
  if (place.dataset.state !== words) {
    place.dataset.state = words;
    place.replaceChildren(...(state.ready ? [] : [banner(state.missing ?? [])]));
  }
  setTimeout(watchReadiness, state.ready ? LATER_MS : SOON_MS);
}

/** 503 is an answer here, not a failure. */
async function look() {
  try {
    const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
    const told = parsed(await (await fetch("ready", { headers })).text());
    return { ready: told.ready === true, missing: told.missing };
  } catch {
    return { ready: false, missing: [{ message: "The gateway does not answer.", fix: "ryla serve" }] };
  }
}

function banner(missing) {
  const items = missing.map(({ message, fix, workflow }) =>
    element("li", {}, workflow ? element("b", {}, `${workflow}: `) : null, message, " ", element("code", {}, fix)),
  );
  return element("div", { class: "banner" }, element("p", {}, "Not ready: a picture may fail or wait."), element("ul", {}, ...items));
}
