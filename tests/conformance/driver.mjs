// The program that the conformance suite drives: clients/js on a scripted server, in Node.js.
import {createInterface} from "node:readline";
import {Notifier} from "../../clients/js/notifier.js";
import {NodeSocket} from "./node_socket.mjs";

let tokens = 0, active = false;
const news = [];
const notifier = new Notifier({
  websocket: process.argv[2],
  api: process.argv[3] ?? null,
  token: () => `token-${++tokens}`,
  active: () => active,
  WebSocket: globalThis.WebSocket ?? NodeSocket,
  timing: {first: 20, most: 50, answer: process.argv[3] ? 1_500 : 600},
});
const show = () => {
  const rows = notifier.rows;
  const read = rows.filter((row) => row.read).map((row) => row.id);
  const {state, unread, seenUpTo: seen} = notifier;
  console.log(JSON.stringify({state, rows: rows.map((row) => row.id), read, unread, seen, news}));
};
notifier.addEventListener("notification", ({detail}) => news.push(detail.id));
for (const kind of ["state", "notification", "change"]) notifier.addEventListener(kind, show);

const COMMANDS = {
  read: ({ids}) => notifier.read(ids),
  read_all: () => notifier.readAll(),
  seen: () => notifier.seen(),
  active: ({value}) => { active = value; notifier.look(); },
};
const lines = createInterface({input: process.stdin});
lines.on("line", (line) => {
  const command = JSON.parse(line);
  COMMANDS[command.do](command);
});
lines.on("close", () => process.exit());
notifier.start();
