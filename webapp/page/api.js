// The photo API, as promises: answers as objects, refusals as Problems with a text for the person.

const PATIENCE = 20_000;         // ms for an answer
const UPLOAD_PATIENCE = 120_000; // ms in which nothing more is sent, or for the answer to what has been

const TURNS = 8;                 // times that a request is sent while the same one is still at work

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
    const known = said.type?.endsWith(":wrong-credentials") ? `${said.title}.` : FRIENDLY.find(([applies]) => applies(status))?.[1];
    super(status === 429 ? tooQuick(wait) : (status >= 400 && status < 500 && said.detail) || known || said.title || "That did not work.");
    this.name = "Problem";
    this.status = status;
    this.type = String(said.type ?? "").split(":").at(-1);
    this.wait = wait;
    this.fields = Object.fromEntries((said.errors ?? []).map(({path, message}) => [field(path), message]));
  }
}

const tooQuick = (wait) => `That was a bit quick. Try again in ${wait === null || wait > 90 ? "a while" : `${wait} s`}.`;
const field = (path) => String(Array.isArray(path) ? path.at(-1) : path).split(/[./]/).at(-1);

/** A name for what is sent: sent once more under it, it is done once. */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Api {
  #token; #renewed; #uploadPatience;

  /**
   * `token()`: of who is signed in, or null. `renewed(token, {wanted})`: it is not taken any more; a promise of whether
   * there is another one now. `wanted`: the person has done something, and waits for it.
   */
  constructor(token, renewed, {uploadPatience = UPLOAD_PATIENCE} = {}) {
    [this.#token, this.#renewed, this.#uploadPatience] = [token, renewed, uploadPatience];
  }

  get(path, {signal} = {}) { return this.#send("GET", path, {signal}); }
  put(path, body) { return this.#send("PUT", path, {body}); }
  /** `key`: as `newKey` gives one. `open`: for the door, which asks for no token. */
  post(path, body, {key, open} = {}) { return this.#send("POST", path, {body, key, open}); }
  patch(path, body) { return this.#send("PATCH", path, {body}); }
  delete(path) { return this.#send("DELETE", path); }

  #send(method, path, {body, signal, key, open = false} = {}) {
    const json = body === undefined ? undefined : JSON.stringify(body);
    return this.#taken(method, open, (token) => this.#fetch(method, path, {
      ...(token === null ? {} : {Authorization: `Bearer ${token}`}),
      ...(json === undefined ? {} : {"Content-Type": "application/json"}),
      ...(key === undefined ? {} : {"Idempotency-Key": `"${key}"`}),
    }, json, signal));
  }

  async #fetch(method, path, headers, body, signal) {
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
    return [answer.status, text, answer.headers.get("Retry-After")];
  }

  /** What `send(token)` is answered; with a new token where the old one has ended. */
  async #taken(method, open, send) {
    let renewed = false;
    for (let turn = 1; ; turn++) {
      const token = open ? null : this.#token();
      const [status, text, retryAfter] = await send(token);
      const said = parsed(text);
      if (status >= 200 && status < 300) return said;
      const problem = new Problem(status, said ?? {}, retryAfter === null ? null : Number(retryAfter) || null);
      if (problem.type === "in-progress" && turn < TURNS) {
        await new Promise((over) => { setTimeout(over, 1_000 * (problem.wait ?? 1)); });
      } else if (status === 401 && token !== null && !renewed) {
        // Wrong words at the door are a 401, too: only a token that was sent can have ended.
        renewed = await this.#renewed(token, {wanted: method !== "GET"});
        if (!renewed) throw new Problem(status);
      } else {
        throw problem;
      }
    }
  }

  /**
   * Sends a form and tells how far it is. Not fetch: that does not report what has been sent.
   * `progress(part)`: 0 to 1. `signal` gives up: the promise rejects with an AbortError. `key`: as `newKey` gives one.
   */
  upload(method, path, form, {progress = () => {}, signal, key} = {}) {
    return this.#taken(method, false, (token) => {
      if (signal?.aborted) throw new DOMException("given up", "AbortError");
      return this.#transfer(method, path, form, {progress, signal, key, token});
    });
  }

  #transfer(method, path, form, {progress, signal, key, token}) {
    return new Promise((done, failed) => {
      const request = new XMLHttpRequest();
      request.open(method, path);
      const begun = performance.now();
      // Counted from the beginning, whenever it is set: over a slow line a photo takes as long as it takes.
      const wait = () => { request.timeout = performance.now() - begun + this.#uploadPatience; };
      if (token !== null) request.setRequestHeader("Authorization", `Bearer ${token}`);
      if (key !== undefined) request.setRequestHeader("Idempotency-Key", `"${key}"`);
      request.upload.onprogress = ({loaded, total}) => {
        wait();
        progress(total > 0 ? loaded / total : 0);
      };
      request.upload.onload = () => {
        wait();
        progress(1);
      };
      request.onload = () => done([request.status, request.responseText, request.getResponseHeader("Retry-After")]);
      request.onerror = request.ontimeout = () => failed(new Problem(0));
      request.onabort = () => failed(new DOMException("given up", "AbortError"));
      signal?.addEventListener("abort", () => request.abort());
      wait();
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
