// Following one job: its place in the queue, node, steps and preview, until it has ended.

import { Problem, getJson, jobEvents, send } from "./api.js";
import { byId, element } from "./dom.js";
import { clearOutcome, showOutcome } from "./outcome.js";

let following = null;

/** Show a job until it has ended; another one that is shown goes on, out of sight. `onend(facts)` is then called. */
export async function follow(job, onend, onagain) {
  following?.abort();
  const stop = (following = new AbortController());
  clearOutcome();
  if (ended(job)) {
    byId("progress").replaceChildren();
    say(endOf(job));
    await showOutcome(job, onagain);
    return;
  }
  const view = new Progress(job);
  try {
    for await (const event of jobEvents(job.id, stop.signal)) {
      if (stop.signal.aborted) return;
      view.take(event);
    }
    const facts = await getJson(`jobs/${encodeURIComponent(job.id)}`);
    if (stop.signal.aborted) return;
    view.close();
    say(endOf(facts));
    onend(facts);
    await showOutcome(facts, onagain);
  } catch (error) {
    if (stop.signal.aborted) return;
    if (!(error instanceof Problem)) throw error;
    view.close();
    say(error.message);
  }
}

export function ended(job) {
  return !["queued", "running"].includes(job.state);
}

function say(words) {
  if (byId("status").textContent !== words) byId("status").textContent = words;
}

function endOf(job) {
  const seconds = job.execution_seconds === undefined ? "" : ` in ${Number(job.execution_seconds).toFixed(1)} s`;
  const ends = {
    succeeded: `Done${seconds}.`, failed: "It failed.", cancelled: "Cancelled.",
    timed_out: "It took longer than it may.", lost: "The engine lost it.",
  };
  return ends[job.state] ?? job.state;
}

class Progress {
  constructor(job) {
    this.job = job;
    this.bar = element("progress", { "aria-label": "Progress" });
    this.steps = element("span", { class: "help" });
    this.preview = element("img", { class: "preview", alt: "Preview of the picture", hidden: true });
    this.cancel = element("button", { type: "button", id: "cancel", onclick: () => this.#cancel() }, "Cancel");
    byId("progress").replaceChildren(this.bar, element("div", { class: "row" }, this.steps, this.cancel), this.preview);
    say("Sent.");
  }

  take({ kind, data }) {
    if (kind === "queued") say(place(data.position));
    else if (kind === "running") say("The engine works on it.");
    else if (kind === "node") this.#node(data);
    else if (kind === "step") this.#step(data);
    else if (kind === "preview") this.#preview(data);
    else if (kind === "fetching") say("The picture is being fetched.");
    else if (kind === "waiting") say("The gateway does not answer; trying again.");
  }

  close() {
    byId("progress").replaceChildren();
  }

  #node({ node, done, total }) {
    say(node ? `At work: ${node}.` : "At work.");
    this.steps.textContent = total ? `Node ${Math.min(done + 1, total)} of ${total}` : "";
    this.bar.removeAttribute("value");
  }

  #step({ step, steps }) {
    this.bar.max = steps;
    this.bar.value = step;
    this.steps.textContent = `Step ${step} of ${steps}`;
    this.bar.setAttribute("aria-valuetext", this.steps.textContent);
  }

  #preview(data) {
    this.preview.src = data.image;
    this.preview.hidden = false;
  }

  async #cancel() {
    this.cancel.disabled = true;
    say("Being cancelled.");
    try {
      await send(`jobs/${encodeURIComponent(this.job.id)}`, { method: "DELETE" });
    } catch (error) {
      this.cancel.disabled = false;
      say(error.message);
    }
  }
}

function place(position) {
  if (position === undefined || position === null) return "In the queue.";
  if (position === 0) return "It is the next one.";
  return position === 1 ? "In the queue: one job is before it." : `In the queue: ${position} jobs are before it.`;
}
