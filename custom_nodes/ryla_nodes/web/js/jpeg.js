// A JPEG of RYLA's Save Image gives its graph back when it is dropped or opened: the editor itself reads PNG and WebP.

import { app } from "../../../scripts/app.js";

const [EXIF, MORE] = [0xe1, 0xef]; // Kinds of segments: EXIF, and what did not fit into it.
const [END, PICTURE] = [0xd9, 0xda];
const TEXT = 2; // EXIF's type of plain text.

function text(view, start, length) {
  return new TextDecoder().decode(new Uint8Array(view.buffer, start, length));
}

function* segments(view) {
  for (let at = 2; at + 4 <= view.byteLength && view.getUint8(at) === 0xff; at += 2 + view.getUint16(at + 2)) {
    const kind = view.getUint8(at + 1);
    if (kind === END || kind === PICTURE) return;
    yield { kind, start: at + 4, length: view.getUint16(at + 2) - 2 };
  }
}

// Every plain text of the first directory.
function* exifTexts(view, start) {
  const little = view.getUint16(start) === 0x4949;
  const directory = start + view.getUint32(start + 4, little);
  for (let entry = directory + 2; entry < directory + 2 + 12 * view.getUint16(directory, little); entry += 12) {
    const length = view.getUint32(entry + 4, little);
    if (view.getUint16(entry + 2, little) !== TEXT) continue;
    const at = length > 4 ? start + view.getUint32(entry + 8, little) : entry + 8;
    yield text(view, at, length).replace(/\0+$/, "");
  }
}

// {prompt: "...", workflow: "..."}: what is written as "name:json".
export function textsOf(buffer) {
  const view = new DataView(buffer);
  const found = [];
  let more = "";
  if (view.byteLength > 4 && view.getUint16(0) === 0xffd8) {
    for (const { kind, start, length } of segments(view)) {
      if (kind === EXIF && text(view, start, 4) === "Exif") found.push(...exifTexts(view, start + 6));
      if (kind === MORE && text(view, start, 4) === "RYLA") more += text(view, start + 5, length - 5);
    }
  }
  return Object.fromEntries(
    [...found, ...more.split("\0")].map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1)]),
  );
}

// The graph of a JPEG as a JSON file, which the editor knows how to open; null when it holds none.
async function graphOf(file) {
  if (file?.type !== "image/jpeg") return null;
  try {
    const { workflow, prompt } = textsOf(await file.arrayBuffer());
    const json = workflow ?? prompt;
    if (typeof JSON.parse(json ?? "null") !== "object") return null;
    return json ? new File([json], `${file.name.replace(/\.\w+$/, "")}.json`, { type: "application/json" }) : null;
  } catch {
    return null; // Cut, or of another program.
  }
}

app.registerExtension({
  name: "ryla.jpeg",
  setup() {
    const handleFile = app.handleFile;
    app.handleFile = async function (file, ...rest) {
      return handleFile.call(this, (await graphOf(file)) ?? file, ...rest);
    };
    const chooser = document.getElementById("comfy-file-input");
    if (chooser) chooser.accept += ",.jpg,.jpeg,image/jpeg";
  },
});
