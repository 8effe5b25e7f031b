/** A client of notifier (protocol notifier.v1): docs/clients.md tells how to use it, docs/websocket.md what it speaks. */

export interface Actor {
  readonly id: string;
  readonly name?: string;
  readonly image?: string;
}

export interface Subject {
  readonly type: string;
  readonly id: string;
  readonly url?: string;
  readonly image?: string;
}

/** A row of the inbox. All text in it was written by producers and users: show it as text, never as HTML. */
export interface Row {
  readonly id: string;
  readonly seq: number;
  /** The event's type, as "like". */
  readonly kind: string;
  readonly actors: readonly Actor[];
  /** How many people acted: at least as many as `actors` names. */
  readonly count: number;
  /** RFC 3339, UTC. */
  readonly time: string;
  readonly object?: Subject;
  readonly text?: string;
  readonly read: boolean;
}

/**
 * "idle": not started, or closed. "connecting": on the way, or a resume is under way. "live": everything is here, and
 * what changes comes at once. "waiting": the connection broke and is made again. "stopped": the server does not want
 * us until something has changed, or `token` gave nothing; `start()` tries anew.
 */
export type State = "idle" | "connecting" | "live" | "waiting" | "stopped";

export interface StateDetail {
  readonly state: State;
  /** The close code, 0 if there was none; with "waiting" and "stopped". */
  readonly code?: number;
  /** For a developer's eyes; with "waiting" and "stopped". */
  readonly reason?: string;
  /** Milliseconds until the next try; with "waiting". */
  readonly delay?: number;
}

export interface Refusal {
  readonly code: number;
  readonly reason: string;
}

export interface NotifierEventMap {
  /** The rows or the counters are others now. */
  change: NotifierEvent<null>;
  /** An unread row that was not here before in this version: while live, or missed while away. Not at the first load. */
  notification: NotifierEvent<Row>;
  state: NotifierEvent<StateDetail>;
  /** The place was lost; the rows are loaded anew. Nothing needs to be done. */
  resync: NotifierEvent<{readonly reason: string}>;
  /** The server refused a message; or, over the HTTP API and for good, a mark. */
  refused: NotifierEvent<Refusal>;
}

/** Milliseconds. */
export interface Timing {
  /** Bound of the first wait, which doubles with each try (500). */
  first: number;
  /** Bound of every wait (30 000). */
  most: number;
  /** How long a connection lives until the waits begin small again (60 000). */
  stable: number;
  /** For token, handshake and `ready` together (15 000). */
  answer: number;
  /** Without a message, then a ping (30 000). */
  silence: number;
  /** For the answer to it (10 000). */
  pong: number;
  /** Since the last input, during which a person counts as looking (60 000). */
  active: number;
}

export interface Options {
  /** Address of the WebSocket: `wss://push.example.com/v1/websocket`. */
  websocket: string;
  /** Called before each connection and each renewal. Nothing (null): nobody is signed in, stop. Rejects: try later. */
  token: () => string | null | undefined | Promise<string | null | undefined>;
  /** Address of the HTTP API without a path: `https://push.example.com`. Needed by `delete` and for networks without WebSockets. */
  api?: string | null;
  /** Who is signed in, as a name for this browser's tabs: those that say the same share one connection. */
  person?: string | null;
  /** Is the person looking? Pages find out by themselves (visible, and input within a minute). */
  active?: (() => boolean) | null;
  /** For environments without one. */
  WebSocket?: new (url: string, protocols: string[]) => WebSocket;
  timing?: Partial<Timing>;
}

export class NotifierEvent<Detail> extends Event {
  constructor(type: string, detail: Detail);
  readonly detail: Detail;
}

/** One person's notifications, kept current. */
export class Notifier extends EventTarget {
  /** Throws TypeError for options that cannot be. */
  constructor(options: Options);

  /** Newest first. */
  readonly rows: Row[];
  readonly unread: number;
  /** Rows up to this seq have been looked at. */
  readonly seenUpTo: number;
  readonly state: State;
  /** Does this tab have the connection? */
  readonly leading: boolean;
  /** Is the person looking, here or in a tab that shares the connection? */
  readonly active: boolean;

  /** Connect, and stay connected. Also tries again after "stopped". */
  start(): void;
  /** Disconnect, and let another tab have the connection. `start` begins again, with what is here. */
  close(): void;
  /** These rows have been opened. Kept until the inbox shows it, also without a connection, or until it is `refused`. */
  read(ids: Iterable<string>): void;
  /** Every row that is here has been read. */
  readAll(): void;
  /** The person has looked at the list. */
  seen(): void;
  /** Removes a row over the HTTP API. Rejects with an Error that has a `status` if that fails. */
  delete(id: string): Promise<void>;
  /** The answer of `active` may be another now. */
  look(): void;

  addEventListener<Name extends keyof NotifierEventMap>(
    type: Name,
    listener: (this: Notifier, event: NotifierEventMap[Name]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Name extends keyof NotifierEventMap>(
    type: Name,
    listener: (this: Notifier, event: NotifierEventMap[Name]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** A message of the server: `type` names it (docs/websocket.md). */
export interface Message {
  readonly type: string;
  readonly [member: string]: unknown;
}

/** The list and the place in it, without a connection: for those who bring their own. */
export class Inbox {
  readonly rows: Map<string, Row>;
  readonly unread: number;
  readonly seen: number;
  /** Highest seq that came over this connection: what to acknowledge. */
  readonly last: number;
  /** No resume is under way. */
  readonly complete: boolean;
  /** What `auth` says beside the token. */
  readonly place: {readonly after: number; readonly epoch?: string};
  /** A connection begins. */
  begin(): void;
  apply(message: Message): {counts: boolean; shown: boolean; news: Row | null};
}

/** Milliseconds to wait before try number `tries`, from 0: any time up to a bound that doubles. */
export function backoff(tries: number, timing?: {first: number; most: number}, chance?: () => number): number;

/** The data of each server-sent event in a body. */
export function events(body: ReadableStream<Uint8Array>, alive?: () => void): AsyncGenerator<string, void, void>;
