// Choosing a LoRA: a text field with a list that narrows while one types (the combobox pattern of ARIA).

import { element } from "./dom.js";

export function loraControl(parameter, described, { loras }) {
  const list = element("ul", { id: `${described.id}-list`, role: "listbox", "aria-label": "LoRAs", hidden: true, onmousedown: (event) => event.preventDefault() });
  const input = element("input", {
    ...described, type: "text", role: "combobox", autocomplete: "off", spellcheck: "false", placeholder: parameter.required ? "search" : "search, or none",
    "aria-expanded": "false", "aria-controls": list.id, "aria-autocomplete": "list",
  });
  const told = element("p", { class: "help told", role: "status" });
  let active = -1;

  function open() {
    const found = matching(loras(), input.value);
    list.replaceChildren(...found.map((lora, number) => option(lora, `${list.id}-${number}`)));
    if (!found.length) list.append(element("li", { class: "none" }, loras().length ? "No LoRA is called so." : "The engines have no LoRA."));
    shown(true);
  }

  function option(lora, id) {
    const more = [lora.family, lora.trigger_word && `trigger word ${lora.trigger_word}`].filter(Boolean).join(", ");
    return element("li", { id, role: "option", "aria-selected": "false", "data-id": lora.id, onmousedown: () => choose(lora.id) }, element("b", {}, lora.id), more ? element("span", {}, more) : null);
  }

  function shown(visible) {
    list.hidden = !visible;
    input.setAttribute("aria-expanded", String(visible));
    mark(-1);
  }

  function mark(number) {
    const options = [...list.querySelectorAll("[role=option]")];
    active = options.length ? Math.max(-1, Math.min(number, options.length - 1)) : -1;
    options.forEach((each, index) => each.setAttribute("aria-selected", String(index === active)));
    if (active < 0) input.removeAttribute("aria-activedescendant");
    else {
      input.setAttribute("aria-activedescendant", options[active].id);
      options[active].scrollIntoView({ block: "nearest" });
    }
  }

  function choose(id) {
    input.value = id;
    input.dispatchEvent(new Event("input", { bubbles: true }));
    shown(false);
  }

  function tell() {
    const lora = loras().find((each) => each.id === input.value.trim());
    const facts = lora ? [lora.family && `Family ${lora.family}`, lora.trigger_word && `trigger word ${lora.trigger_word}`] : [];
    told.textContent = facts.filter(Boolean).join(", ");
  }

  function key(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open();
      mark(event.key === "ArrowDown" ? active + 1 : active - 1);
    } else if (event.key === "Enter" && !list.hidden && active >= 0) {
      event.preventDefault();
      choose(list.querySelectorAll("[role=option]")[active].dataset.id);
    } else if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      shown(false);
    }
  }

  input.addEventListener("keydown", key);
  input.addEventListener("click", () => (list.hidden ? open() : shown(false)));
  input.addEventListener("input", () => { if (document.activeElement === input) open(); tell(); });
  input.addEventListener("blur", () => shown(false));
  const set = (value) => { input.value = value ?? parameter.default ?? ""; tell(); };
  return { node: element("div", { class: "combo" }, input, list, told), input, value: () => input.value.trim(), set };
}

/** Those with every word of `text` in their id, family or trigger word; all when it is the id of one. */
function matching(loras, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (loras.some((each) => each.id === text.trim())) return loras;
  return loras.filter((each) => {
    const told = [each.id, each.family, each.trigger_word].join(" ").toLowerCase();
    return words.every((word) => told.includes(word));
  });
}
