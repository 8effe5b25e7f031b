// ws + ioredis: reads entries `u <user> d <text>` of a stream in batches and sends each to its user's socket.
// Usage: node ws.js PORT REDIS_PORT. No tokens, no inbox, no acks from clients: a bare peer.
'use strict';

const { WebSocketServer } = require('ws');
const Redis = require('ioredis');

const STREAM = 'floor:events';
const GROUP = 'ws';
const BATCH = 500;
const EVERYBODY = '******';

const [port, redisPort] = process.argv.slice(2).map(Number);
const sockets = new Map();

async function readForEver(reader, acker) {
  for (;;) {
    const answer = await reader.xreadgroup(
      'GROUP', GROUP, 'c0', 'COUNT', BATCH, 'BLOCK', 0, 'STREAMS', STREAM, '>');
    if (!answer) continue;
    const ids = [];
    for (const [id, [, user, , text]] of answer[0][1]) {
      ids.push(id);
      deliver(user, text);
    }
    // Not awaited: the next batch is read while Redis acknowledges this one.
    acker.xack(STREAM, GROUP, ...ids).catch(fail);
  }
}

function deliver(user, text) {
  if (user !== EVERYBODY) {
    sockets.get(user)?.send(text);
    return;
  }
  const once = Buffer.from(text);  // encoded once for all
  for (const socket of sockets.values()) socket.send(once, { binary: false });
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

async function main() {
  const reader = new Redis(redisPort, '127.0.0.1');
  await reader.xgroup('CREATE', STREAM, GROUP, '0', 'MKSTREAM');
  const server = new WebSocketServer({ port, host: '127.0.0.1', backlog: 4096 });
  server.on('error', fail);
  server.on('connection', (socket, request) => {
    const user = new URL(request.url, 'http://localhost').searchParams.get('u');
    sockets.set(user, socket);
    socket.on('close', () => sockets.delete(user));
    socket.on('error', () => socket.terminate());
  });
  await readForEver(reader, new Redis(redisPort, '127.0.0.1'));
}

main().catch(fail);
