// The page at "/docs": Swagger UI over this gateway's own description.

import { token } from "./api.js";
import { getWithLogin } from "./login.js";

function withToken(request) {
  if (token()) request.headers.Authorization = `Bearer ${token()}`;
  return request;
}

function followSystem(dark) {
  document.documentElement.classList.toggle("dark-mode", dark.matches);
}

const dark = matchMedia("(prefers-color-scheme: dark)");
followSystem(dark);
dark.addEventListener("change", followSystem);
await getWithLogin("workflows");
window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  requestInterceptor: withToken,
  validatorUrl: null, // It would be a request to another host.
});
