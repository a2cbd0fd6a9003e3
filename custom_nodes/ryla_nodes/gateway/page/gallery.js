// The jobs that this browser asked for: their ids are kept, all else is asked of the gateway.

import { Problem, getJson, pictureUrl } from "./api.js";
import { byId, element } from "./dom.js";
import { ended } from "./run.js";

const KEPT = "ryla-jobs";
const MOST = 24;
const AGAIN_MS = 2000;

export class Gallery {
  #jobs = new Map();
  #urls = new Map();
  #timer = 0;

  /** `onopen(job)` is called when one is chosen. */
  constructor(onopen) {
    this.onopen = onopen;
  }

  /** The newest job that goes on, once all were asked about. */
  async load() {
    await this.#refresh(kept());
    return [...this.#jobs.values()].find((job) => !ended(job));
  }

  /** Note a job that was accepted, or how it is now. */
  async note(job) {
    this.#jobs.set(job.id, job);
    if (!kept().includes(job.id)) keep([job.id, ...kept()].slice(0, MOST));
    await this.#show();
  }

  async #refresh(ids) {
    const found = await Promise.all(ids.map((id) => this.#ask(id)));
    ids.forEach((id, number) => (found[number] ? this.#jobs.set(id, found[number]) : this.#jobs.delete(id)));
    const gone = ids.filter((_, number) => found[number] === null);
    keep(kept().filter((id) => !gone.includes(id)));
    await this.#show();
  }

  /** The job; null when it is gone, undefined when the gateway could not tell. */
  async #ask(id) {
    try {
      return await getJson(`jobs/${encodeURIComponent(id)}`);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      return [404, 410].includes(error.status) ? null : this.#jobs.get(id);
    }
  }

  async #show() {
    const jobs = kept().map((id) => this.#jobs.get(id)).filter(Boolean);
    await Promise.all(jobs.map((job) => this.#picture(job)));
    // The focus stays on the job that has it.
    const focused = document.activeElement?.closest?.("#gallery-list button")?.dataset.id;
    byId("gallery-list").replaceChildren(...jobs.map((job) => this.#item(job)));
    if (focused) byId("gallery-list").querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
    byId("gallery-empty").hidden = jobs.length > 0;
    clearTimeout(this.#timer);
    const open = jobs.filter((job) => !ended(job)).map((job) => job.id);
    if (open.length) this.#timer = setTimeout(() => this.#refresh(open), AGAIN_MS);
  }

  async #picture(job) {
    if (this.#urls.has(job.id) || !job.pictures?.length) return;
    this.#urls.set(job.id, "");
    try {
      this.#urls.set(job.id, await pictureUrl(`jobs/${encodeURIComponent(job.id)}/result`));
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
    }
  }

  #item(job) {
    const url = this.#urls.get(job.id);
    const words = { succeeded: "", timed_out: "timed out" }[job.state] ?? job.state;
    const seen = url ? element("img", { src: url, alt: "" }) : element("span", { class: "none" }, words || "no picture");
    const name = `${job.workflow}: ${job.parameters.prompt ?? job.id}${words ? ` (${words})` : ""}`;
    const open = { type: "button", "data-id": job.id, title: name, "aria-label": name, onclick: () => this.onopen(this.#jobs.get(job.id)) };
    return element("li", {}, element("button", open, seen));
  }
}

function kept() {
  try {
    const ids = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    return Array.isArray(ids) ? ids.filter((id) => typeof id === "string").slice(0, MOST) : [];
  } catch {
    return [];
  }
}

function keep(ids) {
  localStorage.setItem(KEPT, JSON.stringify(ids));
}
