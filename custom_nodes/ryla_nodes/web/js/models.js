// A graph that is opened: the editor's own list of missing models tells what our nodes lack, "auto" included. The server
// searches as a run does, so a variant that is there is no alarm.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const MARK = "ryla_missing "; // Names of widgets that stand for a missing file.
let opened = null;

// Later editors look for missing files in the nodes' lists, and only there; 0.3.64 in the graph's list.
const looksAtNodes = () => typeof app.refreshMissingModels === "function";
const isOurs = (node) => node.type?.startsWith("RYLA_");

async function ask(nodes, models) {
  const body = JSON.stringify({ nodes, models: models ?? [] });
  const answer = await api.fetchApi("/ryla/models", { method: "POST", body, headers: { "Content-Type": "application/json" } });
  if (!answer.ok) throw new Error(`/ryla/models: ${answer.status}`);
  return answer.json();
}

function savedNodes(graph) {
  const levels = [graph, ...(graph.definitions?.subgraphs ?? [])];
  return levels.flatMap((level) => level.nodes ?? []).filter(isOurs);
}

function shownNodes() {
  const root = app.rootGraph ?? app.graph;
  return [root, ...(root.subgraphs?.values() ?? [])].flatMap((graph) => graph.nodes).filter(isOurs);
}

function values(node) {
  return (node.widgets ?? []).filter((widget) => widget.serialize !== false).map((widget) => widget.value);
}

// One hidden list without choices for each file that is missing: the editor tells it as it tells any other.
function mark(node, files) {
  const rest = (node.widgets ?? []).filter((widget) => !widget.name.startsWith(MARK));
  if (rest.length !== (node.widgets ?? []).length) node.widgets = rest;
  const size = [...node.size]; // A new widget makes room for itself.
  for (const { name } of files) {
    if (rest.some((widget) => widget.value === name)) continue; // It is told of the list that names it.
    const options = { values: [], serialize: false, hidden: true };
    Object.assign(node.addWidget("combo", MARK + name, name, () => {}, options), { hidden: true, serialize: false });
  }
  node.setSize(size);
}

// Mark what our nodes lack now; the list of models that goes with it.
async function update(models) {
  const nodes = shownNodes();
  if (!nodes.length) return models;
  const answer = await ask(nodes.map((node) => ({ type: node.type, values: values(node) })), models);
  nodes.forEach((node, index) => mark(node, answer.files[index]));
  return [...answer.models, ...answer.files.flat()];
}

app.registerExtension({
  name: "ryla.models",
  async beforeConfigureGraph(graph) {
    opened = graph;
    const nodes = savedNodes(graph);
    if (looksAtNodes() || !nodes.length) return;
    const answer = await ask(nodes.map((node) => ({ type: node.type, values: node.widgets_values })), graph.models);
    graph.models = answer.models;
  },
  async afterConfigureGraph() {
    if (looksAtNodes()) opened.models = await update(opened.models);
  },
  async refreshComboInNodes() {
    if (looksAtNodes()) await update();
  },
});
