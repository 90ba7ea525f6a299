import { serve } from "./http.js";

export const handler = serve(async ({ method, url }) => ({
  headers: { "content-type": "text/plain" },
  body: `Hello from JavaScript! ${method} ${url}\n`,
}));
