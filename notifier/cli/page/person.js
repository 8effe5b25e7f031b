// One person: a Notifier of their own, the bell, the list, the state of the connection in words and colour.

import {List} from "./list.js";
import {Notifier, backoff} from "./notifier.js";
import {Phones} from "./phones.js";
import {USER, pass} from "./server.js";
import {connection, did, hue, initial, who} from "./words.js";

const LOOKING = 60_000;       // ms since the last input in here during which this person counts as looking
const RESYNC_SHOWN = 1_500;   // ms that a resync is shown at least: it is over before an eye has read the word
const SPARE = 60_000;         // ms before its end that a token is not used any more
const INPUTS = ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"];

export class Person {
  #root; #told; #list; #phones; #user = null; #notifier = null;
  #state = {state: "connecting", resyncing: false, broken: false, retryAt: 0};
  #inputAt = -Infinity; #fresh = new Set(); #drawing = false; #attempt = null; #again = null; #calm = null; #countdown;

  /**
   * `root`: a clone of the template. `told`: callbacks changed() when name or count are others now, and
   * news(user, text).
   */
  constructor(root, user, told) {
    [this.#root, this.#told] = [root, told];
    this.#list = new List(this.#part(".list"), {
      read: (id) => this.#notifier?.read([id]),
      delete: (id) => this.#delete(id),
    });
    this.#phones = new Phones(this.#part(".phones"));
    this.#wire();
    this.#countdown = setInterval(() => { if (this.#state.state === "waiting") this.#tellState(); }, 500);
    this.become(user);
  }

  get user() { return this.#user; }
  get unread() { return this.#notifier?.unread ?? 0; }

  /** Be another person from now on. A name that cannot be one is refused, in words; false then. */
  become(user) {
    if (!USER.test(user)) {
      this.#complain(`“${user}” is no user id: 1 to 64 characters of A-Z a-z 0-9 _ . - are`);
      return false;
    }
    this.#complain("");
    if (user === this.#user) return true;
    this.#leave();
    this.#user = user;
    this.#list.clear();
    this.#name();
    this.#connect();
    return true;
  }

  close() {
    this.#leave();
    this.#list.close();
    clearInterval(this.#countdown);
    this.#root.remove();
  }

  // -- the connection

  /** The first token also says where to connect to. */
  async #connect(tries = 0) {
    const attempt = this.#attempt = {};  // what an older one still brings is not wanted any more
    this.#enter({state: "connecting"});
    try {
      const first = await pass(this.#user);
      if (attempt === this.#attempt) this.#begin(first);
    } catch (fault) {
      if (attempt !== this.#attempt) return;
      const delay = backoff(tries);
      this.#enter({state: "waiting", delay, reason: fault.message});
      this.#again = setTimeout(() => this.#connect(tries + 1), delay);
    }
  }

  #begin(first) {
    const {websocket, api} = first, entry = first;
    const token = async () => {
      const given = first !== null && first.expires * 1000 - Date.now() > SPARE ? first : await pass(this.#user);
      first = null;
      if (given.websocket === websocket) return given.token;
      // The demo was started anew and listens elsewhere now.
      queueMicrotask(() => { if (this.#notifier === notifier) this.#move(given); });
      return null;
    };
    const notifier = new Notifier({websocket, api, token, person: this.#user, active: () => this.#looking});
    const ours = (handle) => ({detail}) => { if (this.#notifier === notifier) handle(detail); };
    notifier.addEventListener("state", ours((state) => this.#enter(state)));
    notifier.addEventListener("resync", ours(() => this.#resync()));
    notifier.addEventListener("notification", ours((row) => this.#news(row)));
    notifier.addEventListener("change", ours(() => this.#plan()));
    notifier.addEventListener("refused", ours(({code, reason}) => console.warn(`notifier: refused: ${code} ${reason}`)));
    this.#notifier = notifier;
    notifier.start();
    this.#phones.enlist(entry);
  }

  #move(given) {
    this.#leave();
    this.#begin(given);
  }

  #leave() {
    clearTimeout(this.#again);
    clearTimeout(this.#calm);
    this.#phones.leave();
    const notifier = this.#notifier;
    this.#notifier = this.#calm = this.#attempt = null;
    Object.assign(this.#state, {resyncing: false, broken: false});
    this.#fresh.clear();
    notifier?.close();
  }

  #retry() {
    clearTimeout(this.#again);
    if (this.#notifier === null) this.#connect();
    else this.#notifier.start();
  }

  // -- is this person looking?

  /** Here, not at another person beside; and not at a closed list. */
  get #looking() {
    return document.visibilityState === "visible" && this.#opened && Date.now() - this.#inputAt < LOOKING;
  }

  get #opened() { return this.#part(".bell").ariaExpanded === "true"; }

  #input() {
    this.#inputAt = Date.now();
    this.#notifier?.look();
  }

  // -- what the person does

  #wire() {
    for (const kind of INPUTS) this.#root.addEventListener(kind, () => this.#input(), {passive: true, capture: true});
    this.#root.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#opened) return;
      this.#open(false);
      this.#part(".bell").focus();
    });
    this.#part(".bell").onclick = () => this.#open(!this.#opened);
    this.#part(".read-all").onclick = () => this.#notifier?.readAll();
    this.#part(".retry").onclick = () => this.#retry();
    const field = this.#part(".user");
    field.onchange = () => {
      if (this.become(field.value.trim())) this.#told.changed();
      field.setAttribute("aria-invalid", field.value.trim() !== this.#user);
    };
    // Enter makes a change event by itself only where a form can be sent.
    this.#part(".rename").onsubmit = (event) => { event.preventDefault(); field.blur(); field.focus(); };
  }

  #open(open) {
    this.#part(".bell").ariaExpanded = String(open);
    this.#part(".panel").hidden = !open;
    this.#part(".closed").hidden = open;
    if (open) this.#notifier?.seen();
    this.#notifier?.look();
    this.#plan();
  }

  #delete(id) {
    this.#notifier?.delete(id).then(() => this.#complain(""), (fault) => this.#complain(fault.message));
  }

  // -- what is shown

  #news(row) {
    this.#fresh.add(row.id);
    this.#told.news(this.#user, `${who(row)} ${did(row)}`);
  }

  #resync() {
    this.#state.resyncing = true;
    clearTimeout(this.#calm);
    this.#calm = setTimeout(() => { this.#calm = null; this.#settle(); }, RESYNC_SHOWN);
    this.#tellState();
  }

  #enter({state, reason = "", delay = 0}) {
    // Broken until all is well: the button must not vanish under a finger with each try.
    const broken = state === "waiting" || state === "stopped" || (state === "connecting" && this.#state.broken);
    Object.assign(this.#state, {state, reason, broken, retryAt: Date.now() + delay});
    if (state === "stopped") this.#complain(`Not connected: ${reason}`);
    else if (state === "live") this.#complain("");
    this.#settle();
  }

  /** A resync is over when everything is here again. */
  #settle() {
    if (this.#state.state === "live" && this.#calm === null) this.#state.resyncing = false;
    this.#tellState();
  }

  #tellState() {
    const [word, more] = connection(this.#state);
    const line = this.#part(".state");
    line.dataset.state = word;
    line.title = this.#state.reason ?? "";
    const told = this.#part(".word");
    if (told.textContent !== word) told.textContent = word;
    const rest = this.#part(".rest");
    if (rest.textContent !== more) rest.textContent = more;
    this.#part(".retry").hidden = !this.#state.broken;
  }

  #complain(text) {
    const fault = this.#part(".fault");
    if (fault.textContent !== text) fault.textContent = text;
    fault.hidden = text === "";
  }

  /** Draw soon, once for many changes. Not by animation frame: a hidden tab's title counts too. */
  #plan() {
    if (this.#drawing) return;
    this.#drawing = true;
    setTimeout(() => {
      this.#drawing = false;
      this.#draw();
      this.#told.changed();
    }, 16);
  }

  #draw() {
    if (this.#notifier === null) return;
    const {rows, unread, seenUpTo} = this.#notifier;
    const badge = this.#part(".badge");
    badge.hidden = unread <= 0;
    badge.textContent = unread > 99 ? "99+" : unread;
    this.#part(".bell").ariaLabel = `Notifications of ${this.#user}, ${unread} unread`;
    this.#part(".read-all").disabled = unread <= 0;
    this.#part(".bar").hidden = rows.length === 0;
    this.#part(".count").textContent = `${unread} unread of ${rows.length}`;
    this.#part(".empty").hidden = rows.length > 0;
    this.#list.show(rows, seenUpTo, this.#fresh);
    this.#fresh.clear();
  }

  #name() {
    const user = this.#user;
    this.#root.ariaLabel = user;
    this.#part("h2").textContent = user;
    this.#part(".user").value = user;
    this.#part(".user").size = Math.max(4, user.length);
    this.#part(".user").ariaLabel = `Who is this? User id, now ${user}`;
    this.#part(".face").textContent = initial(user);
    this.#part(".face").style.setProperty("--hue", hue(user));
    this.#part(".bell").ariaLabel = `Notifications of ${user}`;
    this.#part(".badge").hidden = true;
    this.#part(".list").ariaLabel = `Notifications of ${user}, newest first`;
    this.#part(".bar").hidden = true;
    this.#part(".empty").textContent = `Nothing here yet. Publish something to ${user}: it arrives at once.`;
  }

  #part(name) {
    return this.#root.querySelector(name);
  }
}
