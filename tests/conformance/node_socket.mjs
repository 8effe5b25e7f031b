// What Node.js has as WebSocket from version 22 on, as far as a client needs it (RFC 6455, no extensions).
import {request} from "node:http";
import {randomBytes} from "node:crypto";

export class NodeSocket {
  readyState = 0;
  #held = Buffer.alloc(0);
  #socket = null;
  onopen = null; onmessage = null; onclose = null; onerror = null;

  constructor(url, protocols) {
    const headers = {
      Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": 13,
      "Sec-WebSocket-Key": randomBytes(16).toString("base64"), "Sec-WebSocket-Protocol": protocols.join(", "),
    };
    const ask = request(url.replace(/^ws/, "http"), {headers});
    ask.on("error", () => this.#over(1006, ""));
    ask.on("response", (answer) => { answer.destroy(); this.#over(1006, ""); });
    ask.on("upgrade", (answer, socket, head) => {
      this.#socket = socket;
      socket.on("data", (data) => this.#take(data)).on("error", () => {}).on("close", () => this.#over(1006, ""));
      if (this.readyState !== 0) return socket.destroy();
      this.readyState = 1;
      this.onopen?.({});
      return this.#take(head);
    });
    ask.end();
  }

  #take(data) {
    this.#held = Buffer.concat([this.#held, data]);
    for (;;) {
      const held = this.#held;
      if (held.length < 2) return;
      const short = held[1] & 127;
      const at = short === 126 ? 4 : short === 127 ? 10 : 2;
      if (held.length < at) return;
      const size = short === 126 ? held.readUInt16BE(2) : short === 127 ? Number(held.readBigUInt64BE(2)) : short;
      if (held.length < at + size) return;
      this.#held = held.subarray(at + size);
      this.#frame(held[0] & 15, held.subarray(at, at + size));
    }
  }

  #frame(opcode, body) {
    if (opcode === 1) this.onmessage?.({data: body.toString()});
    if (opcode === 9) this.#write(10, body);
    if (opcode === 8) {
      this.#write(8, body.subarray(0, 2));
      this.#over(body.length >= 2 ? body.readUInt16BE(0) : 1005, body.subarray(2).toString());
    }
  }

  #write(opcode, body) {
    const size = body.length;
    const head = size < 126 ? [0x80 | opcode, 0x80 | size] : [0x80 | opcode, 0xfe, size >> 8, size & 255];
    this.#socket.write(Buffer.concat([Buffer.from([...head, 0, 0, 0, 0]), body]));  // a mask of zeros changes nothing
  }

  send(text) { this.#write(1, Buffer.from(text)); }

  close(code = 1000) {
    if (this.readyState === 1) this.#write(8, Buffer.from([code >> 8, code & 255]));
    this.#over(code, "");
  }

  #over(code, reason) {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.#socket?.end();
    this.onclose?.({code, reason});
  }
}
