// How a job ended: its pictures with what is known of them, or why there is none.

import { Problem, pictureUrl } from "./api.js";
import { byId, element, explain } from "./dom.js";

let shown = [];
let latest = 0;

/** Show nothing; what is still being fetched for it is not shown either. */
export function clearOutcome() {
  latest += 1;
  shown.forEach((url) => URL.revokeObjectURL(url));
  shown = [];
  byId("outcome").replaceChildren();
}

/** Show an ended job; `onagain(job)` is for the button that takes its seed up again. */
export async function showOutcome(job, onagain) {
  clearOutcome();
  const mine = latest;
  const parts = [];
  const actions = element("div", { class: "row" });
  if (job.error) parts.push(failure(job.error));
  try {
    for (const [number] of (job.pictures ?? []).entries()) {
      const url = await pictureUrl(`jobs/${encodeURIComponent(job.id)}/result?number=${number}`);
      shown.push(url);
      parts.push(element("img", { src: url, alt: `Picture of: ${job.parameters.prompt ?? job.workflow}` }));
      actions.append(element("a", { href: url, download: fileName(job, number), class: "button" }, "Download"));
    }
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    parts.push(failure(error));
  }
  if (job.seed !== undefined) actions.append(element("button", { type: "button", id: "again", onclick: () => onagain(job) }, "Again with this seed"));
  for (const warning of job.warnings ?? []) parts.push(element("p", { class: "help" }, warning));
  if (mine === latest) byId("outcome").replaceChildren(...parts, actions, facts(job));
}

function failure({ message, hint }) {
  const place = element("div", { class: "problem", role: "alert" });
  explain(place, { message, hint });
  return place;
}

function fileName(job, number) {
  const kind = String(job.pictures[number].type).split("/")[1].replace("jpeg", "jpg");
  return `${[job.workflow, job.seed, number || undefined].filter((part) => part !== undefined).join("-")}.${kind}`;
}

/** Only what is known. */
function facts(job) {
  const known = [
    ["Seed", job.seed],
    ["Time on the engine", seconds(job.execution_seconds)],
    ["Time in the queue", seconds(job.queue_seconds)],
    ["GPU", job.gpu],
    ["Cost", job.cost_usd === undefined ? undefined : `${job.cost_usd} USD`],
    ["LoRA", job.lora_used],
    ["Face similarity", job.face_similarity === undefined ? undefined : Number(job.face_similarity).toFixed(3)],
    ["Best of", job.best_of?.map((each) => (each.error ? "failed" : Number(each.similarity).toFixed(3))).join(", ")],
    ["Job", job.id],
  ];
  const rows = known.filter(([, value]) => value !== undefined && value !== "");
  return element("dl", { class: "facts" }, ...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value)))));
}

function seconds(value) {
  return value === undefined ? undefined : `${Number(value).toFixed(value < 10 ? 2 : 1)} s`;
}
