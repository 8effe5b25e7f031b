// The bell: the person's notifier, its list, its badge and its messages. All that stands in a row was written by others.

import {make, say, unseen} from "./element.js";
import {nothing} from "./endless.js";
import {Notifier} from "./notifier.js";
import {face} from "./people.js";
import {photos} from "./photos.js";
import {session} from "./session.js";
import {toast} from "./toasts.js";
import {did, leads, when, who} from "./words.js";

const LOOKING = 60_000;          // ms since the last input during which a person counts as looking
const GATHER = 400;              // ms in which what comes together becomes one message
const CALM = 800;                // ms that a connection may be on its way before anybody is told

const STATES = {
  idle: ["Not connected", "off"],
  connecting: ["Connecting…", "wait"],
  live: ["Live", "live"],
  waiting: ["Offline", "off"],
  stopped: ["Not connected", "off"],
};

const heading = (words) => make("li.heading", {role: "presentation"}, words);
const HEADINGS = {fresh: heading("New"), rest: heading("Earlier")};

export class Bell {
  #button; #badge; #panel; #list; #empty; #state; #retry; #readAll; #said;
  #notifier = null; #inputAt = -Infinity; #retryAt = 0; #calm = null; #drawing = false;
  #gathered = [];                // rows that one message will tell of
  #toasts = [];                  // functions that take messages away
  #new = new Set();              // ids of rows that were new when the list was opened, or came since
  #shown = new Map();            // id -> row, as last drawn
  #items = new Map();            // id -> {row, item}: the elements of the list

  constructor() {
    const part = (id) => document.getElementById(id);
    [this.#button, this.#badge, this.#panel, this.#list] = [part("bell"), part("badge"), part("notices"), part("rows")];
    [this.#empty, this.#state, this.#retry] = [part("no-rows"), part("line"), part("retry")];
    [this.#readAll, this.#said] = [part("read-all"), part("unread")];
    this.#empty.append(nothing("All quiet", "When somebody likes, comments or follows, you hear of it here at once."));
    this.#wire();
    setInterval(() => this.#count(), 1_000);
  }

  // -- life

  /** Follows this person's inbox; `site`: where. Nothing to follow without an address. */
  open(site) {
    this.close();
    this.#button.hidden = !site.websocket;
    if (!site.websocket) return;
    const {me} = session;
    this.#notifier = new Notifier({
      websocket: site.websocket, api: site.api || null, person: me.id, active: () => this.#looking,
      token: () => (session.me?.id === me.id ? session.fresh() : null),
    });
    this.#notifier.addEventListener("change", () => this.#plan());
    this.#notifier.addEventListener("notification", ({detail}) => this.#news(detail));
    this.#notifier.addEventListener("state", ({detail}) => this.#enter(detail));
    this.#notifier.start();
  }

  /** Nobody is signed in, or somebody else: an old list is nobody's business. */
  close() {
    this.#notifier?.close();
    this.#notifier = null;
    this.#new.clear();
    this.#gathered = [];
    if (this.#opened) this.#panel.hidePopover();
    this.#items.clear();
    this.#shown.clear();
    this.#list.replaceChildren();
    this.#badge.hidden = this.#button.hidden = true;
    this.titled();
  }

  /** The page's title has changed: what is unread stands before it. */
  titled() {
    const unread = this.#notifier?.unread ?? 0;
    const plain = document.title.replace(/^\(\d+\+?\) /, "");
    document.title = unread > 0 ? `(${unread > 99 ? "99+" : unread}) ${plain}` : plain;
  }

  get #opened() { return this.#panel.matches(":popover-open"); }

  /** Rows are seen by whoever has the list open and has moved within the last minute. */
  get #looking() {
    return document.visibilityState === "visible" && this.#opened && Date.now() - this.#inputAt < LOOKING;
  }

  #wire() {
    for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
      this.#panel.addEventListener(kind, () => this.#input(), {passive: true});
    }
    this.#button.addEventListener("click", () => this.#input());
    this.#panel.addEventListener("toggle", ({newState}) => this.#toggled(newState === "open"));
    this.#readAll.addEventListener("click", () => this.#notifier?.readAll());
    this.#retry.addEventListener("click", () => this.#notifier?.start());
    this.#list.addEventListener("keydown", (event) => this.#rove(event));
  }

  #input() {
    this.#inputAt = Date.now();
    this.#notifier?.look();
  }

  #toggled(open) {
    if (open) {
      for (const close of this.#toasts.splice(0)) close();
      this.#input();
      // What was new when the list was opened stays marked until it is closed; for the server it is seen.
      for (const {id, seq} of this.#notifier?.rows ?? []) if (seq > this.#notifier.seenUpTo) this.#new.add(id);
      this.#notifier?.seen();
      this.#draw();
      (this.#list.querySelector("a") ?? this.#panel).focus({preventScroll: true});
    } else {
      this.#new.clear();
      this.#notifier?.look();
    }
  }

  /** One tab stop for the whole list; the arrows move in it. */
  #rove(event) {
    const links = [...this.#list.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    const to = {ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    links[Math.max(0, Math.min(to, links.length - 1))]?.focus();
  }

  // -- the connection

  #enter({state, delay = 0, reason = ""}) {
    clearTimeout(this.#calm);
    this.#retryAt = Date.now() + delay;
    const tell = () => {
      const [words, tone] = STATES[state];
      this.#state.dataset.tone = tone;
      this.#button.dataset.line = tone;
      this.#state.title = reason;
      say(this.#state.firstElementChild, words);
      this.#retry.hidden = state !== "waiting" && state !== "stopped";
      this.#count();
    };
    // A short break is none of anybody's concern.
    if (state === "connecting") this.#calm = setTimeout(tell, CALM);
    else tell();
  }

  /** The seconds are for eyes: a screen reader would say each. */
  #count() {
    const rest = document.getElementById("rest");
    const waiting = this.#notifier?.state === "waiting";
    say(rest, waiting ? `, trying again in ${Math.max(1, Math.ceil((this.#retryAt - Date.now()) / 1000))} s` : "");
  }

  // -- what came

  #news(row) {
    look(row);
    if (this.#opened) {
      this.#new.add(row.id);
      return;
    }
    this.#gathered.push(row);
    if (this.#gathered.length === 1) setTimeout(() => this.#toast(), GATHER);
  }

  #toast() {
    const rows = this.#gathered.splice(0);
    const row = rows.at(-1);
    if (row === undefined || this.#opened) return;
    const words = `${who(row)} ${did(row, session.me?.name)}`;
    const more = rows.length > 1 ? ` (and ${rows.length - 1} more)` : "";
    this.#toasts.push(toast(words + more, {
      href: leads(row), opened: () => this.#open(row), face: face(row.actors[0], "small"), picture: thumbnail(row),
    }));
    this.#button.classList.remove("rung");
    requestAnimationFrame(() => this.#button.classList.add("rung"));
  }

  // -- what is shown

  /** Draw soon, once for many changes. Not by animation frame: a hidden tab's title counts too. */
  #plan() {
    if (this.#drawing) return;
    this.#drawing = true;
    setTimeout(() => {
      this.#drawing = false;
      this.#draw();
    }, 16);
  }

  #draw() {
    if (this.#notifier === null) return;
    const {rows, unread} = this.#notifier;
    this.#badge.hidden = unread <= 0;
    say(this.#badge, unread > 99 ? "99+" : String(unread));
    say(this.#said, unread > 0 ? `, ${unread} unread` : "");
    this.#readAll.disabled = unread <= 0;
    this.#empty.hidden = rows.length > 0;
    this.#gone(rows);
    if (this.#opened) this.#rows(rows);
    this.titled();
  }

  /** What was taken back has changed its photo, too. */
  #gone(rows) {
    const now = new Map(rows.map((row) => [row.id, row]));
    for (const [id, row] of this.#shown) if (!now.has(id)) look(row);
    this.#shown = now;
  }

  #rows(rows) {
    const held = document.activeElement;
    const fresh = rows.filter(({id}) => this.#new.has(id));
    const rest = rows.filter(({id}) => !this.#new.has(id));
    const wanted = [
      ...(fresh.length > 0 ? [HEADINGS.fresh, ...fresh.map((row) => this.#item(row))] : []),
      ...(fresh.length > 0 && rest.length > 0 ? [HEADINGS.rest] : []),
      ...rest.map((row) => this.#item(row)),
    ];
    this.#drop(new Set(wanted), new Set(rows.map(({id}) => id)));
    // What stays is left alone: a row that is taken out and put in again under a finger would not be pressed.
    wanted.forEach((item, at) => {
      if (this.#list.children[at] !== item) this.#list.insertBefore(item, this.#list.children[at] ?? null);
    });
    this.#list.querySelectorAll("a").forEach((link, at) => { link.tabIndex = at === 0 ? 0 : -1; });
    if (held?.isConnected && this.#list.contains(held)) held.focus({preventScroll: true});
  }

  /** Takes out what is not there any more; the keyboard stays in the list. */
  #drop(items, ids) {
    for (const item of [...this.#list.children]) {
      if (items.has(item)) continue;
      if (!ids.has(item.dataset.id) && item.contains(document.activeElement)) this.#panel.focus({preventScroll: true});
      item.remove();
    }
    for (const id of this.#items.keys()) if (!ids.has(id)) this.#items.delete(id);
  }

  /** The element of a row; one that says the same as before is the same. */
  #item(row) {
    const known = this.#items.get(row.id);
    if (known?.row === row) return known.item;
    const item = this.#row(row);
    if (known?.item.contains(document.activeElement)) queueMicrotask(() => item.firstElementChild.focus({preventScroll: true}));
    this.#items.set(row.id, {row, item});
    return item;
  }

  #row(row) {
    const link = make("a.notice", {href: leads(row), onclick: () => this.#open(row)},
      face(row.actors[0]),
      make("span.say", {},
        unseen(row.read ? "" : "Unread: "), make("b", {}, who(row)), ` ${did(row, session.me?.name)} `,
        row.text ? make("q.text", {}, row.text) : null, when(row.time)),
      thumbnail(row), make("span.dot", {"aria-hidden": "true"}));
    const item = make(`li${row.read ? "" : ".unread"}`, {}, link);
    item.dataset.id = row.id;
    return item;
  }

  #open({id}) {
    this.#notifier?.read([id]);
    if (this.#opened) this.#panel.hidePopover();
  }
}

/** Looks again at the photo that a row is about, if it is on a page. */
function look({object}) {
  const [, id] = /^\/p\/(\d+)/.exec(object?.url ?? "") ?? [];
  if (id) photos.refresh(id);
}

function thumbnail({object}) {
  const {image} = object ?? {};
  return image ? make("img.thumbnail", {src: image, alt: "", decoding: "async", onerror: ({target}) => target.remove()}) : null;
}
