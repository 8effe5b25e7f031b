// The demo's page: a client of the WebSocket protocol notifier.v1 without any library.
// Inbox holds the list and the place in it, Line keeps it connected, View shows it. Nothing here is built or fetched
// from elsewhere.

const USER = /^[A-Za-z0-9_.-]{1,64}$/;
const ACK_EVERY = 32;        // notifications
const ACK_WITHIN = 100;      // ms
const ACTIVE_WITHIN = 60_000;  // ms since the last input: the person is looking
const SILENCE = 25_000;      // ms without a frame, then a ping
const PONG_WITHIN = 10_000;  // ms
const BACKOFF_FIRST = 500;   // ms
const BACKOFF_MOST = 30_000;
const TOKEN_SPARE = 60_000;  // ms before its end that a token is no longer used for a call

// ---------------------------------------------------------------------------------------------- the inbox

/** A person's notifications, and the place up to which they are known. Knows no socket and no page. */
class Inbox {
  rows = new Map();  // notification id -> row
  unread = 0;
  seen = 0;          // seq up to which the person has seen them
  last = 0;          // highest seq that came over this connection
  #epoch = null;     // epoch and seq make a place; null: none yet
  #seq = 0;
  #settled = false;  // no resume is under way: the next change is seq + 1
  #loading = null;   // the rows of a load from the beginning, until it is complete

  /** What `auth` says beside the token. */
  get place() {
    return this.#epoch === null ? {after: 0} : {epoch: this.#epoch, after: this.#seq};
  }

  get settled() { return this.#settled; }

  /** The whole inbox is being sent: its rows are not news. */
  get loading() { return this.#loading !== null; }

  /** A new connection begins: what the old one had not completed comes again. */
  begin() {
    this.last = 0;
    this.#settled = false;
    this.#loading = this.#epoch === null ? new Map() : null;
  }

  /** Take in a message. True if it is one with a seq, to be acknowledged. */
  receive(message) {
    if (message.type === "resync") {
      // Our place is gone. The old rows stay on show until the new ones are complete.
      this.#epoch = null;
      this.begin();
      return false;
    }
    if (Number.isInteger(message.unread)) this.unread = message.unread;
    if (message.type === "upto") this.#complete(message);
    const changed = this.#change(message);
    if (Number.isInteger(message.floor)) this.#drop(message.floor);
    return changed;
  }

  /** The resume is complete: only now epoch and seq are replaced, together. */
  #complete({epoch, seq, seen}) {
    if (this.#loading !== null) [this.rows, this.#loading] = [this.#loading, null];
    [this.#epoch, this.#seq, this.seen] = [epoch, seq, seen];
    this.#settled = true;
  }

  #change(message) {
    const apply = CHANGES[message.type];
    if (apply === undefined || !Number.isInteger(message.seq)) return false;
    apply(this.#loading ?? this.rows, message, this);
    this.last = Math.max(this.last, message.seq);
    if (this.#settled) {
      // A gap means that the server resumes by itself; the place stays until its `upto`.
      if (message.seq === this.#seq + 1) this.#seq = message.seq;
      else if (message.seq > this.#seq) this.#settled = false;
    }
    return true;
  }

  /** Rows up to the floor exist no more. */
  #drop(floor) {
    const rows = this.#loading ?? this.rows;
    for (const [id, row] of rows) if (row.seq <= floor) rows.delete(id);
  }
}

/** What each kind of change does to the rows. A row is replaced, never altered, so that the view can compare. */
const CHANGES = {
  notification: (rows, row) => rows.set(row.id, row),
  retract: (rows, {id}) => rows.delete(id),
  deleted: (rows, {ids}) => ids.forEach(id => rows.delete(id)),
  seen: (rows, {upto}, inbox) => { inbox.seen = Math.max(inbox.seen, upto); },
  read: (rows, {ids}) => {
    for (const id of ids) {
      const row = rows.get(id);
      if (row !== undefined && !row.read) rows.set(id, {...row, read: true});
    }
  },
};

// ------------------------------------------------------------------------------------------ the connection

/** Fetches of our own server or of the API; the error's text is for the person. */
async function call(url, options = {}) {
  const response = await fetch(url, {cache: "no-store", signal: AbortSignal.timeout(10_000), ...options});
  const text = await response.text();
  let said = null;
  try { said = text && JSON.parse(text); } catch { /* not JSON: the status says it */ }
  if (response.ok) return said;
  throw Object.assign(new Error(said?.detail || said?.title || `the answer was ${response.status}`), {status: response.status});
}

/** One person's connection, made again whenever it breaks. `tell(state, text)`, `heard(message)`: callbacks. */
class Line {
  #user; #inbox; #tell; #heard;
  #socket = null; #pass = null; #timer = null; #tries = 0; #wait = null;
  #frameAt = 0; #pingAt = 0;
  #owed = 0; #ackTimer = null; #looked = 0;
  #inputAt = -Infinity;

  constructor(user, inbox, tell, heard) {
    [this.#user, this.#inbox, this.#tell, this.#heard] = [user, inbox, tell, heard];
    for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchstart"]) {
      addEventListener(kind, () => this.#input(), {passive: true, capture: true});
    }
    document.addEventListener("visibilitychange", () => this.#wake());
    addEventListener("online", () => this.#wake());
    setInterval(() => this.#watch(), 5_000);
  }

  /** Connect now, whatever was planned. */
  async connect() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#tell("connecting", "connecting");
    const attempt = this.#socket = {};  // whatever an older attempt still reports is not ours
    try {
      this.#pass = await this.#fetchToken();
    } catch (fault) {
      if (this.#socket !== attempt) return;
      if (fault.status === 400) this.#stop(fault.message);
      else this.#retry("the demo does not answer");
      return;
    }
    if (this.#socket === attempt) this.#open();
  }

  #open() {
    const socket = this.#socket = new WebSocket(this.#pass.websocket, ["notifier.v1"]);
    const ours = handle => event => { if (this.#socket === socket) handle(event); };
    this.#frameAt = Date.now();
    this.#pingAt = 0;
    socket.onopen = ours(() => {
      this.#inbox.begin();
      this.#send({type: "auth", token: this.#pass.token, ...this.#inbox.place});
    });
    socket.onmessage = ours(({data}) => this.#receive(JSON.parse(data)));
    socket.onclose = ours(({code, reason}) => {
      clearTimeout(this.#ackTimer);
      this.#ackTimer = null;
      this.#owed = 0;
      // 4000-4499: come again; 4500-4999: do not, it would end the same way
      if (code >= 4500 && code <= 4999) this.#stop(reason || `closed with ${code}`);
      else this.#retry(reason || "connection lost");
    });
  }

  async #fetchToken() {
    return call(`/token?user=${encodeURIComponent(this.#user)}`);
  }

  #receive(message) {
    this.#frameAt = Date.now();
    this.#pingAt = 0;
    if (this.#inbox.receive(message)) this.#acknowledge(message.type === "notification");
    if (message.type === "upto") {
      this.#tries = 0;
      this.#tell("live", "live");
      this.#look();
    } else if (message.type === "resync") {
      this.#looked = 0;
    } else if (message.type === "reauth") {
      this.#renew();
    } else if (message.type === "drain") {
      this.#wait = message.retry_ms;
    } else if (message.type === "error") {
      console.warn(`notifier: error ${message.code}: ${message.reason}`);
    }
    this.#heard(message);
  }

  /** A new token on the same connection, before the old one ends. */
  async #renew() {
    const socket = this.#socket;
    try {
      this.#pass = await this.#fetchToken();
    } catch {
      return;  // the server closes with 4001 when the token ends, and then we come again
    }
    if (this.#socket === socket) this.#send({type: "auth", token: this.#pass.token});
  }

  // -- going and coming again

  #retry(why) {
    this.#drop();
    // Full jitter: a thousand pages that lost the same server do not come back in step.
    const most = Math.min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** this.#tries++);
    const delay = this.#wait ?? Math.random() * most;
    this.#wait = null;
    this.#tell("waiting", `${why}; again in ${Math.max(1, Math.ceil(delay / 1000))} s`);
    this.#timer = setTimeout(() => this.connect(), delay);
  }

  #stop(why) {
    this.#drop();
    this.#tell("stopped", why);
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#looked = 0;
    if (socket instanceof WebSocket && socket.readyState <= WebSocket.OPEN) socket.close(1000);
  }

  /** Pages cannot see the server's own pings: a silent line is asked, a dead one given up. */
  #watch() {
    if (!(this.#socket instanceof WebSocket)) return;
    const now = Date.now();
    if (this.#pingAt) {
      if (now - this.#pingAt >= PONG_WITHIN) this.#retry("no answer");
    } else if (now - this.#frameAt >= SILENCE) {
      this.#pingAt = now;
      this.#send({type: "ping"});  // on a socket that never opened it goes nowhere, and is missed all the same
    }
  }

  /** The person, or the network, is back: do not wait for the timer. */
  #wake() {
    if (document.visibilityState !== "visible") return;
    if (this.#timer !== null) this.connect();
    else this.#watch();
    this.#look();
  }

  #send(message) {
    const socket = this.#socket;
    if (!(socket instanceof WebSocket) || socket.readyState !== WebSocket.OPEN) return false;
    socket.send(JSON.stringify(message));
    return true;
  }

  // -- receipts and sight

  get #active() {
    return document.visibilityState === "visible" && Date.now() - this.#inputAt < ACTIVE_WITHIN;
  }

  #input() {
    this.#inputAt = Date.now();
    this.#look();
  }

  #acknowledge(counts) {
    if (counts) this.#owed += 1;
    if (this.#owed >= ACK_EVERY) this.#ack();
    else this.#ackTimer ??= setTimeout(() => this.#ack(), ACK_WITHIN);
  }

  /** Cumulative; `active` also says that the person has seen it. */
  #ack() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
    this.#owed = 0;
    const seq = this.#inbox.last;
    const active = this.#active && this.#inbox.settled;
    if (!this.#send(active ? {type: "ack", seq, active} : {type: "ack", seq})) return;
    if (active) this.#looked = seq;
  }

  /** What came while nobody looked is seen now. At most once for every change, so input costs nothing. */
  #look() {
    const {last, settled} = this.#inbox;
    if (this.#active && settled && last > this.#looked && this.#ackTimer === null) this.#ack();
  }

  // -- what the person does

  read(ids) { return this.#send({type: "read", ids}); }
  readAll() { return this.#send({type: "read", seq: this.#inbox.place.after}); }
  seen() { return this.#send({type: "seen", seq: this.#inbox.place.after}); }

  /** Delete over the API; the row goes when the change comes over the socket, here and on every screen. */
  async delete(id) {
    if (this.#pass === null || this.#pass.expires * 1000 - Date.now() < TOKEN_SPARE) this.#pass = await this.#fetchToken();
    const headers = {Authorization: `Bearer ${this.#pass.token}`};
    await call(`${this.#pass.api}/v1/inbox/${encodeURIComponent(id)}`, {method: "DELETE", headers});
  }
}

// -------------------------------------------------------------------------------------------------- words

const DID = {
  follow: () => "started following you",
  like: thing => `liked ${thing}`,
  comment: thing => `commented on ${thing}`,
};

function who({actors, count}) {
  const names = actors.map(actor => actor.name || actor.id);
  const others = count - 1;
  if (others <= 0) return names[0];
  if (others === 1 && names.length > 1) return `${names[0]} and ${names[1]}`;
  return `${names[0]} and ${others} other${others > 1 ? "s" : ""}`;
}

function did({kind, object}) {
  const thing = object ? `your ${object.type} ${object.id}` : "something of yours";
  return (DID[kind] ?? (() => `${kind}: ${object ? thing : "you"}`))(thing);
}

const relative = new Intl.RelativeTimeFormat("en", {numeric: "auto"});
const STEPS = [[60, "second", 1], [3600, "minute", 60], [86_400, "hour", 3600], [Infinity, "day", 86_400]];

function ago(time) {
  const seconds = Math.min(0, (Date.parse(time) - Date.now()) / 1000);
  if (seconds > -10) return "just now";
  const [, unit, size] = STEPS.find(([most]) => -seconds < most);
  return relative.format(Math.round(seconds / size), unit);
}

function hue(text) {
  let sum = 0;
  for (const letter of text) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

// --------------------------------------------------------------------------------------------------- view

const $ = id => document.getElementById(id);

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Shows an inbox. Everything that came from outside goes through textContent. */
class View {
  #inbox; #act; #items = new Map(); #planned = false; #news = []; #newsTimer = null; #fresh = new Set();

  constructor(inbox, act) {
    [this.#inbox, this.#act] = [inbox, act];
    setInterval(() => this.#tick(), 15_000);
  }

  /** Draw soon, once for many changes. Not by animation frame: a hidden tab's title counts too. */
  draw() {
    if (this.#planned) return;
    this.#planned = true;
    setTimeout(() => {
      this.#planned = false;
      this.#draw();
    }, 16);
  }

  connection(state, text) {
    $("connection").dataset.state = state;
    $("connection-text").textContent = state === "stopped" ? "not connected" : text;
    $("fault").hidden = state !== "stopped";
    $("fault-text").textContent = state === "stopped" ? text : "";
  }

  /** Point out what has just come; to a screen reader, several that come together in one sentence. */
  announce(row) {
    this.#fresh.add(row.id);
    this.#news.push(`${who(row)} ${did(row)}`);
    this.#newsTimer ??= setTimeout(() => {
      const [count, latest] = [this.#news.length, this.#news.at(-1)];
      $("news").textContent = count === 1 ? latest : `${count} notifications; the latest: ${latest}`;
      [this.#news, this.#newsTimer] = [[], null];
    }, 500);
  }

  #draw() {
    const {unread, rows} = this.#inbox;
    $("unread").hidden = unread <= 0;
    $("unread").textContent = unread > 99 ? "99+" : unread;
    $("bell").setAttribute("aria-label", `Notifications, ${unread} unread`);
    $("read-all").disabled = unread <= 0;
    $("empty").hidden = rows.size > 0;
    document.title = unread > 0 ? `(${unread}) notifier demo` : "notifier demo";
    const list = $("list");
    const order = [...rows.values()].sort((one, two) => two.seq - one.seq);
    this.#remove(rows, list);
    order.forEach((row, at) => {
      const item = this.#item(row);
      if (list.children[at] !== item) list.insertBefore(item, list.children[at] ?? null);
    });
  }

  #remove(rows, list) {
    for (const [id, {item}] of this.#items) {
      if (rows.has(id)) continue;
      if (item.contains(document.activeElement)) {
        // The keyboard stays where it was: on the next row, else on the list.
        const next = item.nextElementSibling ?? item.previousElementSibling;
        (next?.querySelector(".delete") ?? $("inbox")).focus();
      }
      item.remove();
      this.#items.delete(id);
    }
  }

  #item(row) {
    const known = this.#items.get(row.id);
    if (known?.row === row) return known.item;
    const item = known?.item ?? this.#make(row.id);
    this.#items.set(row.id, {row, item});
    item.className = row.read ? "" : "unread";
    if (this.#fresh.delete(row.id)) item.classList.add("new");
    const actor = row.actors[0];
    const name = actor.name || actor.id;
    const [face, say] = item.firstElementChild.children;
    face.textContent = [...name][0];
    face.style.setProperty("--hue", hue(actor.id));
    say.querySelector("b").textContent = who(row);
    say.querySelector(".did").textContent = ` ${did(row)}`;
    const words = say.querySelector(".words");
    words.textContent = row.text ?? "";
    words.hidden = !row.text;
    const time = say.querySelector("time");
    time.dateTime = row.time;
    time.title = new Date(row.time).toLocaleString();
    time.textContent = ago(row.time);
    say.querySelector(".hidden").textContent = row.read ? "" : "Unread. ";
    item.querySelector(".delete").setAttribute("aria-label", `Delete: ${who(row)} ${did(row)}`);
    return item;
  }

  #make(id) {
    const item = element("li", "");
    item.dataset.id = id;
    const open = element("button", "open");
    open.type = "button";
    const say = element("span", "say");
    say.append(element("span", "hidden"), element("b", ""), element("span", "did"), element("span", "words"), element("time", ""));
    const face = element("span", "face");
    face.setAttribute("aria-hidden", "true");
    open.append(face, say, element("span", "dot"));
    open.onclick = () => this.#act.read(id);
    const remove = element("button", "delete", "×");
    remove.type = "button";
    remove.title = "Delete";
    remove.onclick = () => this.#act.delete(id);
    item.append(open, remove);
    return item;
  }

  #tick() {
    for (const time of document.querySelectorAll("#list time")) time.textContent = ago(time.dateTime);
  }
}

// ------------------------------------------------------------------------------------------- the publisher

/** The event that the form describes, as a producer would append it. */
function eventOf(form) {
  const kind = form.kind.value;
  const from = form.from.value.trim();
  const event = {
    type: (form.undo.checked ? "un" : "") + kind,
    actor: {id: from},
    to: [...new Set(form.to.value.split(/[\s,]+/).filter(Boolean))],
  };
  const object = form.object.value.trim();
  if (kind !== "follow" && object) {
    const slash = object.indexOf("/");
    event.object = {type: object.slice(0, Math.max(0, slash)) || "photo", id: object.slice(slash + 1)};
  }
  const text = form.text.value.trim();
  if (kind === "comment" && !form.undo.checked && text) event.text = text;
  return event;
}

function publisher() {
  const form = $("send");
  const sent = $("sent");
  const show = () => {
    const kind = form.kind.value;
    $("undo-name").textContent = `un${kind}`;
    $("object-field").hidden = kind === "follow";
    $("text-field").hidden = kind !== "comment" || form.undo.checked;
    $("preview").textContent = `XADD notifier:events * event\n${JSON.stringify(eventOf(form), null, 1)}`;
  };
  const say = (text, bad = false) => {
    sent.textContent = text;
    sent.classList.toggle("bad", bad);
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", async submitted => {
    submitted.preventDefault();
    const event = eventOf(form);
    try {
      const {entry} = await call("/publish", {
        method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(event),
      });
      say(`Accepted: ${event.type} from ${event.actor.id} to ${event.to.join(", ")}, entry ${entry}`);
    } catch (fault) {
      say(`Not accepted: ${fault.message}`, true);
    }
  });
  return {show, say};
}

// --------------------------------------------------------------------------------------------------- start

function start() {
  const user = new URLSearchParams(location.search).get("user") ?? "7";
  const form = publisher();
  $("user").value = user;
  $("to").value = USER.test(user) ? user : "7";
  form.show();

  const inbox = new Inbox();
  const view = new View(inbox, {
    read: id => { if (!inbox.rows.get(id)?.read) line.read([id]); },
    delete: id => line.delete(id).catch(fault => form.say(`Not deleted: ${fault.message}`, true)),
  });
  const line = new Line(user, inbox, (state, text) => view.connection(state, text), message => {
    if (message.type === "notification" && !inbox.loading && !message.read) view.announce(message);
    view.draw();
  });

  $("read-all").onclick = () => line.readAll();
  $("again").onclick = () => line.connect();
  $("bell").onclick = () => {
    line.seen();
    $("inbox").focus({preventScroll: true});
    $("inbox").scrollIntoView({block: "center"});
  };
  if (USER.test(user)) line.connect();
  else view.connection("stopped", "this user id is none: 1 to 64 characters of A-Z a-z 0-9 _ . -");
}

start();
