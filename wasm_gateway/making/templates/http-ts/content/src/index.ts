import { serve, type Answer, type Request } from "./http";

export const handler = serve(async ({ method, url }: Request): Promise<Answer> => ({
  headers: { "content-type": "text/plain" },
  body: `Hello from TypeScript! ${method} ${url}\n`,
}));
