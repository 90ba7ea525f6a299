// A small door to wasi:http: what a handler of src/index.js gets and gives, and what becomes of it.

import types from "wasi:http/types@0.3.0";

/**
 * What a handler gets, and what it gives.
 *
 * @typedef {Object} Request
 * @property {string} method
 * @property {string} url
 * @property {[string, string][]} headers
 *
 * @typedef {Object} Answer
 * @property {number} [status]
 * @property {Record<string, string>} [headers]
 * @property {string | Uint8Array} [body]
 */

/**
 * The function that the world exports, made of one that answers a request.
 *
 * @param {(request: Request) => Answer | Promise<Answer>} answer
 */
export function serve(answer) {
  return {
    async handle(incoming) {
      const { Fields, Response } = types;
      const { status = 200, headers = {}, body = "" } = await answer(opened(incoming));
      const fields = Fields.fromList(Object.entries(headers).map(([name, value]) => [name, encode(value)]));
      const [response] = Response.new(fields, chunks(body), Promise.resolve({ tag: "ok", val: undefined }));
      if (status !== 200) response.setStatusCode(status);
      return response;
    },
  };
}

function opened(incoming) {
  const method = incoming.getMethod();
  return {
    method: method.tag === "other" ? method.val : method.tag.toUpperCase(),
    url: incoming.getPathWithQuery() ?? "/",
    headers: incoming.getHeaders().copyAll().map(([name, value]) => [name, decode(value)]),
  };
}

async function* chunks(body) {
  const bytes = typeof body === "string" ? encode(body) : body;
  if (bytes.length) yield bytes;
}

/** The UTF-8 of a text, and back; there is no TextEncoder in here. */
export function encode(text) {
  return Uint8Array.from(unescape(encodeURIComponent(text)), (char) => char.charCodeAt(0));
}

export function decode(bytes) {
  return decodeURIComponent(escape(String.fromCharCode(...bytes)));
}
