// socket.io with its Redis adapter: each person is a room, events come from Redis by PUBLISH (at most once).
// Usage: node socketio.js PORT REDIS_PORT. No tokens, no inbox, no acks from clients: a bare peer.
'use strict';

const http = require('node:http');
const Redis = require('ioredis');
const { createAdapter } = require('@socket.io/redis-adapter');
const { Server } = require('socket.io');

const [port, redisPort] = process.argv.slice(2).map(Number);

async function main() {
  const publisher = new Redis(redisPort, '127.0.0.1');
  const subscriber = publisher.duplicate();
  const server = http.createServer();
  const io = new Server(server, { adapter: createAdapter(publisher, subscriber), transports: ['websocket'] });
  io.on('connection', (socket) => socket.join(socket.handshake.query.u));
  // The port is the sign of being ready; a message that was published before the subscription would be lost.
  await subscriber.ping();
  server.listen(port, '127.0.0.1', 4096);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
