// Choosing a photo: the browser's own chooser, or dropping a file.

import { element, label } from "./dom.js";

const TYPES = "image/jpeg,image/png,image/webp";

// A file dropped beside the field is not opened in the page's place.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());

export function photoControl(parameter, described) {
  const input = element("input", { ...described, type: "file", accept: TYPES });
  const preview = element("img", { alt: "", hidden: true });
  const told = element("p", { class: "help" });
  const remove = element("button", { type: "button", hidden: true }, "Remove");
  const zone = element("div", { class: "drop" }, preview, element("div", {}, element("p", {}, "Drop a photo here, or choose one:"), input, told, remove));
  let file = null;
  let url = "";
  let fault = "";

  function show(chosen) {
    URL.revokeObjectURL(url);
    file = chosen;
    url = chosen ? URL.createObjectURL(chosen) : "";
    preview.hidden = remove.hidden = !chosen;
    preview.alt = chosen ? `${label(parameter.name)}: ${chosen.name}` : "";
    told.textContent = chosen ? `${chosen.name}, ${size(chosen.size)}` : "";
    if (chosen) preview.src = url;
    else preview.removeAttribute("src");
  }

  function take(chosen) {
    fault = chosen && !TYPES.split(",").includes(chosen.type) ? `${chosen.name} is no JPEG, PNG or WebP.` : "";
    show(fault ? null : chosen);
    zone.dispatchEvent(new CustomEvent("input", { bubbles: true }));
    if (fault) zone.dispatchEvent(new CustomEvent("fault", { bubbles: true, detail: fault }));
  }

  input.addEventListener("change", () => take(input.files[0] ?? null));
  preview.addEventListener("error", () => { preview.hidden = true; });
  remove.addEventListener("click", () => { input.value = ""; take(null); input.focus(); });
  zone.addEventListener("dragover", () => zone.classList.add("over"));
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    zone.classList.remove("over");
    if (event.dataTransfer.files[0]) { input.value = ""; take(event.dataTransfer.files[0]); }
  });
  // What a job of before was given is known by its content alone: the photo has to be chosen again.
  const set = () => { input.value = ""; fault = ""; show(null); };
  return { node: zone, input, value: () => file, set, fault: () => fault };
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
