// Character LoRA: a list to choose its lora_id from. The input stays a text, so ids can be typed, linked and joined.

import { app } from "../../../scripts/app.js";
import { choose, prepare, refresh } from "./lora_list.js";

const NODE = "RYLA_LoraLoader";
const BUTTON = "choose_lora";
const FAMILIES = { RYLA_FluxLoader: "flux", RYLA_SDXLLoader: "sdxl" };
const FARTHEST = 50; // Nodes between the LoRA and the loader.

// The family of the model that comes into a node, "" when the graph does not tell.
function modelFamily(node) {
  for (let steps = 0; node && steps < FARTHEST; steps++) {
    if (FAMILIES[node.type]) return FAMILIES[node.type];
    const slot = node.type === "Reroute" ? 0 : (node.inputs ?? []).findIndex((input) => input.type === "MODEL");
    node = slot < 0 ? null : node.getInputNode?.(slot);
  }
  return "";
}

function write(node, widget, value) {
  app.canvas.emitBeforeChange?.();
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  app.canvas.emitAfterChange?.(); // For undo, and for the mark of what is not saved.
  node.setDirtyCanvas(true, true);
}

function addButton(node) {
  const widget = node.widgets?.find((each) => each.name === "lora_id");
  if (!widget || node.widgets.some((each) => each.name === BUTTON)) return;
  const open = () => choose({ now: widget.value, family: modelFamily(node), take: (id) => write(node, widget, id) });
  const button = node.addWidget("button", BUTTON, null, open, { serialize: false });
  button.label = "Choose a LoRA ...";
  button.serialize = false;
  prepare();
}

app.registerExtension({
  name: "ryla.loras",
  nodeCreated(node) {
    if (node.comfyClass === NODE || node.type === NODE) addButton(node);
  },
  refreshComboInNodes: refresh,
});
