// The form of one workflow, made from its manifest.

import { byId, explain, label } from "./dom.js";
import { makeField } from "./fields.js";

// Beside what is required, these are always in sight; the others are below "More settings".
const IN_SIGHT = { types: ["image", "lora"], names: ["width", "height", "steps", "seed"] };
const LAST = ["width", "height", "steps", "seed"];

export class WorkflowForm {
  #fields = [];

  /** `context.loras()` gives the LoRAs to choose from; `onchange` is called after each change. */
  constructor(context, onchange) {
    this.context = context;
    this.onchange = onchange;
    byId("form").addEventListener("input", onchange);
    byId("defaults").addEventListener("click", () => {
      this.fill({});
      this.#fields[0].focus();
    });
    byId("form").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
    });
  }

  show(workflow) {
    this.workflow = workflow;
    byId("workflow").value = workflow.name;
    byId("summary").textContent = workflow.summary;
    const before = Object.fromEntries(this.#fields.map((field) => [field.parameter.name, field.changed() ? field.value() : null]));
    this.#fields = sorted(workflow.parameters).map((parameter) => makeField(parameter, this.context));
    byId("fields").replaceChildren(...this.#fields.filter(({ parameter }) => inSight(parameter)).map((field) => field.node));
    byId("more-fields").replaceChildren(...this.#fields.filter(({ parameter }) => !inSight(parameter)).map((field) => field.node));
    // What was typed for one workflow serves the next one, too; a photo has to be chosen again.
    for (const field of this.#fields) {
      const value = before[field.parameter.name];
      if (typeof value === "string") field.set(value);
    }
    explain(byId("form-error"), null);
    this.onchange();
  }

  /** The values that differ from their defaults, `[name, text or File]`, in the manifest's order. */
  values() {
    const given = new Map(this.#fields.filter((field) => field.changed()).map((field) => [field.parameter.name, field.value()]));
    return this.workflow.parameters.filter(({ name }) => given.has(name)).map(({ name }) => [name, given.get(name)]);
  }

  fill(parameters) {
    explain(byId("form-error"), null);
    for (const field of this.#fields) {
      const value = parameters[field.parameter.name];
      field.fail("");
      field.set(field.parameter.type === "image" ? null : value ?? null);
    }
    this.onchange();
  }

  focus(name) {
    const field = this.#fields.find(({ parameter }) => parameter.name === name) ?? this.#fields[0];
    if (byId("more").contains(field.node)) byId("more").open = true;
    field.focus();
  }

  /** Whether all is there; else it is said beside the fields, and the first of them has the focus. */
  check() {
    explain(byId("form-error"), null);
    return this.#tell(this.#fields.map((field) => [field, field.fault()]));
  }

  /** Say a refusal beside the fields that it is about, or below the form. */
  refuse(problem) {
    const told = this.#fields.map((field) => [field, wordsFor(field.parameter, problem)]);
    const about = problem.problems.map(({ parameter }) => parameter);
    const placed = !this.#tell(told) && about.every((name) => this.#fields.some(({ parameter }) => parameter.name === name));
    explain(byId("form-error"), placed ? null : problem);
  }

  #tell(faults) {
    faults.forEach(([field, words]) => field.fail(words));
    const first = faults.find(([, words]) => words);
    if (first) this.focus(first[0].parameter.name);
    return !first;
  }
}

function inSight({ required, type, name }) {
  return required || IN_SIGHT.types.includes(type) || IN_SIGHT.names.includes(name);
}

function sorted(parameters) {
  const rank = ({ name, required, type }) => (required && type !== "image" ? 0 : type === "image" ? 1 : LAST.includes(name) ? 3 : 2);
  return [...parameters].sort((one, other) => rank(one) - rank(other));
}

/** What a refusal says of this parameter; "" when it is about something else. */
function wordsFor({ name, type }, problem) {
  const told = problem.problems.filter(({ parameter }) => parameter === name).map(({ message }) => message);
  if (told.length) return told.map((words) => sentence(name, words)).join(" ");
  if (problem.problems.length) return "";
  const about = problem.message.startsWith(`${name} `) || (["lora", "image"].includes(type) && problem.code.split("_").includes(type));
  return about ? sentence(name, problem.message) : "";
}

/** The gateway's words with the field's own label in front, in place of the parameter's name. */
function sentence(name, words) {
  const said = words.startsWith(`${name} `) ? label(name) + words.slice(name.length) : words;
  return /[.!?]$/.test(said) ? said : `${said}.`;
}
