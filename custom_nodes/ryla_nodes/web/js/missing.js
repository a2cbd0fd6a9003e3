// Before a graph with RYLA nodes is queued: everything that it lacks, in one dialog with one command to paste.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const STYLE = `
.ryla-missing { width: min(760px, 92vw); max-height: 86vh; padding: 0; border-radius: 8px; font: 14px/1.45 sans-serif;
  color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #222); border: 1px solid var(--border-color, #555); }
.ryla-missing[open] { display: flex; flex-direction: column; }
.ryla-missing::backdrop { background: rgba(0, 0, 0, 0.5); }
.ryla-missing h2 { font-size: 18px; margin: 0; padding: 16px 20px 4px; }
.ryla-missing p { margin: 0; padding: 0 20px 8px; flex: none; }
.ryla-missing ul + p { padding-top: 10px; border-top: 1px solid var(--border-color, #555); }
.ryla-missing ul { margin: 0; padding: 0 20px; overflow: auto; list-style: none; user-select: text; flex: 1 1 auto; }
.ryla-missing li { padding: 6px 0; border-top: 1px solid var(--border-color, #555); overflow-wrap: anywhere; }
.ryla-missing small { display: block; opacity: 0.75; font-size: 12px; }
.ryla-missing a { color: inherit; }
.ryla-missing pre { margin: 0 20px 8px; padding: 10px; border-radius: 6px; font: 12px/1.5 monospace; user-select: text;
  white-space: pre-wrap; overflow-wrap: anywhere; background: var(--comfy-input-bg, #111); max-height: 22vh; overflow: auto; flex: none; }
.ryla-missing footer { display: flex; gap: 8px; justify-content: flex-end; padding: 8px 20px 16px; }
.ryla-missing button { padding: 6px 14px; border-radius: 6px; cursor: pointer; font: inherit; color: inherit;
  background: var(--comfy-input-bg, #333); border: 1px solid var(--border-color, #555); }
.ryla-missing button.main { background: #1a6fd6; border-color: #1a6fd6; color: #fff; }`;

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function bytes(count) {
  if (!count) return "size unknown";
  const [unit, scale] = count >= 1e9 ? ["GB", 1e9] : ["MB", 1e6];
  return `${(count / scale).toFixed(count >= 1e10 || unit === "MB" ? 0 : 1)} ${unit}`;
}

function modelItem(model) {
  const link = element("a", model.licence);
  Object.assign(link, { href: model.licence_url, target: "_blank", rel: "noopener" });
  const gate = model.gated ? " (gated: accept it there first, and set HF_TOKEN)" : "";
  return element("li", "", element("b", model.what), ` for ${model.nodes.join(", ")}`,
    element("small", `${model.file}, ${bytes(model.size)}, licence: `, link, gate),
    element("small", `searched: ${model.searched.join(", ") || "no folder is known"}`));
}

function faultItem(fault) {
  const item = element("li", "", element("b", fault.nodes.join(", ")), element("small", fault.message));
  if (fault.hint) item.append(element("small", `Next: ${fault.hint}`));
  return item;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP from another machine a page has no clipboard.
    const area = element("textarea", text);
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
}

function title(report) {
  const count = report.models.length + report.faults.length;
  return `${count === 1 ? "One thing is" : `${count} things are`} needed before this workflow can run`;
}

function advice(report) {
  if (!report.commands.length) return "Then press Run again.";
  const total = report.models.reduce((sum, model) => sum + (model.size ?? 0), 0);
  const all = report.commands.length > 1 ? "Paste these lines, one after the other, into" : "Paste this into";
  return `${all} a terminal${total ? ` (${bytes(total)} to download)` : ""}, then press Run again. No restart is needed.`;
}

// Resolves to whether to queue it all the same.
function ask(report) {
  return new Promise((resolve) => {
    const dialog = element("dialog");
    dialog.className = "ryla-missing";
    dialog.setAttribute("role", "dialog");
    const list = element("ul", "", ...report.faults.map(faultItem), ...report.models.map(modelItem));
    const anyway = element("button", "Run anyway");
    const close = element("button", "Close");
    const footer = element("footer", "", anyway, close);
    dialog.append(element("h2", title(report)), element("p", "Nothing was queued."), list, element("p", advice(report)));
    if (report.commands.length) {
      const commands = report.commands.join("\n");
      const button = element("button", "Copy command");
      button.className = "main";
      button.onclick = () => copy(commands, button);
      dialog.append(element("pre", commands));
      footer.append(button);
    }
    if (report.runs) anyway.title = "What needs none of this is run.";
    dialog.append(footer);
    document.body.append(dialog);
    const end = (answer) => { dialog.remove(); resolve(answer); };
    anyway.onclick = () => end(true);
    close.onclick = () => end(false);
    dialog.oncancel = () => end(false);
    dialog.addEventListener("keydown", (event) => event.stopPropagation());
    dialog.showModal();
  });
}

async function missing(targets) {
  const { output } = await app.graphToPrompt();
  if (!Object.values(output).some((node) => node.class_type?.startsWith("RYLA_"))) return null;
  const body = JSON.stringify({ prompt: output, partial_execution_targets: targets ?? null });
  const answer = await api.fetchApi("/ryla/missing", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  return answer.ok ? answer.json() : null;
}

app.registerExtension({
  name: "ryla.missing",
  setup() {
    document.head.append(element("style", STYLE));
    const queue = app.queuePrompt;
    let asking = false;
    app.queuePrompt = async function (...given) {
      if (asking) return false;
      const targets = Array.isArray(given[2]) ? given[2] : given[2]?.queueNodeIds;
      const report = await missing(targets).catch(() => null);
      if (report) {
        asking = true;
        const anyway = await ask(report).finally(() => { asking = false; });
        if (!anyway) return false;
      }
      return queue.apply(this, given);
    };
  },
});
