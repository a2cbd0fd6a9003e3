// The request of the form as a program: curl, Python, JavaScript.

import { token } from "./api.js";
import { byId } from "./dom.js";

const WRITERS = { curl, python, javascript };
const SECRET = "RYLA_TOKEN";

/** Keep the shown program true; call the returned function after each change of the form. */
export function snippets(form) {
  const chosen = () => document.querySelector("input[name=language]:checked").value;
  const show = () => {
    byId("snippet").textContent = WRITERS[chosen()](requestOf(form));
    byId("copied").textContent = "";
  };
  document.querySelectorAll("input[name=language]").forEach((each) => each.addEventListener("change", show));
  byId("copy").addEventListener("click", copy);
  return show;
}

async function copy() {
  const code = byId("snippet");
  getSelection().selectAllChildren(code);
  try {
    await navigator.clipboard.writeText(code.textContent);
    byId("copied").textContent = "Copied.";
  } catch {
    // Only pages of this machine and of https may use the clipboard: then the text is marked.
    byId("copied").textContent = "Marked: press Ctrl-C.";
  }
}

/** What the programs send: `texts` as `[name, text, code]`, `photos` as `[name, file name]`. */
function requestOf(form) {
  const types = Object.fromEntries(form.workflow.parameters.map(({ name, type }) => [name, type]));
  const given = form.values();
  const photos = form.workflow.parameters.filter(({ type }) => type === "image").map(({ name }) => [name, given.find(([each]) => each === name)?.[1]?.name ?? "photo.jpg"]);
  const texts = given.filter(([name]) => types[name] !== "image").map(([name, value]) => [name, value, literal(types[name], value)]);
  const format = given.find(([name]) => name === "format")?.[1] ?? form.workflow.parameters.find(({ name }) => name === "format")?.default ?? "jpeg";
  const file = `picture.${format === "jpeg" ? "jpg" : format}`;
  const url = new URL(encodeURIComponent(form.workflow.name), document.baseURI).href;
  return { url, photos, texts, file, secret: Boolean(token()) };
}

/** How a value stands in a program: text in quotes, numbers and truth values as they are. */
function literal(type, value) {
  if (type === "bool") return value;
  if (["int", "float"].includes(type)) return String(Number(value));
  // A seed stays digits, less the zeros in front, which JSON forbids.
  return type === "seed" && /^\d+$/.test(value) ? value.replace(/^0+(?=\d)/, "") : JSON.stringify(value);
}

function object(texts, words = {}) {
  return `{${texts.map(([name, , code]) => `"${name}": ${words[code] ?? code}`).join(", ")}}`;
}

function curl({ url, photos, texts, file, secret }) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const login = secret ? [`-H "Authorization: Bearer $${SECRET}"`] : [];
  const body = photos.length
    ? [...texts.map(([name, value]) => `--form-string ${quote(`${name}=${value}`)}`), ...photos.map(([name, path]) => `-F ${quote(`${name}=@"${path.replaceAll(/["\\]/g, "\\$&")}"`)}`)]
    : ["-H 'Content-Type: application/json'", `-d ${quote(object(texts))}`];
  return ["curl -sS --fail-with-body", ...login, ...body, `-o ${file} ${url}`].join(" \\\n  ");
}

function python({ url, photos, texts, file, secret }) {
  const login = secret ? [`    headers={"Authorization": f"Bearer {os.environ['${SECRET}']}"},`] : [];
  const values = object(texts, { true: "True", false: "False" });
  const files = photos.map(([name, path]) => `"${name}": open(${JSON.stringify(path)}, "rb")`).join(", ");
  const body = photos.length ? [`    data=${values},`, `    files={${files}},`] : [`    json=${values},`];
  return [
    ...(secret ? ["import os", ""] : []), "import httpx", "", "answer = httpx.post(", `    "${url}",`, ...login, ...body, "    timeout=600,", ")",
    "answer.raise_for_status()", `open("${file}", "wb").write(answer.content)`, 'print(answer.headers["x-seed"])',
  ].join("\n");
}

function javascript({ url, photos, texts, file, secret }) {
  const login = secret ? `Authorization: \`Bearer \${process.env.${SECRET}}\`` : "";
  // Numbers go as text: one of JavaScript holds no large seed.
  const form = [
    "const form = new FormData();",
    ...texts.map(([name, value]) => `form.set("${name}", ${JSON.stringify(value)});`),
    ...photos.map(([name, path]) => `form.set("${name}", new Blob([await readFile(${JSON.stringify(path)})]), ${JSON.stringify(path)});`),
  ];
  const headers = login ? `, headers: { ${login} }` : "";
  return [
    `import { ${photos.length ? "readFile, " : ""}writeFile } from "node:fs/promises";`, "", ...form,
    `const answer = await fetch("${url}", { method: "POST", body: form${headers} });`,
    "if (!answer.ok) throw new Error(await answer.text());",
    `await writeFile("${file}", Buffer.from(await answer.arrayBuffer()));`, 'console.log(answer.headers.get("x-seed"));',
  ].join("\n");
}
