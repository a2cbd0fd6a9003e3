// What a node reports (its `text` in the history) is shown on it, and on the stage that it is folded into. The editor
// itself shows texts of two core nodes only.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const NAME = "ryla_report";
const LINE = 15;
const PADDING = 12;
const MARGIN = 6; // Around the text's box.
const TALLEST = 150;
const LETTER = 6.2; // Mean width in pixels, to know how lines will wrap.

const STYLE = {
  boxSizing: "border-box",
  padding: "5px 8px",
  borderRadius: "6px",
  overflow: "auto",
  whiteSpace: "pre-wrap",
  overflowWrap: "anywhere",
  userSelect: "text",
  font: `11px/${LINE}px Inter, Arial, sans-serif`,
  color: "var(--input-text)",
  background: "var(--comfy-input-bg)",
};

function rows(text, width) {
  const letters = Math.max(20, (width - 40) / LETTER);
  return text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / letters)), 0);
}

function addReport(node) {
  const element = document.createElement("div");
  Object.assign(element.style, STYLE);
  element.className = "ryla-report";
  const height = () => Math.min(TALLEST, rows(element.textContent, node.size[0]) * LINE + PADDING) + 2 * MARGIN;
  const widget = node.addDOMWidget(NAME, NAME, element, {
    serialize: false, // Not in the prompt.
    hideOnZoom: false,
    margin: MARGIN,
    getValue: () => element.textContent,
    setValue: () => {},
    getMinHeight: height,
    getMaxHeight: height,
  });
  widget.serialize = false; // Not in the saved workflow.
  return widget;
}

function reportOf(node) {
  return node.widgets?.find((widget) => widget.name === NAME);
}

function show(node, output) {
  write(node, (output?.text ?? []).join("\n"));
  const folded = node.graph;
  for (const stage of everyNode().filter((each) => each.subgraph && each.subgraph === folded)) {
    const told = folded.nodes.map((each) => [each.title, reportOf(each)?.element.textContent]).filter(([, text]) => text);
    write(stage, told.map(([title, text]) => `${title}: ${text}`).join("\n"));
  }
}

function write(node, text) {
  const known = reportOf(node);
  if (!text && !known) return;
  const widget = known ?? addReport(node);
  widget.element.textContent = text;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  node.setDirtyCanvas(true, true);
}

function everyNode() {
  const root = app.rootGraph ?? app.graph;
  return [root, ...(root.subgraphs?.values() ?? [])].flatMap((graph) => graph.nodes);
}

function isOurs(type) {
  return type?.startsWith("RYLA_");
}

// "7" is a node of the graph, "<id of a subgraph>:7" one of a subgraph.
function nodeAt(locator) {
  const root = app.rootGraph ?? app.graph;
  const [id, subgraph] = locator.split(":").reverse();
  const graph = subgraph ? root.subgraphs?.get(subgraph) : root;
  return graph?.getNodeById(Number.isNaN(Number(id)) ? id : Number(id));
}

// "7" is a node of the graph, "3:7" one of the subgraph that is node 3.
function nodeOf(executionId) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const id of executionId.split(":")) {
    node = graph?.getNodeById(Number.isNaN(Number(id)) ? id : Number(id));
    graph = node?.subgraph;
  }
  return node;
}

// Its pictures are shown, too, and both again when the workflow's tab is opened again.
function keep(id, output) {
  const workflow = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  if (workflow) workflow.nodeOutputs = { [id]: output, ...workflow.nodeOutputs };
  app.nodeOutputs[id] ??= output;
}

// ComfyUI 0.3.64 sends nothing of a node whose result was kept: its report is in the job's history.
async function catchUp(job) {
  const answer = await api.fetchApi(`/history/${job}`);
  const { prompt, outputs = {} } = (await answer.json())[job] ?? {};
  for (const [id, output] of Object.entries(outputs)) {
    const node = nodeOf(id);
    const same = isOurs(node?.type) && prompt?.[2]?.[id]?.class_type === node.type;
    if (!same || !output?.text || reportOf(node)) continue;
    keep(id, output);
    show(node, output);
  }
}

app.registerExtension({
  name: "ryla.reports",
  setup() {
    let job = null;
    api.addEventListener("execution_start", ({ detail }) => {
      job = detail.prompt_id;
    });
    api.addEventListener("executing", ({ detail }) => {
      if (job && !(detail?.node ?? detail)) catchUp(job).catch(() => {}); // The server may be gone.
    });
  },
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!isOurs(nodeData.name)) return;
    const onExecuted = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      show(this, output);
    };
  },
  // When a workflow's tab is opened again, or a job is loaded from the history.
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs)) {
      const node = nodeAt(locator);
      if (isOurs(node?.type)) show(node, output);
    }
  },
});
