// The page at "/": a workflow, its form, the job that comes of it, the pictures of before, the same as a program.

import { Problem, getJson } from "./api.js";
import { byId, element, explain } from "./dom.js";
import { WorkflowForm } from "./form.js";
import { Gallery } from "./gallery.js";
import { getWithLogin } from "./login.js";
import { watchReadiness } from "./ready.js";
import { follow } from "./run.js";
import { snippets } from "./snippets.js";

let workflows = [];
let loras = [];
let showProgram = () => {};

const form = new WorkflowForm({ loras: () => loras }, () => showProgram());
const gallery = new Gallery(open);

async function start() {
  watchReadiness();
  workflows = (await getWithLogin("workflows")).workflows;
  loras = (await getJson("loras")).loras;
  byId("workflow").replaceChildren(...workflows.map(({ name, title }) => element("option", { value: name }, `${title} (${name})`)));
  byId("workflow").addEventListener("change", () => form.show(named(byId("workflow").value)));
  byId("form").addEventListener("submit", submit);
  form.show(workflows[0]);
  showProgram = snippets(form);
  showProgram();
  byId("studio").hidden = false;
  const going = await gallery.load();
  if (going) watch(going);
}

function named(name) {
  return workflows.find((each) => each.name === name);
}

async function submit(event) {
  event.preventDefault();
  if (!form.check()) return;
  const button = byId("form").querySelector("[type=submit]");
  button.disabled = true;
  try {
    const body = new FormData();
    for (const [name, value] of form.values()) body.set(name, value);
    const headers = { Prefer: "respond-async", Accept: "*/*" };
    const job = await getJson(encodeURIComponent(form.workflow.name), { method: "POST", body, headers });
    await gallery.note(job);
    watch(job);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    form.refuse(error);
    if (error.status === 401) await getWithLogin("workflows");
  } finally {
    button.disabled = false;
  }
}

function watch(job) {
  follow(job, (facts) => gallery.note(facts), again);
  const narrow = matchMedia("(max-width: 60rem)").matches;
  if (narrow) byId("result").scrollIntoView({ block: "start" });
}

/** A job of before: its picture, and its values in the form. */
function open(job) {
  fill(job, {});
  watch(job);
  byId("result").focus();
}

/** The form as it was for this job, its seed included. */
function again(job) {
  fill(job, { seed: job.seed });
  form.focus("prompt");
}

function fill(job, more) {
  const workflow = named(job.workflow);
  if (!workflow) return;
  form.show(workflow);
  form.fill({ ...job.parameters, ...more });
}

start().catch((error) => {
  const place = byId("ready");
  place.replaceChildren(element("div", { class: "banner" }));
  explain(place.firstChild, error);
  throw error;
});
