// A fake iPhone and a fake Android of whoever is signed in: registered as an app would, shown by the sandbox.

import {backoff} from "./notifier.js";
import {session} from "./session.js";

const APPLE_DIGITS = 64;
const FOLDED = "glimpse.phones";  // in localStorage: "folded"

/** What the phones of a person are called: the same at every visit, and nobody else's. */
export function tokens(id) {
  const digits = [...new TextEncoder().encode(id)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return {apns: `de31${digits}`.padEnd(APPLE_DIGITS, "0"), fcm: `glimpse:${id}`};
}

export class Phones {
  #aside; #frame; #toggle; #attempt = null; #again = null;

  constructor() {
    this.#aside = document.getElementById("phones");
    this.#frame = this.#aside.querySelector("iframe");
    this.#toggle = document.getElementById("fold");
    this.#toggle.addEventListener("click", () => this.#fold(!this.#folded));
    let kept = null;
    try { kept = localStorage.getItem(FOLDED); } catch { /* then they are open */ }
    this.#fold(kept === "folded");
  }

  /** The phones are this person's now. Not at all where the site names no sandbox. */
  async open(site, tries = 0) {
    this.close();
    if (!site.sandbox || !site.api) return;
    const attempt = this.#attempt = {};
    const {id, name} = session.me;
    try {
      await Promise.all(Object.entries(tokens(id)).map(([platform, token]) => register(site, platform, token)));
      if (attempt === this.#attempt) this.#show(site.sandbox, name, Object.values(tokens(id)));
    } catch (fault) {
      if (attempt !== this.#attempt) return;
      console.warn(`The phones of ${name} are not registered yet: ${fault.message}`);
      this.#again = setTimeout(() => this.open(site, tries + 1), backoff(tries));
    }
  }

  /** Shows them no more; their owner keeps them. */
  close() {
    clearTimeout(this.#again);
    this.#attempt = null;
    this.#aside.hidden = true;
    this.#frame.removeAttribute("src");
    delete document.body.dataset.phones;
  }

  #show(sandbox, name, named) {
    this.#frame.title = `The phones of ${name}`;
    this.#frame.src = `${sandbox}?${new URLSearchParams({tokens: named.join(",")})}`;
    this.#aside.hidden = false;
    document.body.dataset.phones = this.#folded ? "folded" : "open";
  }

  get #folded() { return this.#toggle.getAttribute("aria-expanded") === "false"; }

  #fold(folded) {
    this.#toggle.setAttribute("aria-expanded", String(!folded));
    document.getElementById("phones-shown").hidden = folded;
    if (!this.#aside.hidden) document.body.dataset.phones = folded ? "folded" : "open";
    try { localStorage.setItem(FOLDED, folded ? "folded" : "open"); } catch { /* until the page is left */ }
  }
}

async function register({api, app = "demo"}, platform, token) {
  const answer = await fetch(`${api}/v1/devices/${encodeURIComponent(token)}`, {
    method: "PUT",
    headers: {"Authorization": `Bearer ${session.token}`, "Content-Type": "application/json"},
    body: JSON.stringify({platform, app, locale: navigator.language ?? ""}),
    signal: AbortSignal.timeout(10_000),
  });
  if (!answer.ok) throw new Error(`the answer was ${answer.status}`);
}
