// Who is signed in, in all tabs of this browser, and the API with their token, which is renewed before it ends.

import {Api} from "./api.js";

const KEPT = "glimpse";          // in localStorage: {token, ends, due, renewal, person}
const EARLY = 15 * 60_000;       // ms before its end in which a token is renewed; of a short life the last quarter
const AGAIN = 60_000;            // ms until that is tried once more
const SPREADS = 100;            // ms that what a tab writes takes to be there in all others

class Session extends EventTarget {
  token = null;
  /** The person as the API tells of them, or null. */
  me = null;
  /** What the site is made of: addresses and limits, from /api/site. */
  site = {};
  /** Asks the person to log in again, over the page as it is: a promise of whether they did. app.js sets it. */
  ask = async () => false;
  #ends = null; #due = null; #renewal = null; #timer = null;
  #renewing = null; #asking = null; #declined = null;
  #kept = false;                 // is it in localStorage? Some browsers keep nothing

  constructor() {
    super();
    this.api = new Api(() => this.token, (token, how) => this.#another(token, how));
    addEventListener("storage", ({key}) => {
      if (key !== null && key !== KEPT) return;
      const before = this.me?.id;
      this.restore();
      if (this.me?.id !== before) this.#changed();
    });
    // Timers stand still while a machine sleeps.
    document.addEventListener("visibilitychange", () => this.#plan());
  }

  /** Takes up what another visit or tab has kept. */
  restore() {
    const kept = read();
    this.#kept = kept !== null;
    this.#take(kept ?? {});
  }

  /** Signs in with what sign-up and log-in answer. */
  enter(entered) {
    this.resume(entered);
    this.#changed();
  }

  /** The same person has a new token: nothing else changes. Unless another tab has logged out while it was asked for. */
  resume({token, renewal, person}) {
    if (!this.#stays()) return;
    this.#take({token, renewal, person, ...timesOf(token)});
    this.#keep();
  }

  /** Signs out. */
  leave() {
    if (this.token === null) return;
    this.#take({});
    this.#kept = false;
    try { localStorage.removeItem(KEPT); } catch { /* then nothing is kept */ }
    this.#changed();
  }

  /** The person as they are now. */
  update(person) {
    if (this.me === null || !this.#stays()) return;
    this.#adopt();               // or a token that another tab has just renewed would be overwritten
    this.me = {...this.me, ...person};
    this.#keep();
    this.dispatchEvent(new Event("person"));
  }

  /** A promise of a token that has not ended, as far as one can be had without asking the person. */
  async fresh() {
    if (this.#ends !== null && this.#ends <= Date.now()) await this.#renew(this.token).catch(() => false);
    return this.token;
  }

  #take({token = null, ends = null, due = null, renewal = null, person = null}) {
    const before = this.token;
    [this.token, this.#ends, this.#due, this.#renewal, this.me] = [token, ends, due, renewal, person];
    this.#plan();
    if (token !== before) this.dispatchEvent(new Event("token"));
  }

  #keep() {
    try {
      const kept = {token: this.token, ends: this.#ends, due: this.#due, renewal: this.#renewal, person: this.me};
      localStorage.setItem(KEPT, JSON.stringify(kept));
      this.#kept = true;
    } catch { /* private browsing: signed in until the page is left */ }
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  // -- the next token

  #plan(after = 0) {
    clearTimeout(this.#timer);
    if (this.#due === null || this.#renewal === null) return;
    this.#timer = setTimeout(async () => {
      // Refused: the token is good for some minutes more, and whoever uses it then is asked.
      await this.#renew(this.token).catch(() => this.#plan(AGAIN));
    }, Math.max(after, this.#due - Date.now()));
  }

  /** A token was refused: whether there is another one now, if need be by asking the person. */
  async #another(token, {wanted}) {
    if (await this.#renew(token)) return true;
    if (this.token !== token) return this.#follows(token);
    // Who does not want to now is left alone until they do something that needs it.
    if (this.#declined === token && !wanted) return false;
    this.#asking ??= this.ask().finally(() => { this.#asking = null; });
    const back = await this.#asking;
    if (!back) this.#declined = token;
    return back && this.#follows(token);  // somebody else sends nothing of theirs
  }

  /** Whether there is another token than `token` now. Raises Problem when the API could not be asked. */
  #renew(token) {
    if (this.token !== token) return Promise.resolve(this.#follows(token));
    this.#renewing ??= alone(() => this.#renewAlone(token)).finally(() => { this.#renewing = null; });
    return this.#renewing;
  }

  async #renewAlone(token) {
    if (!this.#stays()) return false;
    const person = this.me?.id;
    this.#adopt();
    if (this.token !== token) return this.#follows(token);
    if (this.#renewal === null) return false;
    try {
      const entered = await this.api.post("/api/session/renewal", {renewal: this.#renewal}, {open: true});
      if (!this.#stays()) return false;
      if (this.token !== token) return this.#follows(token);
      if (entered.person.id !== person) return false;
      this.resume(entered);
      return true;
    } catch (fault) {
      if (fault.status !== 401) throw fault;
      if (!this.#stays()) return false;
      if (this.token !== token) return this.#follows(token);
      this.#renewal = null;
      this.#keep();
      return false;
    }
  }

  /** Is there a token now that may be sent where `token` was: of the same person? */
  #follows(token) {
    return this.token !== null && claims(this.token)?.sub === claims(token)?.sub;
  }

  /**
   * Is it the same person still? Where another tab has logged out, or somebody else in, so it is here from now on: that is
   * in localStorage before it is told, and to write over it would bring back who has left.
   */
  #stays() {
    if (!this.#kept) return true;
    const before = this.me?.id;
    if (read()?.person?.id === before) return true;
    this.restore();
    this.#changed();
    return false;
  }

  /** Another tab may have renewed it: what it has kept is here before it tells. */
  #adopt() {
    const kept = read();
    if (kept?.person?.id === this.me?.id && kept?.token) this.#take(kept);
  }
}

/** What is kept; null: nothing of ours, or no storage. */
function read() {
  try {
    return JSON.parse(localStorage.getItem(KEPT));
  } catch {
    return null;
  }
}

/** What a token says; null where it does not tell. */
function claims(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")));
  } catch {
    return null;
  }
}

/** When a token ends and is to be renewed, by the clock of this machine, ms; none where it does not tell. */
function timesOf(token) {
  const {iat, exp} = claims(token) ?? {};
  const [now, life] = [Date.now(), (exp - iat) * 1_000];
  return Number.isFinite(life) ? {ends: now + life, due: now + life - Math.min(EARLY, life / 4)} : {};
}

/**
 * One tab at a time, where the browser knows how (only on pages it trusts). The next one begins a moment after: what is
 * written to localStorage reaches other tabs a little later.
 */
const alone = (work) => navigator.locks?.request("glimpse token", async () => {
  try {
    return await work();
  } finally {
    await new Promise((over) => { setTimeout(over, SPREADS); });
  }
}) ?? work();

/** To the door, and back here afterwards. */
export function knock() {
  location.assign(`/login?${new URLSearchParams({next: location.pathname + location.search})}`);
}

export const session = new Session();
export const api = session.api;
