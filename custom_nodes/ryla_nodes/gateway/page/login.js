// Asking for a token when the gateway wants one.

import { getJson, setToken, token } from "./api.js";
import { byId } from "./dom.js";

/** `path` as JSON, and first, when the gateway asks for it, the token: as often as it takes. */
export async function getWithLogin(path) {
  for (;;) {
    try {
      const answer = await getJson(path);
      byId("token").hidden = true;
      return answer;
    } catch (error) {
      if (error.status !== 401) throw error;
      await ask(token() ? "The gateway does not know this token." : "");
    }
  }
}

/** Resolves when a token was given. */
function ask(fault) {
  const form = byId("token");
  const input = byId("token-input");
  setToken("");
  form.hidden = false;
  byId("token-error").textContent = fault;
  input.focus();
  return new Promise((resolve) => {
    form.onsubmit = (event) => {
      event.preventDefault();
      if (!input.value.trim()) return;
      setToken(input.value.trim());
      input.value = "";
      resolve();
    };
  });
}
