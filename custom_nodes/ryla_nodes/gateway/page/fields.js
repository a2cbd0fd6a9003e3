// One parameter of a workflow as a labelled field.

import { element, label } from "./dom.js";
import { loraControl } from "./loras.js";
import { photoControl } from "./photo.js";

const CONTROLS = {
  text: textControl,
  string: lineControl,
  int: numberControl,
  float: numberControl,
  bool: checkControl,
  enum: choiceControl,
  seed: seedControl,
  image: photoControl,
  lora: loraControl,
};

/**
 * A field: `node` to show, `value()` as the gateway takes it (text, a File, or null for "not given"), `set(value)`
 * (null: the default), `fault()` in words or "", `fail(words)`, `focus()`.
 */
export function makeField(parameter, context) {
  const id = `field-${parameter.name}`;
  const help = element("p", { class: "help", id: `${id}-help` }, helpOf(parameter));
  const error = element("p", { class: "error", id: `${id}-error` });
  const described = { id, "aria-describedby": `${help.id} ${error.id}`, required: parameter.required };
  const control = CONTROLS[parameter.type](parameter, described, context);
  const title = element("label", { for: id }, label(parameter.name));
  if (parameter.required) title.append(" ", element("span", { class: "required" }, "required"));
  const parts = parameter.type === "bool" ? [element("div", { class: "row check" }, control.node, title)] : [title, control.node];
  const node = element("div", { class: `field ${parameter.type}` }, ...parts, help, error);
  const field = { ...control, parameter, node, fail: (words) => fail(control.input, error, words), focus: () => control.input.focus() };
  node.addEventListener("input", () => field.fail(""));
  node.addEventListener("fault", (event) => field.fail(event.detail));
  field.changed = () => isChanged(parameter, field.value());
  field.fault = () => control.fault?.() || missing(parameter, field);
  field.set(null);
  return field;
}

function fail(input, place, words) {
  place.textContent = words;
  if (words) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

function missing(parameter, field) {
  const value = field.value();
  const empty = value === null || (typeof value === "string" && !value.trim());
  return parameter.required && empty ? `${label(parameter.name)} is needed.` : "";
}

function isChanged(parameter, value) {
  if (value === null) return false;
  if (parameter.required) return true;
  if (parameter.type === "int" || parameter.type === "float") return Number(value) !== Number(parameter.default);
  return value !== String(parameter.default ?? "");
}

function helpOf({ help, min, max, step, type }) {
  if (type === "seed" || min === undefined || max === undefined) return help;
  const steps = step !== undefined && step !== 1 ? `, in steps of ${step}` : "";
  return `${help} From ${min} to ${max}${steps}.`;
}

function textControl(parameter, described) {
  const input = element("textarea", { ...described, rows: parameter.required ? 4 : 2, spellcheck: "true" });
  return plain(input, parameter);
}

function lineControl(parameter, described) {
  return plain(element("input", { ...described, type: "text", autocomplete: "off" }), parameter);
}

function plain(input, parameter) {
  const set = (value) => { input.value = value ?? parameter.default ?? ""; };
  return { node: input, input, value: () => input.value, set };
}

function numberControl(parameter, described) {
  const { min, max, step } = parameter;
  const fine = parameter.type === "float" ? "any" : 1;
  const input = element("input", { ...described, type: "number", min, max, step: step ?? fine, inputmode: parameter.type === "int" ? "numeric" : "decimal" });
  const fault = () => (input.validity.badInput ? `${label(parameter.name)} is a number.` : "");
  const value = () => (input.value === "" ? null : input.value);
  return { ...plain(input, parameter), fault, value };
}

function checkControl(parameter, described) {
  const input = element("input", { ...described, type: "checkbox", required: false });
  const set = (value) => { input.checked = value ?? parameter.default ?? false; };
  return { node: input, input, value: () => String(input.checked), set };
}

function choiceControl(parameter, described) {
  const input = element("select", described, ...parameter.choices.map((choice) => element("option", { value: choice }, choice)));
  return plain(input, parameter);
}

/** Digits as text: a number of JavaScript holds no seed beyond 2^53. */
function seedControl(parameter, described) {
  const input = element("input", { ...described, type: "text", inputmode: "numeric", autocomplete: "off", placeholder: "random" });
  const random = element("button", { type: "button", onclick: () => { set(null); input.dispatchEvent(new Event("input", { bubbles: true })); } }, "Random");
  const value = () => input.value.trim() || null;
  const set = (seed) => { input.value = seed ?? ""; };
  const fault = () => (/^\d*$/.test(input.value.trim()) ? "" : `${label(parameter.name)} is a whole number, or empty for a random one.`);
  return { node: element("div", { class: "row" }, input, random), input, value, set, fault };
}
