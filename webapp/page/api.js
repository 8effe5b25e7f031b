// The photo API, as promises: answers as objects, refusals as Problems with a text for the person.

const PATIENCE = 20_000;         // ms for an answer
const UPLOAD_PATIENCE = 120_000; // ms, also with a slow line

const FRIENDLY = [
  [(status) => status === 0, "We cannot reach Glimpse. Check your connection and try again."],
  [(status) => status === 401, "Please log in again."],
  [(status) => status === 404, "This is not here any more."],
  [(status) => status === 413, "That is more than Glimpse can take."],
  [(status) => status >= 500, "Something broke on our side. Your things are safe; try again in a moment."],
];

/** What the API refused, or that it did not answer (status 0). `message` is for the person, `fields` by name too. */
export class Problem extends Error {
  constructor(status, said = {}, wait = null) {
    const known = FRIENDLY.find(([applies]) => applies(status))?.[1];
    super(status === 429 ? tooQuick(wait) : (status >= 400 && status < 500 && said.detail) || known || said.title || "That did not work.");
    this.name = "Problem";
    this.status = status;
    this.wait = wait;
    this.fields = Object.fromEntries((said.errors ?? []).map(({path, message}) => [field(path), message]));
  }
}

const tooQuick = (wait) => `That was a bit quick. Try again in ${wait === null || wait > 90 ? "a while" : `${wait} s`}.`;
const field = (path) => String(Array.isArray(path) ? path.at(-1) : path).split(/[./]/).at(-1);

export class Api {
  #token; #ended;

  /** `token()`: of who is signed in, or null. `ended()`: it is not taken any more. */
  constructor(token, ended) {
    [this.#token, this.#ended] = [token, ended];
  }

  get(path, {signal} = {}) { return this.#send("GET", path, {signal}); }
  put(path, body) { return this.#send("PUT", path, {body}); }
  post(path, body) { return this.#send("POST", path, {body}); }
  patch(path, body) { return this.#send("PATCH", path, {body}); }
  delete(path) { return this.#send("DELETE", path); }

  async #send(method, path, {body, signal} = {}) {
    const token = this.#token();
    const headers = token === null ? {} : {Authorization: `Bearer ${token}`};
    if (body !== undefined && !(body instanceof FormData)) {
      headers["Content-Type"] = "application/json";
      body = JSON.stringify(body);
    }
    const patience = AbortSignal.timeout(PATIENCE);
    let answer;
    let text;
    try {
      answer = await fetch(path, {method, headers, body, signal: signal ? AbortSignal.any([signal, patience]) : patience});
      text = await answer.text();
    } catch (fault) {
      if (signal?.aborted) throw fault;
      throw new Problem(0);
    }
    return this.#taken(answer.status, text, answer.headers.get("Retry-After"), token);
  }

  #taken(status, text, retryAfter, token) {
    const said = parsed(text);
    if (status >= 200 && status < 300) return said;
    // Wrong words at the log-in are a 401, too: only a token that was sent can have ended.
    if (status === 401 && token !== null && token === this.#token()) this.#ended();
    throw new Problem(status, said ?? {}, retryAfter === null ? null : Number(retryAfter) || null);
  }

  /**
   * Sends a form and tells how far it is. Not fetch: that does not report what has been sent.
   * `progress(part)`: 0 to 1. `signal` gives up: the promise rejects with an AbortError.
   */
  upload(method, path, form, {progress = () => {}, signal} = {}) {
    const token = this.#token();
    return new Promise((done, failed) => {
      const request = new XMLHttpRequest();
      request.open(method, path);
      request.timeout = UPLOAD_PATIENCE;
      if (token !== null) request.setRequestHeader("Authorization", `Bearer ${token}`);
      request.upload.onprogress = ({loaded, total}) => progress(total > 0 ? loaded / total : 0);
      request.upload.onload = () => progress(1);
      request.onload = () => {
        try {
          done(this.#taken(request.status, request.responseText, request.getResponseHeader("Retry-After"), token));
        } catch (fault) {
          failed(fault);
        }
      };
      request.onerror = request.ontimeout = () => failed(new Problem(0));
      request.onabort = () => failed(new DOMException("given up", "AbortError"));
      signal?.addEventListener("abort", () => request.abort());
      request.send(form);
    });
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;                 // 204, or a proxy's page: the status says it
  }
}
