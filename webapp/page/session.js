// Who is signed in, in all tabs of this browser, and the API with their token.

import {Api} from "./api.js";

const KEPT = "glimpse";          // in localStorage: {token, person}

class Session extends EventTarget {
  token = null;
  /** The person as the API tells of them, or null. */
  me = null;
  /** What the site is made of: addresses and limits, from /api/site. */
  site = {};

  constructor() {
    super();
    this.api = new Api(() => this.token, () => this.leave("Your session has ended. Please log in again."));
    addEventListener("storage", ({key}) => {
      if (key !== null && key !== KEPT) return;
      const before = this.me?.id;
      this.restore();
      if (this.me?.id !== before) this.#changed("");
    });
  }

  /** Takes up what another visit or tab has kept. */
  restore() {
    let kept = null;
    try {
      kept = JSON.parse(localStorage.getItem(KEPT));
    } catch { /* not ours, or no storage: nobody is signed in */ }
    [this.token, this.me] = [kept?.token ?? null, kept?.person ?? null];
  }

  /** Signs in with what sign-up and log-in answer. */
  enter({token, person}) {
    [this.token, this.me] = [token, person];
    this.#keep();
    this.#changed("");
  }

  /** Signs out; `reason`: what to tell the person, if it was not their wish. */
  leave(reason = "") {
    if (this.token === null) return;
    this.token = this.me = null;
    try { localStorage.removeItem(KEPT); } catch { /* then nothing is kept */ }
    this.#changed(reason);
  }

  /** The person as they are now. */
  update(person) {
    this.me = {...this.me, ...person};
    this.#keep();
    this.dispatchEvent(new Event("person"));
  }

  #keep() {
    try {
      localStorage.setItem(KEPT, JSON.stringify({token: this.token, person: this.me}));
    } catch { /* private browsing: signed in until the page is left */ }
  }

  #changed(reason) {
    this.dispatchEvent(new CustomEvent("change", {detail: reason}));
  }
}

/** To the door, and back here afterwards. */
export function knock() {
  location.assign(`/login?${new URLSearchParams({next: location.pathname + location.search})}`);
}

export const session = new Session();
export const api = session.api;
