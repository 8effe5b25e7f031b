// Node's own http2 to APNs or FCM, or @parse/node-apn. Usage: node node.js http2|fcm|apn PORT AUTHORITY COUNT IN_FLIGHT
'use strict';

const { connect } = require('http2');
const { generateKeyPairSync, randomUUID } = require('crypto');
const { readFileSync } = require('fs');

const WARM = 2000;
const TOPIC = 'com.example.photos';
const [kind, ...rest] = process.argv.slice(2);
const [port, authority, count, inFlight] = [+rest[0], rest[1], +rest[2], +rest[3]];
const tokens = Array.from({ length: 5000 }, (_, number) => number.toString(16).padStart(64, '0'));
const payload = {
  aps: {
    alert: { body: 'ana and 2 others liked your photo' }, badge: 3, sound: 'default', 'thread-id': 'like-99',
  },
  nid: '01JD8YK3V9', epoch: '12.ab', seq: 7, kind: 'like', object_type: 'photo', object_id: '99',
};

const message = {
  data: {
    nid: '01JD8YK3V9', epoch: '12.ab', seq: '7', kind: 'like', unread: '3', object_type: 'photo', object_id: '99',
  },
  notification: { body: 'ana and 2 others liked your photo' },
  android: {
    priority: 'HIGH', ttl: '21600s', collapse_key: 'like',
    notification: { tag: 'like-99', notification_count: 3, sound: 'default' },
  },
};

function toApns() {
  const body = JSON.stringify(payload);
  const bearer = `bearer ${'j'.repeat(215)}`;
  return (token) => [{
    ':method': 'POST', ':path': `/3/device/${token}`, authorization: bearer, 'apns-topic': TOPIC,
    'apns-push-type': 'alert', 'apns-priority': '10', 'apns-expiration': '1790000000',
    'apns-collapse-id': 'like-99', 'apns-id': randomUUID(),
  }, body];
}

function toFcm() {
  const rest = JSON.stringify(message).slice(1);
  const head = {
    ':method': 'POST', ':path': '/v1/projects/example/messages:send', authorization: `Bearer ${'y'.repeat(207)}`,
    'content-type': 'application/json; charset=UTF-8',
  };
  return (token) => [head, `{"message":{"token":"bench:${token.padStart(140, '0')}",${rest}}`];
}

function bare(request) {
  const session = connect(`https://127.0.0.1:${port}`, { ca: readFileSync(authority) });
  return (token) => new Promise((done, failed) => {
    const [fields, body] = request(token);
    const stream = session.request(fields);
    let status = 0;
    stream.on('response', (answer) => { status = answer[':status']; });
    stream.on('data', () => {});
    stream.on('end', () => done(status));
    stream.on('error', failed);
    stream.end(body);
  });
}

function library() {
  const apn = require('@parse/node-apn');
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
  const key = privateKey.export({ type: 'pkcs8', format: 'pem' });
  const provider = new apn.Provider({
    token: { key, keyId: 'ABC123DEFG', teamId: 'TEAM123456' },
    address: '127.0.0.1', port, ca: authority, production: true,
  });
  return async (token) => {
    const note = new apn.Notification();
    note.rawPayload = payload;
    note.topic = TOPIC;
    note.pushType = 'alert';
    note.expiry = 1790000000;
    note.collapseId = 'like-99';
    note.id = randomUUID();
    const { sent, failed } = await provider.send(note, token);
    return sent.length ? 200 : +failed[0].status || String(failed[0].error);
  };
}

async function run(push, total) {
  const latencies = [];
  const statuses = {};
  let next = 0;
  async function lane() {
    while (next < total) {
      const began = performance.now();
      const status = await push(tokens[next++ % tokens.length]);
      latencies.push(performance.now() - began);
      statuses[status] = (statuses[status] || 0) + 1;
    }
  }
  const cpu = process.cpuUsage();
  const at = performance.now();
  await Promise.all(Array.from({ length: inFlight }, lane));
  const used = process.cpuUsage(cpu);
  const took = performance.now() - at;
  latencies.sort((a, b) => a - b);
  return {
    cpu_us_per_push: (used.user + used.system) / total,
    pushes_per_s: total / took * 1000,
    p50_ms: latencies[Math.floor(total / 2)],
    p99_ms: latencies[Math.floor(total * 0.99)],
    answered: total,
    statuses,
  };
}

async function main() {
  const push = kind === 'apn' ? library() : bare(kind === 'fcm' ? toFcm() : toApns());
  await push(tokens[0]);
  await run(push, WARM);
  console.log(JSON.stringify(await run(push, count)));
  process.exit(0);
}

main().catch((error) => { console.error(error); process.exit(1); });
