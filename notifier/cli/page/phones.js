// A fake iPhone and a fake Android of one person: registered through the API, shown by the demo's sandbox.

import {backoff} from "./notifier.js";

const APPLE_DIGITS = 64;

/** What the phones of a person are called: the same at every visit, and nobody else's. */
export function tokens(user) {
  const name = [...new TextEncoder().encode(user)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return {apns: `de30${name}`.padEnd(APPLE_DIGITS, "0"), fcm: `demo:${user}-of-the-demo`};
}

export class Phones {
  #frame; #attempt = null; #again = null;

  /** `frame`: the iframe to show them in; hidden until they are registered. */
  constructor(frame) { this.#frame = frame; }

  /** The phones are this person's now: `given` is what the page's server answered for a token. */
  async enlist(given, tries = 0) {
    this.leave();
    if (!given.sandbox) return;
    const attempt = this.#attempt = {};
    try {
      const named = tokens(given.user);
      await Promise.all(Object.entries(named).map(([platform, token]) => register(given, platform, token)));
      if (attempt === this.#attempt) this.#show(given, Object.values(named));
    } catch (fault) {
      if (attempt !== this.#attempt) return;
      console.warn(`notifier: the phones of ${given.user} are not registered yet: ${fault.message}`);
      this.#again = setTimeout(() => this.enlist(given, tries + 1), backoff(tries));
    }
  }

  /** Show them no more. Their owner keeps them. */
  leave() {
    clearTimeout(this.#again);
    this.#attempt = null;
    this.#frame.hidden = true;
    this.#frame.removeAttribute("src");
  }

  #show({user, sandbox}, named) {
    this.#frame.title = `Phones of ${user}`;
    this.#frame.src = `${sandbox}?${new URLSearchParams({tokens: named.join(",")})}`;
    this.#frame.hidden = false;
  }
}

async function register({api, token: bearer}, platform, token) {
  const answer = await fetch(`${api}/v1/devices/${encodeURIComponent(token)}`, {
    method: "PUT",
    headers: {"Authorization": `Bearer ${bearer}`, "Content-Type": "application/json"},
    body: JSON.stringify({platform, app: "demo", locale: navigator.language ?? ""}),
    signal: AbortSignal.timeout(10_000),
  });
  if (!answer.ok) throw new Error(`the answer was ${answer.status}`);
}
