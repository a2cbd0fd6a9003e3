// Elements without markup in strings: what the server or a user says is only ever text.

/** The element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * An element. Of `properties`, `onclick` and the like are listeners, `value` and `checked` are set as properties, all
 * others as attributes; null, undefined and false leave one out. Children are nodes or text; null is left out.
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") made[name] = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** `lora_strength` as people write it: `LoRA strength`. */
export function label(name) {
  const words = name.replaceAll("_", " ").replace(/\blora\b/g, "LoRA").replace(/\bcfg\b/g, "CFG").replace(/\bid\b/g, "id");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Say what failed in `place`, with what to do next; nothing for null. */
export function explain(place, problem) {
  const lines = problem ? [element("p", {}, problem.message), problem.hint ? element("p", { class: "hint" }, problem.hint) : null] : [];
  place.replaceChildren(...lines.filter(Boolean));
}
