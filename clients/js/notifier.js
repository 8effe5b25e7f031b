// A client of notifier (protocol notifier.v1) for browsers, and for Node.js from version 22. One file, no build step.
//
//   const notifier = new Notifier({websocket: "wss://push.example.com/v1/websocket", token: fetchToken});
//   notifier.addEventListener("change", () => draw(notifier.rows, notifier.unread));
//   notifier.start();
//
// Inbox holds the list and the place in it, Line keeps one connection, Tabs lets the tabs of a browser share it.

const ACK_EVERY = 32;            // notifications
const ACK_WITHIN = 100;          // ms
const READ_IDS = 400;            // in one `read`
const SOCKET_TRIES = 3;          // WebSockets in a row that never came up, then server-sent events have their turn
const LOOK_EVERY = 1_000;        // ms between two reports of a tab that its person is there
const RETRY_AFTER = 3_600_000;   // ms, the longest Retry-After that is obeyed; a longer one counts as this
const OURS = "urn:problem-type:notifier:";

const TIMING = {
  first: 500,                    // ms, the most that the first wait may take; doubles with each try
  most: 30_000,                  // ms, the most that any wait may take
  stable: 60_000,                // ms of a connection after which the waits begin small again
  answer: 15_000,                // ms for token, handshake and `ready` together
  silence: 30_000,               // ms without a message, then a ping
  pong: 10_000,                  // ms for the answer to it
  active: 60_000,                // ms since the last input during which a person counts as looking
};

/** What the events of a Notifier are: `detail` says more. */
export class NotifierEvent extends Event {
  constructor(type, detail) {
    super(type);
    this.detail = detail;
  }
}

/** Full jitter: any time up to a bound that doubles. A thousand pages that lost one server do not return in step. */
export function backoff(tries, {first, most} = TIMING, chance = Math.random) {
  return chance() * Math.min(most, first * 2 ** tries);
}

// ---------------------------------------------------------------------------------------------- the inbox

/** A person's rows, and the place up to which they are known. Knows no connection and no page. */
export class Inbox {
  rows = new Map();              // notification id -> message; a row is replaced, never altered
  unread = 0;
  seen = 0;                      // rows up to this seq have been looked at
  last = 0;                      // highest seq that came over this connection
  complete = false;              // no resume is under way: the next change is seq + 1
  #epoch = null;                 // epoch and seq make a place; null: none yet
  #seq = 0;
  #loading = null;               // the rows of a load, until it is complete

  /** What to ask for: all that follows our place, or everything. */
  get place() {
    return this.#epoch === null ? {after: 0} : {epoch: this.#epoch, after: this.#seq};
  }

  /** A connection begins: what the last one did not complete comes again. */
  begin() {
    // Of what we hold beyond our place, Redis may have lost something: nobody would take it back. So we load anew.
    if (this.last > this.#seq) this.#epoch = null;
    this.last = 0;
    this.complete = false;
    this.#loading = this.#epoch === null ? new Map() : null;
  }

  /**
   * Takes a message in. What came of it: `counts` (has a seq of its own, to be acknowledged), `shown` (what the page
   * shows has changed), `news` (the row, if it is one that was not there before, in this version, and is unread).
   */
  apply(message) {
    if (message.type === "resync") {
      // The place is gone with its epoch. The old rows stay on show until the new ones are complete.
      this.#epoch = null;
      this.begin();
      return {counts: false, shown: false, news: null};
    }
    const loading = this.#loading !== null;
    const unread = this.unread;
    if (Number.isInteger(message.unread)) this.unread = message.unread;
    if (message.type === "upto") this.#settle(message);
    const counts = Object.hasOwn(CHANGES, message.type) && Number.isInteger(message.seq);
    const news = counts && !loading ? this.#news(message) : null;
    if (counts) this.#change(message);
    if (Number.isInteger(message.floor)) this.#drop(message.floor);
    const shown = message.type === "upto" || (counts && !loading) || this.unread !== unread;
    return {counts, shown, news};
  }

  #news(message) {
    if (message.type !== "notification" || message.read) return null;
    const known = this.rows.get(message.id);
    return known !== undefined && known.seq >= message.seq ? null : message;
  }

  #change(message) {
    CHANGES[message.type](this.#loading ?? this.rows, message, this);
    this.last = Math.max(this.last, message.seq);
    // Any other seq leaves the place alone: the server is catching up, an `upto` follows.
    if (this.complete && message.seq === this.#seq + 1) this.#seq = message.seq;
  }

  /** The resume is complete: only now epoch and seq are replaced, together. */
  #settle({epoch, seq, seen}) {
    if (this.#loading !== null) [this.rows, this.#loading] = [this.#loading, null];
    [this.#epoch, this.#seq, this.seen] = [epoch, seq, seen];
    this.last = Math.max(this.last, seq);
    this.complete = true;
  }

  /** Rows up to the floor exist no more. */
  #drop(floor) {
    const rows = this.#loading ?? this.rows;
    for (const [id, row] of rows) if (row.seq <= floor) rows.delete(id);
  }

  /** All of it, for another tab. */
  save() {
    const {rows, unread, seen, last, complete} = this;
    return {rows, unread, seen, last, complete, epoch: this.#epoch, seq: this.#seq, loading: this.#loading};
  }

  /** Becomes what another tab saved. */
  restore({rows, unread, seen, last, complete, epoch, seq, loading}) {
    Object.assign(this, {rows, unread, seen, last, complete});
    [this.#epoch, this.#seq, this.#loading] = [epoch, seq, loading];
  }
}

/** What each kind of change does to the rows. */
const CHANGES = {
  notification: (rows, row) => rows.set(row.id, row),
  retract: (rows, {id}) => rows.delete(id),
  deleted: (rows, {ids}) => ids.forEach((id) => rows.delete(id)),
  seen: (rows, {upto}, inbox) => { inbox.seen = Math.max(inbox.seen, upto); },
  read: (rows, {ids}) => {
    for (const id of ids) {
      const row = rows.get(id);
      if (row !== undefined && !row.read) rows.set(id, {...row, read: true});
    }
  },
};

/** Those of these rows that can be marked read. */
function unread(inbox, ids) {
  return [...ids].map((id) => inbox.rows.get(id)).filter((row) => row !== undefined && !row.read);
}

/**
 * Marks that the person has made and the inbox does not show yet: a connection may have died with them. At most the
 * rows of the inbox and the highest `seen`, however many are made.
 */
class Marks {
  #reads = new Map();            // notification id -> the seq that was read
  #seen = null;                  // {epoch, seq}

  read(rows) {
    for (const {id, seq} of rows) this.#reads.set(id, seq);
  }

  seen({epoch, seq}) {
    if (this.#seen?.epoch !== epoch || this.#seen.seq < seq) this.#seen = {epoch, seq};
  }

  /** The epoch of `seen`. */
  get epoch() {
    return this.#seen?.epoch;
  }

  get none() {
    return this.#reads.size === 0 && this.#seen === null;
  }

  /** Adds marks that were made later. */
  join(later) {
    for (const [id, seq] of later.#reads) this.#reads.set(id, seq);
    if (later.#seen !== null) this.seen(later.#seen);
  }

  /** What this message says need not be said again. */
  forget({ids, seq}) {
    if (ids !== undefined) for (const id of ids) this.#reads.delete(id);
    else if (this.#seen !== null && this.#seen.seq <= seq) this.#seen = null;
  }

  /** Forgets what has happened, or cannot any more. */
  settle(inbox) {
    if (!inbox.complete) return;
    for (const [id, seq] of this.#reads) {
      const row = inbox.rows.get(id);
      if (row === undefined || row.read || row.seq !== seq) this.#reads.delete(id);
    }
    const seen = this.#seen;
    if (seen !== null && (seen.epoch !== inbox.place.epoch || seen.seq <= inbox.seen)) this.#seen = null;
  }

  /** The messages that say it all again. */
  due() {
    const ids = [...this.#reads.keys()];
    const messages = [];
    for (let at = 0; at < ids.length; at += READ_IDS) messages.push({type: "read", ids: ids.slice(at, at + READ_IDS)});
    if (this.#seen !== null) messages.push({type: "seen", seq: this.#seen.seq});
    return messages;
  }
}

// ------------------------------------------------------------------------------------------- two transports

/** A WebSocket. `on`: callbacks open(), message(object), close(code, reason). */
class Socket {
  live = true;                   // says so itself when it is silent
  #socket;

  constructor({websocket, WebSocket}, token, inbox, on) {
    const socket = this.#socket = new WebSocket(websocket, ["notifier.v1"]);
    socket.onopen = () => this.send({type: "auth", token, ...inbox.place});
    socket.onmessage = ({data}) => {
      const message = parsed(data);
      if (message !== null) on.message(message);
    };
    socket.onclose = ({code, reason}) => on.close(code, reason);
    socket.onerror = () => {};   // `close` follows
  }

  send(message) {
    if (this.#socket.readyState !== 1) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  close() {
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close(1000);
  }
}

/**
 * Server-sent events, for networks that let no WebSocket through. Read with fetch, because an EventSource cannot send
 * the token in a header, and an address with a token in it ends up in logs. Marks go over the HTTP API.
 */
class Stream {
  live = false;                  // the server sends comments; nobody can be asked
  #options; #token; #inbox; #on; #posts; #stopping = new AbortController();

  constructor(options, token, inbox, on) {
    [this.#options, this.#token, this.#inbox, this.#on] = [options, token, inbox, on];
    this.#posts = new Posts(options.timing, inbox, (path, more) => this.#fetch(path, more), on.message);
    this.#read().catch(() => [1006, "the stream broke off"]).then(([code, reason]) => {
      if (!this.#stopping.signal.aborted) on.close(code, reason);
    });
  }

  async #read() {
    // In the query, not as Last-Event-ID: a page of another origin may say it without a longer preflight.
    const query = new URLSearchParams(this.#inbox.place);
    const answer = await this.#fetch(`/v1/stream?${query}`, {headers: {Accept: "text/event-stream"}});
    if (!answer.ok) return refusal(answer.status, await answer.json().catch(() => null));
    let close = [1006, "the stream ended"];
    for await (const data of events(answer.body, () => this.#on.alive())) {
      const message = parsed(data);
      if (message === null) continue;
      if (message.type === "error") close = [message.code ?? 1006, message.reason ?? ""];
      this.#on.message(message);
    }
    return close;
  }

  /** Marks by the HTTP API; receipts are the server's own affair here. */
  send(message) {
    const {type, active} = message;
    if (type === "read" || type === "seen" || (type === "ack" && active)) this.#posts.say(message);
    return true;
  }

  #fetch(path, {headers, ...more}) {
    const all = {...headers, Authorization: `Bearer ${this.#token}`};
    return fetch(`${this.#options.api}${path}`, {cache: "no-store", signal: this.#stopping.signal, headers: all, ...more});
  }

  close() {
    this.#stopping.abort();
    this.#posts.stop();
  }
}

/**
 * Marks on their way over the HTTP API: one request at a time. One that fails in a way that may pass is made again by
 * itself, after what the server asks for and a wait with jitter; those made meanwhile join it. What never gets through
 * is made again after the next resume, as on a WebSocket: the Notifier's own Marks keep it.
 */
class Posts {
  #timing; #inbox; #fetch; #refused;
  #waiting = new Marks(); #busy = false; #tries = 0; #timer = null; #request = null; #stopped = false;

  /** `fetch(path, options)`; `refused(message)`: an `error` whose `refused` is the mark that is refused for good. */
  constructor(timing, inbox, fetch, refused) {
    [this.#timing, this.#inbox, this.#fetch, this.#refused] = [timing, inbox, fetch, refused];
  }

  say({ids, seq}) {
    if (ids !== undefined) this.#waiting.read(unread(this.#inbox, ids));
    else this.#waiting.seen({epoch: this.#inbox.place.epoch, seq});
    this.#waiting.settle(this.#inbox);
    if (!this.#busy && this.#timer === null) this.#go();
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#request?.abort();
  }

  async #go() {
    this.#busy = true;
    let wait = null;
    while (wait === null && !this.#waiting.none) wait = await this.#round();
    this.#busy = false;
    if (this.#stopped) return;
    if (wait === null) {
      this.#tries = 0;
    } else {
      this.#timer = setTimeout(() => { this.#timer = null; this.#go(); }, wait + backoff(this.#tries++, this.#timing));
    }
  }

  /** Says all that waits; the most ms that the server asks to wait until the rest, null if there is none. */
  async #round() {
    const marks = this.#waiting;
    this.#waiting = new Marks();   // what is made meanwhile
    marks.settle(this.#inbox);
    let wait = null;
    for (const message of marks.due()) {
      const after = await this.#said(message, marks.epoch);
      if (after === null) marks.forget(message);
      else wait = Math.max(wait, after);
      // One that fails keeps no other waiting, but who names a time means all.
      if (wait > 0 || this.#stopped) break;
    }
    marks.join(this.#waiting);
    this.#waiting = marks;
    return wait;
  }

  /** One request: null if there is no more to do, else the ms that the server asks to wait before the next. */
  async #said(message, epoch) {
    const request = this.#request = new AbortController();
    const timer = setTimeout(() => request.abort(), this.#timing.answer);
    const {type, ids, seq} = message;
    const [path, content] = type === "read" ? ["/v1/inbox/read", {ids}] : ["/v1/inbox/seen", {epoch, seq}];
    const headers = {"Content-Type": "application/json"};
    try {
      const answer = await this.#fetch(path, {method: "POST", headers, body: JSON.stringify(content), signal: request.signal});
      const problem = await answer.json().catch(() => null);
      if (answer.ok) return null;
      if (passing(answer.status, problem)) return retryAfter(answer);
      const [code, reason] = refusal(answer.status, problem);
      this.#refused({type: "error", code: code === 1006 ? 4510 : code, reason, refused: message});
      return null;
    } catch {
      return 0;                  // of the network
    } finally {
      clearTimeout(timer);
    }
  }
}

/** The data of each event of a stream (WHATWG HTML 9.2.6). `alive` is called for every piece, comments too. */
export async function* events(body, alive = () => {}) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let held = "", data = [];
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    alive();
    held += decoder.decode(value, {stream: true});
    // A CR at the very end may be the first half of CRLF: it waits for what follows.
    for (let end; (end = /\r\n|\n|\r(?!$)/.exec(held)) !== null;) {
      const line = held.slice(0, end.index);
      held = held.slice(end.index + end[0].length);
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      if (line === "data") data.push("");
      if (line === "" && data.length > 0) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}

function parsed(text) {
  try {
    const message = JSON.parse(text);
    return typeof message?.type === "string" ? message : null;
  } catch {
    return null;
  }
}

/** May it be another answer next time? Of what a token lacks the stream says so itself, by its end. */
function passing(status, problem) {
  return status >= 500 || status === 429 || status === 401 || !String(problem?.type).startsWith(OURS);
}

/** The ms that an answer asks to wait (RFC 9110 section 10.2.3: seconds, or a date); 0 if it does not. */
function retryAfter(answer) {
  const said = answer.headers.get("Retry-After") ?? "";
  const wait = /^\d+$/.test(said) ? Number(said) * 1_000 : Date.parse(said) - Date.now();
  return Math.min(Math.max(wait || 0, 0), RETRY_AFTER);
}

/** A refusal of the HTTP API as a close code. What a proxy or a portal says of itself is none. */
function refusal(status, problem) {
  const {type, detail = `the answer was ${status}`} = problem ?? {};
  if (!String(type).startsWith(OURS)) return [1006, `the answer was ${status}`];
  if (type.endsWith(":expired-token")) return [4001, detail];
  if (type.endsWith(":revoked-token")) return [4509, detail];
  if (status === 401) return [4501, detail];
  if (status === 403) return [4503, detail];
  return [1006, detail];         // also 404: a server without streams
}

// ------------------------------------------------------------------------------------------ the connection

/** One connection, made again whenever it breaks. `on`: callbacks state(state), begin(), message(message, result). */
class Line {
  #options; #inbox; #on; #active;
  #transport = null; #attempt = null; #ready = false;
  #tries = 0; #failures = 0; #drain = null; #patient = false;
  #timer = null; #deadline = null; #stable = null; #watch = null;
  #heardAt = 0; #pingAt = 0;
  #owed = 0; #ackTimer = null; #looked = 0;

  constructor(options, inbox, active, on) {
    [this.#options, this.#inbox, this.#active, this.#on] = [options, inbox, active, on];
  }

  /** Connect now, whatever was planned. */
  async start() {
    this.#drop();
    const attempt = this.#attempt = {};   // whatever an older attempt still reports is not ours
    this.#on.state({state: "connecting"});
    this.#deadline = setTimeout(() => this.#failed(1006, "no answer"), this.#options.timing.answer);
    let token = null;
    try {
      token = await this.#options.token();
    } catch (error) {
      if (this.#attempt === attempt) this.#retry(0, `no token: ${error?.message ?? error}`);
      return;
    }
    if (this.#attempt !== attempt) return;
    if (token) this.#open(token, attempt);
    else this.#stop(0, "no token: nobody is signed in");
  }

  /** End it; `start` begins anew. */
  stop() {
    this.#drop();
    this.#tries = this.#failures = 0;
  }

  #open(token, attempt) {
    const ours = (handle) => (...values) => { if (this.#attempt === attempt) handle(...values); };
    const on = {
      message: ours((message) => this.#heard(message)),
      close: ours((code, reason) => this.#failed(code, reason)),
      alive: ours(() => { this.#heardAt = Date.now(); }),
    };
    this.#inbox.begin();
    this.#on.begin();
    this.#heardAt = Date.now();
    this.#watch = setInterval(() => this.#check(), this.#options.timing.silence / 6);
    const Kind = this.#streaming ? Stream : Socket;
    try {
      this.#transport = new Kind(this.#options, token, this.#inbox, on);
    } catch (error) {
      this.#stop(0, `no connection can be made: ${error.message}`);  // an address that is none
    }
  }

  get #streaming() {
    return this.#options.api !== null && this.#failures >= SOCKET_TRIES;
  }

  #heard(message) {
    this.#heardAt = Date.now();
    this.#pingAt = 0;
    if (message.type === "ready") this.#begun();
    else if (message.type === "drain") this.#drain = message.retry_ms;
    else if (message.type === "reauth") this.#renew();
    else if (message.type === "resync") this.#looked = this.#owed = 0;
    const result = this.#inbox.apply(message);
    if (result.counts) this.#acknowledge(message.type === "notification");
    this.#on.message(message, result);
    if (message.type !== "upto") return;
    this.#on.state({state: "live"});
    this.look();
  }

  #begun() {
    clearTimeout(this.#deadline);
    this.#ready = true;
    this.#stable ??= setTimeout(() => { this.#tries = 0; }, this.#options.timing.stable);
  }

  /** A new token on the same connection, before the old one ends. Without one the server closes with 4001. */
  async #renew() {
    const attempt = this.#attempt;
    const token = await Promise.resolve().then(this.#options.token).catch(() => null);
    if (token && this.#attempt === attempt) this.send({type: "auth", token});
  }

  // -- going and coming again

  #failed(code, reason) {
    // A WebSocket that came up proves the way. After a stream the WebSocket gets one try, then the stream again.
    if (this.#streaming) this.#failures = SOCKET_TRIES - 1;
    else this.#failures = this.#ready ? 0 : this.#failures + 1;
    // 4000-4499: come again; 4500-4999: do not, it would end the same way.
    if (code >= 4500 && code <= 4999) this.#stop(code, reason);
    else this.#retry(code, reason || "the connection is lost");
  }

  #retry(code, reason) {
    const delay = this.#drain ?? backoff(this.#tries++, this.#options.timing);
    this.#patient = this.#drain !== null;
    this.#drop();
    this.#timer = setTimeout(() => this.start(), delay);
    this.#on.state({state: "waiting", code, reason, delay});
  }

  #stop(code, reason) {
    this.#drop();
    this.#on.state({state: "stopped", code, reason});
  }

  #drop() {
    for (const timer of [this.#timer, this.#deadline, this.#stable, this.#ackTimer]) clearTimeout(timer);
    clearInterval(this.#watch);
    this.#timer = this.#deadline = this.#stable = this.#ackTimer = this.#watch = null;
    const transport = this.#transport;
    this.#transport = this.#attempt = this.#drain = null;
    this.#ready = false;
    this.#owed = this.#looked = this.#pingAt = 0;
    transport?.close();
  }

  /** A script sees no WebSocket pings: a silent line is asked, a dead one given up. `now`: ask at once. */
  #check(now = false) {
    const {silence, pong} = this.#options.timing;
    const [time, transport] = [Date.now(), this.#transport];
    if (transport === null || !this.#ready) return;
    if (!transport.live) {
      if (time - this.#heardAt >= 2 * silence) this.#failed(1006, "the stream is silent");
    } else if (this.#pingAt) {
      if (time - this.#pingAt >= pong) this.#failed(1006, "no answer to a ping");
    } else if (now || time - this.#heardAt >= silence) {
      this.#pingAt = time;
      this.send({type: "ping"});
    }
  }

  /** The person or the network is back: do not wait for a timer, unless the server has named the time. */
  wake() {
    if (this.#timer === null) this.#check(true);
    else if (!this.#patient) this.start();
  }

  /** The network may be gone: find out now, not after a silence. */
  probe() {
    this.#check(true);
  }

  send(message) {
    return this.#transport?.send(message) ?? false;
  }

  /** A mark. Before `upto` it waits: a seq means something only in the epoch that it names. */
  mark(message) {
    return this.#inbox.complete && this.send(message);
  }

  // -- receipt and sight

  #acknowledge(notification) {
    if (notification) this.#owed += 1;
    if (this.#owed >= ACK_EVERY) this.#ack();
    else this.#ackTimer ??= setTimeout(() => this.#ack(), ACK_WITHIN);
  }

  /** Cumulative. `active` also says that the person is looking. */
  #ack() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
    this.#owed = 0;
    const seq = this.#inbox.last;
    const active = this.#inbox.complete && this.#active();
    if (this.send(active ? {type: "ack", seq, active} : {type: "ack", seq}) && active) this.#looked = seq;
  }

  /** Somebody may be looking: what came while nobody did is seen now. At most once for each change. */
  look() {
    const {last, complete} = this.#inbox;
    if (complete && last > this.#looked && this.#ackTimer === null && this.#active()) this.#ack();
  }
}

// ------------------------------------------------------------------------------------------- page and tabs

/** Is the person looking: the page is visible, and there was input within the last minute. */
class Watcher {
  #within; #told; #inputAt = -Infinity; #toldAt = -Infinity;
  #ending = new AbortController();

  /** `told()`: somebody is there (at most once a second); `left()`; `woke()`: page or network are back; `lost()`. */
  constructor(within, {told, left, woke, lost}) {
    [this.#within, this.#told] = [within, told];
    const page = globalThis.document;
    if (page === undefined) return;
    const {signal} = this.#ending;
    const options = {passive: true, capture: true, signal};
    for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
      addEventListener(kind, () => this.#input(), options);
    }
    page.addEventListener("visibilitychange", () => {
      if (page.visibilityState !== "visible") return left();
      woke();
      if (this.active) told();
      return undefined;
    }, {signal});
    addEventListener("online", woke, {signal});
    addEventListener("offline", lost, {signal});
    addEventListener("pageshow", ({persisted}) => { if (persisted) woke(); }, {signal});
  }

  #input() {
    this.#inputAt = Date.now();
    if (this.#inputAt - this.#toldAt < LOOK_EVERY) return;
    this.#toldAt = this.#inputAt;
    this.#told();
  }

  get active() {
    return globalThis.document?.visibilityState === "visible" && Date.now() - this.#inputAt < this.#within;
  }

  close() {
    this.#ending.abort();
  }
}

/**
 * The tabs of one browser in which one person follows one inbox. Who holds the lock has the connection and tells the
 * others what it hears; when that tab goes, however it goes, the browser gives the lock to the next.
 */
class Tabs {
  leader = false;
  #channel; #on; #name = Math.random().toString(36).slice(2); #release = () => {}; #ending = new AbortController();

  /** on: lead() once this tab leads; told(message) for what another tab says. */
  constructor(name, on) {
    this.#on = on;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({data}) => {
      if (data.to === undefined || data.to === this.#name) on.told(data);
    };
    this.say({kind: "hello", from: this.#name});
    navigator.locks.request(name, {signal: this.#ending.signal}, () => {
      this.leader = true;
      on.lead();
      return new Promise((release) => { this.#release = release; });
    }).catch(() => {});          // closed while it waited
  }

  static possible() {
    return globalThis.BroadcastChannel !== undefined && globalThis.navigator?.locks !== undefined;
  }

  get name() { return this.#name; }

  say(message) {
    this.#channel.postMessage(message);
  }

  close() {
    this.#ending.abort();
    this.#release();
    this.#channel.close();
  }
}

/** One person's notifications, kept current. See notifier.d.ts for every option, event and member. */
export class Notifier extends EventTarget {
  #options; #inbox = new Inbox(); #marks = new Marks(); #line; #tabs = null; #watcher = null;
  #state = {state: "idle"};
  #told = false;                 // what another tab leads with has been heard; until then its changes mean nothing
  #others = new Map();           // tab -> when its person was last there

  constructor({websocket, token, api = null, person = null, active = null, WebSocket = globalThis.WebSocket, timing = {}}) {
    super();
    if (typeof token !== "function") throw new TypeError("token: a function that gives a token (or a promise of one) is needed");
    if (!/^wss?:/.test(websocket)) throw new TypeError(`websocket: the address must begin with wss: or ws:, not ${websocket}`);
    if (typeof WebSocket !== "function") throw new TypeError("there is no WebSocket here: Node.js has one from version 22, or give one");
    const base = api === null ? null : String(api).replace(/\/+$/, "");
    this.#options = {websocket, token, api: base, person, active, WebSocket, timing: {...TIMING, ...timing}};
    this.#line = new Line(this.#options, this.#inbox, () => this.active, {
      state: (state) => { this.#enter(state); this.#tell({kind: "state", state}); },
      begin: () => this.#tell({kind: "begin"}),
      message: (message, result) => { this.#tell({kind: "message", message}); this.#heard(message, result); },
    });
  }

  // -- what there is

  /** The rows, newest first. */
  get rows() { return [...this.#inbox.rows.values()].sort((one, two) => two.seq - one.seq); }
  get unread() { return this.#inbox.unread; }
  /** Rows up to this seq have been looked at. */
  get seenUpTo() { return this.#inbox.seen; }
  get state() { return this.#state.state; }
  /** Does this tab have the connection? */
  get leading() { return this.#tabs === null ? this.state !== "idle" : this.#tabs.leader; }

  /** Is the person looking, in this tab or in another that shares the connection? */
  get active() {
    const since = Date.now() - this.#options.timing.active;
    return this.#here || [...this.#others.values()].some((at) => at > since);
  }

  get #here() {
    const {active} = this.#options;
    return active ? active() : this.#watcher?.active === true;
  }

  // -- life

  /** Connect, and stay connected. Again after "stopped", when something has changed. */
  start() {
    if (this.#watcher === null) {
      const {active} = this.#options.timing;
      const on = {told: () => this.look(), left: () => this.#leave(), woke: () => this.#woke(), lost: () => this.#line.probe()};
      this.#watcher = new Watcher(active, on);
    }
    if (this.#options.person === null || !Tabs.possible()) {
      this.#line.start();
    } else if (this.#tabs === null) {
      const on = {lead: () => this.#lead(), told: (message) => this.#hear(message)};
      this.#tabs = new Tabs(`notifier ${this.#options.websocket} ${this.#options.person}`, on);
    } else {
      this.#ask({kind: "start"}, () => this.#line.start());
    }
  }

  /** Disconnect, and let another tab have the connection. */
  close() {
    this.#leave();
    this.#line.stop();
    this.#tabs?.close();
    this.#watcher?.close();
    this.#tabs = this.#watcher = null;
    this.#told = false;
    this.#others.clear();
    this.#enter({state: "idle"});
  }

  // -- what the person does

  /** These rows have been opened. */
  read(ids) {
    const rows = unread(this.#inbox, ids);
    if (rows.length === 0) return;
    this.#marks.read(rows);
    for (let at = 0; at < rows.length; at += READ_IDS) {
      this.#say({type: "read", ids: rows.slice(at, at + READ_IDS).map(({id}) => id)});
    }
  }

  /** Every row that is here has been read. */
  readAll() {
    this.read(this.#inbox.rows.keys());
  }

  /** The list has been looked at: the person has opened it. */
  seen() {
    const place = this.#inbox.place;
    if (place.epoch === undefined || place.after <= this.#inbox.seen) return;
    this.#marks.seen({epoch: place.epoch, seq: place.after});
    this.#say({type: "seen", seq: place.after});
  }

  /** Remove a row, here and everywhere. Rejects if the HTTP API does not do it. */
  async delete(id) {
    if (this.#options.api === null) throw new TypeError("api: rows are deleted over the HTTP API, whose address was not given");
    const headers = {Authorization: `Bearer ${await this.#options.token()}`};
    const answer = await fetch(`${this.#options.api}/v1/inbox/${encodeURIComponent(id)}`, {method: "DELETE", headers});
    if (!answer.ok) {
      const {detail = `the answer was ${answer.status}`} = await answer.json().catch(() => ({}));
      throw Object.assign(new Error(`not deleted: ${detail}`), {status: answer.status});
    }
  }

  /** Somebody may be looking now, or nobody any more; pages report by themselves what they find out by themselves. */
  look() {
    this.#ask({kind: this.#here ? "look" : "away", from: this.#tabs?.name}, () => this.#line.look());
  }

  // -- in here

  /** Done by the tab that leads, which may be this one. */
  #ask(message, act) {
    if (this.#tabs === null || this.#tabs.leader) act();
    else this.#tabs.say(message);
  }

  #say(message) {
    this.#ask({kind: "mark", message}, () => this.#line.mark(message));
  }

  #tell(message) {
    if (this.#tabs?.leader) this.#tabs.say(message);
  }

  #woke() {
    if (this.#tabs !== null && !this.#tabs.leader) this.#tabs.say({kind: "hello", from: this.#tabs.name});
    this.#ask({kind: "wake"}, () => this.#line.wake());
  }

  #leave() {
    if (this.#tabs !== null && !this.#tabs.leader) this.#tabs.say({kind: "away", from: this.#tabs.name});
  }

  #enter(state) {
    this.#state = state;
    this.dispatchEvent(new NotifierEvent("state", state));
  }

  #heard(message, {shown, news}) {
    this.#marks.settle(this.#inbox);
    if (message.refused !== undefined) this.#marks.forget(message.refused);
    if (message.type === "upto") for (const due of this.#marks.due()) this.#say(due);
    if (message.type === "resync") this.dispatchEvent(new NotifierEvent("resync", {reason: message.reason}));
    if (message.type === "error") this.dispatchEvent(new NotifierEvent("refused", {code: message.code, reason: message.reason}));
    if (news !== null) this.dispatchEvent(new NotifierEvent("notification", news));
    if (shown) this.dispatchEvent(new NotifierEvent("change", null));
  }

  #lead() {
    this.#told = true;
    this.#tell(this.#snapshot());
    this.#line.start();
  }

  #snapshot(to) {
    return {kind: "snapshot", to, inbox: this.#inbox.save(), state: this.#state};
  }

  #hear(data) {
    const heard = this.#tabs?.leader ? LEADER_HEARS : FOLLOWER_HEARS;
    if (heard === FOLLOWER_HEARS && data.kind !== "snapshot" && !this.#told) return;
    heard[data.kind]?.(data, {
      restore: ({inbox, state}) => this.#restore(inbox, state),
      begin: () => this.#inbox.begin(),
      message: (message) => this.#heard(message, this.#inbox.apply(message)),
      enter: (state) => this.#enter(state),
      greet: (from) => this.#tell(this.#snapshot(from)),
      mark: (message) => this.#line.mark(message),
      look: (from) => { this.#others.set(from, Date.now()); this.#line.look(); },
      leave: (from) => this.#others.delete(from),
      wake: () => this.#line.wake(),
      start: () => this.#line.start(),
    });
  }

  #restore(inbox, state) {
    this.#told = true;
    this.#inbox.restore(inbox);
    this.#enter(state);
    this.dispatchEvent(new NotifierEvent("change", null));
  }
}

const FOLLOWER_HEARS = {
  snapshot: (data, act) => act.restore(data),
  begin: (data, act) => act.begin(),
  message: ({message}, act) => act.message(message),
  state: ({state}, act) => act.enter(state),
};

const LEADER_HEARS = {
  hello: ({from}, act) => act.greet(from),
  mark: ({message}, act) => act.mark(message),
  look: ({from}, act) => act.look(from),
  away: ({from}, act) => act.leave(from),
  wake: (data, act) => act.wake(),
  start: (data, act) => act.start(),
};
