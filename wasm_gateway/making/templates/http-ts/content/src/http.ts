// A small door to wasi:http: what a handler of src/index.ts gets and gives, and what becomes of it.

// @ts-ignore: the runtime has it
import types from "wasi:http/types@0.3.0";

export interface Request {
  method: string;
  url: string;
  headers: [string, string][];
}

export interface Answer {
  status?: number;
  headers?: Record<string, string>;
  body?: string | Uint8Array;
}

/** The function that the world exports, made of one that answers a request. */
export function serve(answer: (request: Request) => Answer | Promise<Answer>) {
  return {
    async handle(incoming: any) {
      const { Fields, Response } = types;
      const { status = 200, headers = {}, body = "" } = await answer(opened(incoming));
      const fields = Fields.fromList(Object.entries(headers).map(([name, value]) => [name, encode(value)]));
      const [response] = Response.new(fields, chunks(body), Promise.resolve({ tag: "ok", val: undefined }));
      if (status !== 200) response.setStatusCode(status);
      return response;
    },
  };
}

function opened(incoming: any): Request {
  const method = incoming.getMethod();
  return {
    method: method.tag === "other" ? method.val : method.tag.toUpperCase(),
    url: incoming.getPathWithQuery() ?? "/",
    headers: incoming.getHeaders().copyAll().map(([name, value]: [string, Uint8Array]) => [name, decode(value)]),
  };
}

async function* chunks(body: string | Uint8Array) {
  const bytes = typeof body === "string" ? encode(body) : body;
  if (bytes.length) yield bytes;
}

/** The UTF-8 of a text, and back; there is no TextEncoder in here. */
export function encode(text: string): Uint8Array {
  return Uint8Array.from(unescape(encodeURIComponent(text)), (char) => char.charCodeAt(0));
}

export function decode(bytes: Uint8Array): string {
  return decodeURIComponent(escape(String.fromCharCode(...bytes)));
}
