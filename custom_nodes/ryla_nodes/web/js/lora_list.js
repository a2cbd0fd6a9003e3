// The dialog with the LoRAs: all ids at once, and of those in sight their trigger word, family and sample picture.

import { api } from "../../../scripts/api.js";

const ROW = 68; // Pixels, as in STYLE.
const SPARE = 4; // Rows drawn above and below those in sight.
const ALL_KNOWN = 1000; // Up to so many, everything is asked for, so that trigger words can be searched.
const PORTION = 50;

const STYLE = `
.ryla-loras { width: min(640px, 92vw); height: min(720px, 86vh); padding: 0; border-radius: 10px; overflow: hidden;
  color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #353535);
  border: 1px solid var(--border-color, #4e4e4e); font: 13px/1.4 Inter, Arial, sans-serif; }
.ryla-loras[open] { display: flex; flex-direction: column; }
.ryla-loras::backdrop { background: rgb(0 0 0 / 45%); }
.ryla-loras header { display: flex; gap: 8px; padding: 12px; align-items: center; }
.ryla-loras input { flex: 1; padding: 8px 10px; border-radius: 6px; font: inherit; color: var(--input-text, #ddd);
  background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e); }
.ryla-loras button { padding: 7px 11px; border-radius: 6px; font: inherit; cursor: pointer;
  color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e); }
.ryla-loras .list { flex: 1; overflow-y: auto; position: relative; border-top: 1px solid var(--border-color, #4e4e4e); }
.ryla-loras .row { position: absolute; left: 0; right: 0; height: 68px; box-sizing: border-box; padding: 6px 12px;
  display: flex; gap: 12px; align-items: center; cursor: pointer; }
.ryla-loras .row:hover, .ryla-loras .row.at { background: var(--comfy-input-bg, #222); }
.ryla-loras .row.other { opacity: 0.4; cursor: not-allowed; }
.ryla-loras .picture { flex: none; width: 56px; height: 56px; border-radius: 6px; object-fit: cover;
  background: var(--comfy-input-bg, #222); }
.ryla-loras .text { flex: 1; min-width: 0; }
.ryla-loras .text div { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.ryla-loras .id { font-weight: 600; }
.ryla-loras .about { color: var(--descrip-text, #999); font-size: 12px; }
.ryla-loras footer { padding: 8px 12px; color: var(--descrip-text, #999); font-size: 12px;
  border-top: 1px solid var(--border-color, #4e4e4e); }
`;

const known = { loras: null, details: new Map() };
let preparing = 0;

// Read the list before it is asked for, so that it opens at once.
export function prepare() {
  if (!preparing) preparing = setTimeout(readAll, 1000);
}

// Read everything again: the editor's R.
export async function refresh() {
  known.details.clear();
  await readAll();
}

async function readAll() {
  known.loras = await ask("/ryla/loras").catch(() => known.loras);
}

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await api.fetchApi(path, options);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return (await answer.json()).loras;
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

class LoraList {
  constructor({ now, family, take }) {
    Object.assign(this, { now: now ?? "", family, take, shown: [], at: -1, wanted: new Set(), asking: false });
    this.build();
    if (known.loras) this.filter();
    this.read();
  }

  build() {
    this.dialog = element("dialog", "ryla-loras");
    this.dialog.append(element("style", "", STYLE));
    this.search = element("input", "");
    this.search.type = "search";
    this.search.placeholder = "Search ids, trigger words, families";
    const none = element("button", "", "No LoRA");
    none.onclick = () => this.finish("");
    const header = element("header", "");
    header.append(this.search, none);
    this.list = element("div", "list");
    this.list.tabIndex = -1;
    this.footer = element("footer", "", "Reading the LoRA folders ...");
    this.dialog.append(header, this.list, this.footer);
    this.search.oninput = () => this.filter();
    this.list.onscroll = () => this.draw();
    this.list.onmousedown = (event) => event.preventDefault(); // What is typed goes on to the search.
    this.dialog.onkeydown = (event) => this.key(event);
    this.dialog.onclick = (event) => event.target === this.dialog && this.dialog.close();
    this.dialog.onclose = () => this.dialog.remove();
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.search.focus();
  }

  async read() {
    try {
      known.loras = await ask("/ryla/loras");
      this.filter();
      if (known.loras.length <= ALL_KNOWN) this.want(known.loras);
    } catch (error) {
      this.footer.textContent = `The list cannot be read: ${error.message}`;
    }
  }

  fits(lora) {
    const families = known.details.get(lora.id)?.families ?? [];
    return !this.family || !families.length || families.includes(this.family);
  }

  // `keep` leaves the place in the list as it is.
  filter(keep = false) {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fitting = (lora) => {
      const { trigger = "", title = "" } = known.details.get(lora.id) ?? {};
      const text = `${lora.id} ${lora.file} ${trigger} ${title}`.toLowerCase();
      return words.every((word) => text.includes(word));
    };
    this.shown = words.length ? known.loras.filter(fitting) : known.loras;
    if (!keep) this.at = words.length && this.shown.length ? 0 : this.shown.findIndex((lora) => lora.id === this.now);
    this.footer.textContent = this.said();
    if (!keep) this.list.scrollTop = Math.max(0, this.at - 2) * ROW;
    this.draw();
  }

  said() {
    if (!known.loras.length) return "There is no LoRA in the loras folders. Put .safetensors files there, then open this again.";
    const count = `${this.shown.length.toLocaleString("en")} of ${known.loras.length.toLocaleString("en")} LoRAs`;
    return `${count}. + adds one to those that are chosen. A picture beside the file (anna.png) is shown.`;
  }

  draw() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW) - SPARE);
    const count = Math.ceil(this.list.clientHeight / ROW) + 2 * SPARE;
    const seen = this.shown.slice(first, first + count);
    const space = element("div", "");
    space.style.height = `${this.shown.length * ROW}px`;
    this.list.replaceChildren(space, ...seen.map((lora, index) => this.row(lora, first + index)));
    this.want(seen);
  }

  row(lora, index) {
    const about = known.details.get(lora.id);
    const row = element("div", `row${index === this.at ? " at" : ""}${this.fits(lora) ? "" : " other"}`);
    row.style.top = `${index * ROW}px`;
    row.title = about?.error ?? (this.fits(lora) ? lora.file : `${lora.file} is for ${about.title}, the model is of another family.`);
    const text = element("div", "text");
    text.append(element("div", "id", lora.id), element("div", "about", this.about(lora, about)));
    const more = element("button", "add", "+");
    more.title = "Add to those that are chosen";
    more.onclick = (event) => (event.stopPropagation(), this.add(lora));
    row.append(this.picture(lora, about), text, more);
    row.onclick = () => this.pick(lora);
    return row;
  }

  about(lora, about) {
    if (!about) return lora.file;
    if (about.error) return about.error;
    return [about.title, about.trigger && `trigger: ${about.trigger}`, lora.file].filter(Boolean).join(" · ");
  }

  picture(lora, about) {
    if (!about?.picture) return element("div", "picture");
    const image = element("img", "picture");
    image.alt = "";
    image.src = api.apiURL(`/ryla/loras/picture?id=${encodeURIComponent(lora.id)}&v=${about.picture}`);
    return image;
  }

  // Ask for the details of these, a portion at a time, those in sight first.
  want(loras) {
    const missing = loras.map((lora) => lora.id).filter((id) => !known.details.has(id));
    this.wanted = new Set([...missing, ...(known.loras.length <= ALL_KNOWN ? this.wanted : [])]);
    if (!this.asking) this.fetchDetails();
  }

  async fetchDetails() {
    this.asking = true;
    while (this.wanted.size && this.dialog.open) {
      const ids = [...this.wanted].slice(0, PORTION);
      try {
        for (const [id, about] of Object.entries(await ask("/ryla/loras/details", { ids }))) known.details.set(id, about);
      } catch {
        break; // The server is gone; what is known stays shown.
      }
      for (const id of ids) this.wanted.delete(id);
      this.filter(true); // A trigger word may match what is searched for.
    }
    this.asking = false;
  }

  key(event) {
    event.stopPropagation(); // The editor's own keys rest meanwhile.
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      this.at = Math.min(this.shown.length - 1, Math.max(0, this.at + step));
      const top = this.at * ROW;
      if (top < this.list.scrollTop) this.list.scrollTop = top;
      if (top + ROW > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + ROW - this.list.clientHeight;
      this.draw();
    } else if (event.key === "Enter" && event.target === this.search) {
      if (this.shown[this.at]) this.pick(this.shown[this.at]);
      else if (this.search.value.trim()) this.finish(this.search.value.trim()); // An id that is not in the list.
    }
  }

  pick(lora) {
    if (this.fits(lora)) this.finish(lora.id);
  }

  add(lora) {
    if (this.fits(lora)) this.finish(this.now.trim() ? `${this.now.trim()}+${lora.id}` : lora.id);
  }

  finish(value) {
    this.dialog.close();
    this.take(value);
  }
}

// Open the list. `now` is the present lora_id, `family` the model's or "", `take` gets what is chosen.
export function choose(options) {
  return new LoraList(options);
}
