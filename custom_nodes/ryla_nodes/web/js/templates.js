// Our templates in the order of their numbers, the simplest first: ComfyUI lists files as the disk happens to have them.
import { api } from "../../../scripts/api.js";

const here = import.meta.url;
const pack = decodeURIComponent(new URL(here).pathname.split("/").at(-3));
const listed = api.getWorkflowTemplates.bind(api);

api.getWorkflowTemplates = async () => {
  const packs = await listed();
  packs[pack]?.sort();
  return packs;
};
