// src/environment.ts
function realEnvironment(webSocket) {
  const world = globalThis;
  const link = world["navigator"]?.connection;
  const network = () => link?.type ?? link?.effectiveType ?? "any";
  let last = network();
  return {
    now: () => Date.now(),
    random: () => Math.random(),
    setTimeout: (callback, ms) => setTimeout(callback, ms),
    clearTimeout: (timer) => clearTimeout(timer),
    fetch: world["fetch"]?.bind(world),
    WebSocket: webSocket ?? world["WebSocket"],
    WebTransport: world["WebTransport"],
    localStorage: storage("localStorage"),
    sessionStorage: storage("sessionStorage"),
    locks: world["navigator"]?.locks,
    // A channel that listens would keep a Node process alive; there are no tabs there.
    BroadcastChannel: world["document"] ? world["BroadcastChannel"] : void 0,
    network,
    onWake(listener) {
      const offs = [
        listen(world["window"], "online", () => listener("network")),
        // It also changes with every measurement of the speed.
        listen(link, "change", () => last !== (last = network()) && listener("network")),
        listen(world["window"], "pagehide", () => listener("leaving")),
        listen(world["document"], "visibilitychange", () => {
          listener(world["document"].visibilityState === "visible" ? "visible" : "leaving");
        })
      ];
      return () => offs.forEach((off) => off());
    }
  };
}
function listen(target, name, handler) {
  target?.addEventListener?.(name, handler);
  return () => target?.removeEventListener?.(name, handler);
}
function storage(name) {
  if (!("document" in globalThis)) return void 0;
  try {
    return globalThis[name];
  } catch {
    return void 0;
  }
}
function readJson(storage2, key) {
  try {
    const text = storage2?.getItem(key);
    return text ? JSON.parse(text) : void 0;
  } catch {
    return void 0;
  }
}
function writeJson(storage2, key, value) {
  try {
    storage2?.setItem(key, JSON.stringify(value));
  } catch {
  }
}
function randomName() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// src/device.ts
var ASK_MS = 300;
var held = /* @__PURE__ */ new Set();
async function tabDevice(env, tenant) {
  if (!env.sessionStorage) return { name: void 0, release: () => void 0 };
  let slot = 0;
  while (held.has(`${tenant} ${slot}`)) slot++;
  const place = `${tenant} ${slot}`;
  held.add(place);
  const key = `tidegate:device:${tenant}${slot ? `:${slot}` : ""}`;
  let name = read(env, key);
  let letGo = name ? await hold(env, name) : void 0;
  while (!name || !letGo) {
    name = randomName();
    letGo = await hold(env, name);
  }
  write(env, key, name);
  const own = letGo;
  return {
    name,
    release() {
      held.delete(place);
      own();
    }
  };
}
function read(env, key) {
  try {
    return env.sessionStorage.getItem(key) ?? void 0;
  } catch {
    return void 0;
  }
}
function write(env, key, name) {
  try {
    env.sessionStorage.setItem(key, name);
  } catch {
  }
}
function hold(env, name) {
  const resource = `tidegate:device:${name}`;
  if (env.locks) return holdLock(env, env.locks, resource);
  if (env.BroadcastChannel) return holdByAsking(env, new env.BroadcastChannel(resource));
  return Promise.resolve(() => void 0);
}
function holdLock(env, locks, resource) {
  return new Promise((resolve) => {
    const abort = new AbortController();
    const timer = env.setTimeout(() => abort.abort(), ASK_MS);
    const held2 = locks.request(resource, { signal: abort.signal }, () => {
      env.clearTimeout(timer);
      return new Promise((letGo) => resolve(letGo));
    });
    held2.catch(() => resolve(void 0));
  });
}
function holdByAsking(env, channel) {
  return new Promise((resolve) => {
    const me = randomName();
    channel.onmessage = ({ data }) => {
      if (data.own !== me) return;
      channel.close();
      resolve(void 0);
    };
    channel.postMessage({ ask: me });
    env.setTimeout(() => {
      channel.onmessage = ({ data }) => {
        if (data.ask) channel.postMessage({ own: data.ask });
      };
      resolve(() => channel.close());
    }, ASK_MS);
  });
}

// src/heartbeat.ts
var ANSWER_MS = 1e4;
var Heartbeat = class {
  /** @param quietMs how long silence is not looked into, in milliseconds */
  constructor(env, quietMs, ping, dead) {
    this.env = env;
    this.quietMs = quietMs;
    this.ping = ping;
    this.dead = dead;
    this.#heard = env.now();
    this.#arm();
  }
  env;
  quietMs;
  ping;
  dead;
  #heard;
  /** When the answer to a ping is due. */
  #due;
  #timer;
  /** Something came. The timer stays as it is: it looks at this when it fires. */
  heard() {
    this.#heard = this.env.now();
    this.#due = void 0;
  }
  /** How long nothing was heard, in milliseconds. */
  get silence() {
    return this.env.now() - this.#heard;
  }
  /** Asks now, and takes the connection for dead when nothing comes within `withinMs` milliseconds. */
  probe(withinMs) {
    const due = this.env.now() + withinMs;
    if (this.#due !== void 0 && this.#due <= due) return;
    const isAsked = this.#due !== void 0;
    this.#due = due;
    this.#arm();
    if (!isAsked) this.ping();
  }
  stop() {
    this.env.clearTimeout(this.#timer);
  }
  #arm() {
    this.stop();
    const next = this.#due ?? this.#heard + this.quietMs;
    this.#timer = this.env.setTimeout(() => this.#look(), Math.max(0, next - this.env.now()));
  }
  #look() {
    const now = this.env.now();
    if (this.#due !== void 0 && now >= this.#due) return this.dead();
    if (this.#due === void 0 && now - this.#heard >= this.quietMs) return this.probe(ANSWER_MS);
    this.#arm();
  }
};

// src/backoff.ts
var FIRST_MS = 1e3;
var LONGEST_MS = 6e4;
var LASTED_MS = 1e4;
function fullJitter(attempt, random) {
  return Math.round(random * Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 16)));
}
function whatNext(end, attempt, random) {
  const code = end.code ?? 0;
  if (code >= 4e3 && code <= 4099) return "stop";
  const asked = Math.max(0, end.retryAfterMs ?? 0);
  if (code >= 4200 && code <= 4299 && attempt < 2) return asked;
  return Math.max(asked, fullJitter(attempt, random));
}
function retryAfter(header, now) {
  if (!header) return void 0;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1e3 : Date.parse(header) - now;
  return Number.isFinite(ms) ? Math.max(0, ms) : void 0;
}

// src/frames.ts
function parseFrame(text) {
  try {
    const value = JSON.parse(text);
    const isFrame = typeof value === "object" && value !== null && typeof value.type === "string";
    return isFrame ? value : void 0;
  } catch {
    return void 0;
  }
}

// src/transports/eventstream.ts
var LONGEST_LINE = 16 * 1024 * 1024;
var EventReader = class {
  #rest = "";
  #data = [];
  /** The data of each complete event, and undefined for each comment, a heartbeat. Throws a RangeError at a line without end. */
  push(piece) {
    const lines = (this.#rest + piece).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    if (this.#rest.length > LONGEST_LINE) throw new RangeError(`a line of more than ${LONGEST_LINE} characters`);
    return lines.flatMap((line) => this.#line(line));
  }
  #line(line) {
    if (line === "") {
      const data = this.#data.splice(0).join("\n");
      return data ? [data] : [];
    }
    if (line.startsWith(":")) return [void 0];
    const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (field === "data") this.#data.push(value);
    return [];
  }
};

// src/transports/sse.ts
var MOST_FRAMES = 64;
var MOST_BYTES = 64 * 1024;
var POST_MS = 1e4;
var LAST_MS = 1e3;
var WRONG = [400, 413];
var SseTransport = class {
  constructor(endpoint, env, events) {
    this.endpoint = endpoint;
    this.env = env;
    this.events = events;
    queueMicrotask(() => this.#isOver || events.opened());
  }
  endpoint;
  env;
  events;
  #abort = new AbortController();
  #waiting = [];
  /** What authorises frames: the `resume` of `connected`. */
  #resume;
  #posting;
  #isOver = false;
  send(frame) {
    if (this.#isOver) return;
    const broke = (thrown) => this.#end({ reason: `the request failed: ${String(thrown)}` });
    if (frame.type === "connect") return void this.#receive(frame).catch(broke);
    this.#waiting.push({ text: JSON.stringify(frame), id: "id" in frame ? frame.id : void 0 });
    this.#flush().catch(broke);
  }
  close() {
    this.#isOver = true;
    const last = this.#resume && this.#waiting.length > 0 ? this.#say(batch(this.#waiting), true) : void 0;
    const abort = () => this.#abort.abort();
    void Promise.allSettled([this.#posting, last]).then(abort);
    if (this.#posting || last) this.env.setTimeout(abort, LAST_MS);
  }
  async #receive(connect) {
    const response = await this.#post(this.endpoint.url, JSON.stringify(connect), { accept: "text/event-stream" }, { signal: this.#abort.signal });
    if (!response.ok || !response.body) return this.#end(await this.#refusal(response));
    const events = new EventReader();
    const text = response.body.pipeThrough(new TextDecoderStream());
    const reader = text.getReader();
    for (let next = await reader.read(); !next.done && !this.#isOver; next = await reader.read()) {
      for (const data of events.push(next.value)) this.#take(data);
    }
    this.#end({ reason: "the event stream ended" });
  }
  #take(data) {
    if (this.#isOver) return;
    if (data === void 0) return this.events.heard();
    const frame = parseFrame(data);
    if (!frame) return this.#end({ reason: "the server sent what is no frame" });
    if (frame.type === "connected") this.#resume = frame.resume;
    this.events.frame(frame);
  }
  async #flush() {
    if (this.#posting || !this.#resume) return;
    while (this.#waiting.length > 0 && !this.#isOver) {
      const sent = batch(this.#waiting);
      const response = await (this.#posting = this.#say(sent));
      if (WRONG.includes(response.status)) await this.#sayEach(sent, await this.#refusal(response));
      else if (!response.ok) return this.#end(await this.#refusal(response));
      else await response.text();
    }
    this.#posting = void 0;
  }
  async #sayEach(sent, { reason }) {
    for (const one of sent) {
      const response = sent.length > 1 ? await this.#say([one]) : void 0;
      if (this.#isOver || response?.ok) continue;
      if (response && !WRONG.includes(response.status)) return this.#end(await this.#refusal(response));
      const message = response ? (await this.#refusal(response)).reason : reason;
      this.events.frame({ type: "error", code: "bad_request", message, ...one.id !== void 0 && { id: one.id } });
    }
  }
  async #say(frames, isLast = false) {
    const url = this.endpoint.url.replace(/\/sse$/, "/frames");
    const body = `[${frames.map(({ text }) => text).join(",")}]`;
    const abort = new AbortController();
    const timer = this.env.setTimeout(() => abort.abort(), POST_MS);
    try {
      const how = { signal: abort.signal, keepalive: isLast };
      return await this.#post(url, body, { authorization: `Bearer ${this.#resume}` }, how);
    } finally {
      this.env.clearTimeout(timer);
    }
  }
  #post(url, body, headers, how) {
    const all = { "content-type": "application/json", ...headers };
    return this.env.fetch(url, { method: "POST", headers: all, body, ...how, cache: "no-store", credentials: "omit" });
  }
  async #refusal(response) {
    const body = await response.text().catch(() => "");
    const why = /"error"\s*:\s*"([^"]*)/.exec(body)?.[1] ?? response.statusText;
    const retryAfterMs = retryAfter(response.headers.get("retry-after"), this.env.now());
    return { reason: `HTTP ${response.status}: ${why}`, retryAfterMs };
  }
  #end(end) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#waiting = [];
    this.events.closed(end);
    this.#abort.abort();
  }
};
function batch(waiting) {
  let [count, bytes] = [0, 0];
  while (count < Math.min(waiting.length, MOST_FRAMES) && (count === 0 || bytes + waiting[count].text.length <= MOST_BYTES)) {
    bytes += waiting[count++].text.length;
  }
  return waiting.splice(0, count);
}

// src/transports/transport.ts
var TRANSPORTS = ["webtransport", "websocket", "sse"];
var LEAVING = 3e3;

// src/transports/websocket.ts
var WebSocketTransport = class {
  constructor(endpoint, env, events) {
    this.events = events;
    const socket = this.#socket = new env.WebSocket(endpoint.url, ["tidegate.v1.json"]);
    socket.onopen = () => this.#isOver || events.opened();
    socket.onmessage = ({ data }) => this.#take(data);
    socket.onerror = () => void 0;
    socket.onclose = ({ code, reason }) => this.#end(reason || "the WebSocket closed", code);
  }
  events;
  #socket;
  #isOver = false;
  send(frame) {
    if (!this.#isOver) this.#socket.send(JSON.stringify(frame));
  }
  close(goodbye) {
    this.#isOver = true;
    this.#socket.close(goodbye ? 1e3 : LEAVING);
  }
  #take(data) {
    if (this.#isOver) return;
    const frame = typeof data === "string" ? parseFrame(data) : void 0;
    if (frame) return this.events.frame(frame);
    this.#end("the server sent what is no frame");
    this.#socket.close(LEAVING);
  }
  #end(reason, code) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.events.closed({ code, reason });
  }
};

// src/transports/lengths.ts
var LONGEST_FRAME = 16 * 1024 * 1024;
function withLength(bytes) {
  const size = bytes.length;
  const log2 = size < 64 ? 0 : size < 16384 ? 1 : 2;
  const header = 1 << log2;
  const framed = new Uint8Array(header + size);
  for (let at = header - 1, left = size; at >= 0; at--, left >>>= 8) framed[at] = left & 255;
  framed[0] |= log2 << 6;
  framed.set(bytes, header);
  return framed;
}
var LengthReader = class {
  #bytes = new Uint8Array(1024);
  #size = 0;
  /** Takes a chunk and returns the frames that are complete; throws a RangeError where a length is out of bounds. */
  push(chunk) {
    this.#append(chunk);
    const frames = [];
    let at = 0;
    for (let next = this.#frameAt(at); next; next = this.#frameAt(at)) {
      frames.push(this.#bytes.slice(next.start, next.end));
      at = next.end;
    }
    this.#bytes.copyWithin(0, at, this.#size);
    this.#size -= at;
    return frames;
  }
  #append(chunk) {
    const size = this.#size + chunk.length;
    if (size > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(size, this.#bytes.length * 2));
      larger.set(this.#bytes.subarray(0, this.#size));
      this.#bytes = larger;
    }
    this.#bytes.set(chunk, this.#size);
    this.#size = size;
  }
  #frameAt(at) {
    if (at >= this.#size) return void 0;
    const start = at + (1 << (this.#bytes[at] >> 6));
    if (start > this.#size) return void 0;
    let length = this.#bytes[at] & 63;
    for (let next = at + 1; next < start; next++) length = length * 256 + this.#bytes[next];
    if (length > LONGEST_FRAME) throw new RangeError(`a frame of ${length} bytes; the most is ${LONGEST_FRAME}`);
    return start + length <= this.#size ? { start, end: start + length } : void 0;
  }
};

// src/transports/webtransport.ts
var CLOSE_WAIT_MS = 2e3;
var FLUSH_MS = 50;
var WebTransportTransport = class {
  constructor(endpoint, env, events) {
    this.env = env;
    this.events = events;
    this.#session = new env.WebTransport(endpoint.url, options(endpoint));
    this.#session.closed.then(
      ({ closeCode, reason }) => this.#end(reason || "the WebTransport session closed", closeCode),
      (thrown) => this.#end(`the WebTransport session broke: ${String(thrown)}`)
    );
    this.#start().catch((thrown) => this.#end(`WebTransport did not open: ${String(thrown)}`));
  }
  env;
  events;
  #session;
  #writer;
  #written;
  #isOver = false;
  send(frame) {
    if (this.#isOver) return;
    const bytes = withLength(new TextEncoder().encode(JSON.stringify(frame)));
    this.#written = this.#writer?.write(bytes).catch(() => void 0);
  }
  close(goodbye) {
    this.#isOver = true;
    const closeNow = () => this.#close(goodbye ? 1e3 : LEAVING);
    const moment = new Promise((resolve) => this.env.setTimeout(resolve, FLUSH_MS));
    const flushed = this.#written?.then(() => moment) ?? this.#session.ready;
    Promise.race([flushed, this.#session.closed, moment]).then(closeNow, closeNow);
  }
  async #start() {
    await this.#session.ready;
    if (this.#isOver) return;
    const stream = await this.#session.createBidirectionalStream();
    this.#writer = stream.writable.getWriter();
    this.#readStream(stream.readable).catch((thrown) => this.#end(`the stream broke: ${String(thrown)}`));
    read2(this.#session.datagrams.readable, (bytes) => this.#take(bytes)).catch(() => void 0);
    if (!this.#isOver) this.events.opened();
  }
  async #readStream(readable) {
    const lengths = new LengthReader();
    await read2(readable, (chunk) => lengths.push(chunk).forEach((bytes) => this.#take(bytes)));
    this.env.setTimeout(() => this.#end("the stream ended"), CLOSE_WAIT_MS);
  }
  #take(bytes) {
    if (this.#isOver) return;
    if (bytes.length === 0) return this.events.heard();
    const frame = parseFrame(new TextDecoder().decode(bytes));
    if (frame) this.events.frame(frame);
    else this.#end("the server sent what is no frame");
  }
  #end(reason, code) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.events.closed({ code, reason });
    this.#close(LEAVING);
  }
  #close(closeCode) {
    try {
      this.#session.close({ closeCode });
    } catch {
    }
  }
};
function options({ certificateHashes }) {
  if (!certificateHashes?.length) return {};
  const hashes = certificateHashes.map(({ algorithm, value }) => {
    return { algorithm, value: Uint8Array.from(atob(value), (char) => char.charCodeAt(0)) };
  });
  return { serverCertificateHashes: hashes };
}
async function read2(readable, each) {
  const reader = readable.getReader();
  for (let next = await reader.read(); !next.done; next = await reader.read()) each(next.value);
}

// src/connection.ts
var GREETING_MS = 1e4;
var DOUBT_MS = 5e3;
var TRANSPORTS2 = {
  webtransport: WebTransportTransport,
  websocket: WebSocketTransport,
  sse: SseTransport
};
var Connection = class {
  constructor(env, endpoint, openWithinMs) {
    this.env = env;
    this.endpoint = endpoint;
    this.opened = new Promise((resolve) => this.#setOpened = resolve);
    this.ended = new Promise((resolve) => this.#setEnded = resolve);
    this.#within(openWithinMs, "did not open");
    this.#transport = this.#open();
  }
  env;
  endpoint;
  /** Whether it opened. Resolves with false where it ended before. */
  opened;
  /** How it ended. Never rejects. */
  ended;
  /** Milliseconds between heartbeats, as agreed; 0 before. */
  pingMs = 0;
  #transport;
  #heartbeat;
  #setOpened;
  #setEnded;
  /** Takes the frames that come after `connected`; until it is there they wait. */
  #onFrame;
  #early = [];
  #greeted;
  #deadline;
  #isOver = false;
  /** Sends `connect`. Resolves with `connected`, or undefined where the connection ended before. */
  greet(frame) {
    this.#within(GREETING_MS, "did not answer `connect`");
    const greeted = new Promise((resolve) => this.#greeted = resolve);
    this.#transport.send(frame);
    return Promise.race([greeted, this.ended.then(() => void 0)]);
  }
  /** Hands over every frame that came after `connected`, and those that come. */
  listen(onFrame) {
    this.#onFrame = onFrame;
    this.#early.splice(0).forEach(onFrame);
  }
  send(frame) {
    if (!this.#isOver) this.#transport.send(frame);
  }
  /** Asks whether the other end is there, and ends the connection if it is not. */
  probe() {
    this.#heartbeat?.probe(DOUBT_MS);
  }
  /** Ends it from here. `goodbye` ends the session as well, where the transport can say so. */
  close(goodbye) {
    this.#end({ reason: "closed here" }, goodbye);
  }
  #open() {
    const events = {
      opened: () => {
        this.env.clearTimeout(this.#deadline);
        this.#setOpened(true);
      },
      frame: (frame) => this.#take(frame),
      heard: () => this.#heartbeat?.heard(),
      closed: (end) => this.#end(end)
    };
    try {
      return new TRANSPORTS2[this.endpoint.transport](this.endpoint, this.env, events);
    } catch (thrown) {
      queueMicrotask(() => this.#end({ reason: String(thrown) }));
      return { send: () => void 0, close: () => void 0 };
    }
  }
  #take(frame) {
    if (this.#isOver) return;
    this.#heartbeat?.heard();
    if (frame.type === "disconnect") {
      const { code, reason, message, retry_after_ms: retryAfterMs, url } = frame;
      return this.#end({ code, reason: message ? `${reason}: ${message}` : reason, retryAfterMs, url });
    }
    if (frame.type !== "connected") return this.#onFrame ? this.#onFrame(frame) : void this.#early.push(frame);
    this.env.clearTimeout(this.#deadline);
    this.pingMs = Number(frame.ping_ms) || 25e3;
    const share = this.endpoint.transport === "websocket" ? 0.8 : 1.2;
    const dead = () => this.#end({ reason: "nothing was heard any more", silent: true });
    this.#heartbeat = new Heartbeat(this.env, Math.round(this.pingMs * share), () => this.send({ type: "ping" }), dead);
    this.#greeted?.(frame);
  }
  #within(ms, what) {
    this.env.clearTimeout(this.#deadline);
    this.#deadline = this.env.setTimeout(() => this.#end({ reason: `${this.endpoint.url} ${what} within ${ms} ms` }), ms);
  }
  #end(end, goodbye = false) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.env.clearTimeout(this.#deadline);
    this.#heartbeat?.stop();
    this.#setOpened(false);
    this.#setEnded(end);
    this.#transport.close(goodbye);
  }
};

// src/errors.ts
var TidegateError = class extends Error {
  constructor(code, message, options2 = {}) {
    super(message, options2.cause === void 0 ? void 0 : { cause: options2.cause });
    this.code = code;
    this.closeCode = options2.closeCode;
  }
  code;
  name = "TidegateError";
  /** The close code, where a connection ended with one (4000 to 4299). */
  closeCode;
  /** Whether the same request may succeed later. */
  get isRetryable() {
    return ["unavailable", "limit_exceeded", "connection_lost", "timeout", "queue_full"].includes(this.code);
  }
};
function asError(thrown, code, what) {
  if (thrown instanceof TidegateError) return thrown;
  const detail = thrown instanceof Error ? thrown.message : String(thrown);
  return new TidegateError(code, `${what}: ${detail}`, { cause: thrown });
}

// src/route.ts
var GOOD_MS = 5 * 6e4;
var WAIT_MS = 2e3;
var MOST_NODES = 8;
var MOST_KEPT = 32;
var Routes = class {
  constructor(env, tenant) {
    this.env = env;
    this.tenant = tenant;
  }
  env;
  tenant;
  #known = /* @__PURE__ */ new Map();
  /** The nodes in the server's order; empty where it does not say. Never rejects. */
  async ask(address) {
    const known = this.#known.get(address);
    if (known && known.until > this.env.now()) return known.nodes;
    const abort = new AbortController();
    const timer = this.env.setTimeout(() => abort.abort(), WAIT_MS);
    try {
      const url = `${address}/v1/${this.tenant}/route`;
      const response = await this.env.fetch(url, { signal: abort.signal, cache: "no-store", credentials: "omit" });
      if (!response.ok) return [];
      const nodes = readRoute(await response.json(), address);
      if (nodes.flat().some(({ certificateHashes }) => certificateHashes)) return nodes;
      if (this.#known.size >= MOST_KEPT) this.forget();
      this.#known.set(address, { nodes, until: this.env.now() + GOOD_MS });
      return nodes;
    } catch {
      return [];
    } finally {
      this.env.clearTimeout(timer);
    }
  }
  /** Everything is asked again: the network may be another one, or what was said did not work. */
  forget() {
    this.#known.clear();
  }
};
var SCHEMES = { webtransport: /^https:\/\//, websocket: /^wss?:\/\//, sse: /^https?:\/\// };
function readRoute(answer, address) {
  const nodes = Array.isArray(answer?.nodes) ? answer.nodes.slice(0, MOST_NODES) : [];
  return nodes.map((node) => {
    return Object.keys(SCHEMES).flatMap((transport) => {
      const { url, certificate_hashes: hashes } = node?.transports?.[transport] ?? {};
      if (typeof url !== "string" || !SCHEMES[transport].test(url)) return [];
      const usable2 = Array.isArray(hashes) ? hashes.filter((hash) => typeof hash?.value === "string") : [];
      return [{ transport, address, url, ...usable2.length > 0 && { certificateHashes: usable2 } }];
    });
  });
}
function usualNode(address, tenant) {
  const base = `${address}/v1/${tenant}`;
  const node = [
    { transport: "websocket", address, url: `${base.replace(/^http/, "ws")}/ws` },
    { transport: "sse", address, url: `${base}/sse` }
  ];
  if (address.startsWith("https:")) node.unshift({ transport: "webtransport", address, url: `${base}/wt` });
  return node;
}

// src/dialer.ts
var OPEN_MS = 1e4;
var Dialer = class {
  constructor(options2, env, memory) {
    this.options = options2;
    this.env = env;
    this.memory = memory;
    this.routes = new Routes(env, options2.tenant);
  }
  options;
  env;
  memory;
  routes;
  #open = /* @__PURE__ */ new Set();
  #cancelled = false;
  /**
   * One round: the first connection that the server greets, or how the round ended. The server's word
   * to stop or to come again at once ends the round; its word to back off ends it for that node.
   *
   * @param first an address to begin with, where the server named one
   * @param hello makes the `connect` frame, at the moment it is sent
   */
  async dial(first, hello) {
    this.#cancelled = false;
    let last = { reason: "no address has a transport that can be used here" };
    for (const address of this.#addresses(first)) {
      for (const node of await this.#nodes(address)) {
        const tried = await this.#tryNode(node, hello);
        if (this.#cancelled) return { reason: "cancelled" };
        if (!tried) continue;
        if ("connection" in tried || isFinal(tried)) return tried;
        last = { ...tried, retryAfterMs: Math.max(tried.retryAfterMs ?? 0, last.retryAfterMs ?? 0) };
      }
    }
    this.routes.forget();
    return last;
  }
  /** Gives up what is being opened; the round in progress ends. */
  cancel() {
    this.#cancelled = true;
    for (const connection of this.#open) connection.close(false);
  }
  #addresses(first) {
    const known = this.options.addresses;
    const good = this.memory.address;
    const order = [usable(first), good !== void 0 && known.includes(good) ? good : void 0, ...known];
    return [...new Set(order.filter((address) => address !== void 0))];
  }
  async #nodes(address) {
    const usable2 = this.options.transports.filter((name) => isUsable(this.env, name));
    const asks = (this.options.askRoute ?? usable2.includes("webtransport")) && this.env.fetch !== void 0;
    const told = asks ? await this.routes.ask(address) : [];
    const usual = usualNode(address, this.options.tenant);
    const urls = new Set(told.flat().map(({ url }) => url));
    const rest = usual.filter(({ url, transport }) => !urls.has(url) && (transport !== "webtransport" || told.length === 0));
    return [...told, rest].map((node) => {
      return usable2.flatMap((name) => node.filter(({ transport }) => transport === name));
    });
  }
  async #tryNode(node, hello) {
    const rested = node.filter(({ address, transport }) => !this.memory.isResting(address, transport));
    const left = [...rested.length > 0 ? rested : node];
    const failed = [];
    let last;
    while (left.length > 0 && !this.#cancelled) {
      const connection = await this.#openNext(left, failed);
      const connected = await connection.opened ? await connection.greet(hello()) : void 0;
      this.#open.delete(connection);
      const { address, transport } = connection.endpoint;
      if (connected) {
        this.memory.succeeded(address, transport, failed);
        return { connection, connected };
      }
      last = await connection.ended;
      if (wasSaid(last)) return last;
      failed.push(transport);
    }
    return last;
  }
  /**
   * Opens the next transport that is left. WebTransport gets a head start and then a WebSocket beside it:
   * the first to open goes on, and a WebTransport that was not has failed.
   */
  async #openNext(left, failed) {
    const first = this.#begin(left.shift());
    const rival = left[0]?.transport === "websocket" ? left[0] : void 0;
    if (first.endpoint.transport !== "webtransport" || !rival) return first;
    const worked = this.memory.worked(rival.address) === "webtransport";
    const headStart = worked ? this.options.webTransportTimeoutMs : this.options.headStartMs;
    const early = await Promise.race([first.opened, this.#after(headStart)]);
    if (early || this.#cancelled) return first;
    const second = this.#begin(rival);
    const winner = await firstOpened([first, second]);
    const loser = winner === first ? second : first;
    loser.close(false);
    this.#open.delete(loser);
    if (winner === second) {
      left.shift();
      failed.push("webtransport");
    }
    return winner;
  }
  #begin(endpoint) {
    const within = endpoint.transport === "webtransport" ? this.options.webTransportTimeoutMs : OPEN_MS;
    const connection = new Connection(this.env, endpoint, within);
    this.#open.add(connection);
    return connection;
  }
  #after(ms) {
    return new Promise((resolve) => this.env.setTimeout(() => resolve(false), ms));
  }
};
async function firstOpened([first, second]) {
  const opened = (connection) => {
    return connection.opened.then((did) => did ? connection : Promise.reject(new Error("did not open")));
  };
  return Promise.any([opened(first), opened(second)]).catch(() => second);
}
function usable(url) {
  try {
    return url && normalAddress(url);
  } catch {
    return void 0;
  }
}
function wasSaid({ code = 0 }) {
  return code >= 4e3 && code < 4300;
}
function isFinal({ code = 0 }) {
  return wasSaid({ code, reason: "" }) && !(code >= 4100 && code < 4200);
}
function isUsable(env, transport) {
  const needs = { webtransport: env.WebTransport, websocket: env.WebSocket, sse: env.fetch };
  return needs[transport] !== void 0;
}
function normalAddress(url) {
  const given = url.trim().replace(/^ws(?=s?:)/, "http").replace(/\/+$/, "");
  if (!/^https?:\/\/[^/?#\s]+(\/[^?#\s]*)?$/.test(given)) {
    throw new TidegateError("invalid", `\`url\` is a base address such as https://edge.example.com, not ${JSON.stringify(url)}`);
  }
  return given;
}

// src/events.ts
var Events = class {
  #handlers = /* @__PURE__ */ new Map();
  #failed;
  /** @internal */
  constructor(failed) {
    this.#failed = failed;
  }
  on(name, handler) {
    const handlers = this.#handlers.get(name) ?? /* @__PURE__ */ new Set();
    this.#handlers.set(name, handlers);
    handlers.add(handler);
    return () => void handlers.delete(handler);
  }
  /** Whether anybody listens. */
  has(name) {
    return (this.#handlers.get(name)?.size ?? 0) > 0;
  }
  emit(name, event) {
    for (const handler of [...this.#handlers.get(name) ?? []]) {
      try {
        const made = handler(event);
        if (made instanceof Promise) made.catch((thrown) => this.#failed(thrown, name));
      } catch (thrown) {
        this.#failed(thrown, name);
      }
    }
  }
};

// src/offsets.ts
var FORM = /^(\d{1,20})-(\d{1,20})$/;
var BEGINNING = "0-0";
function isOffset(value) {
  return typeof value === "string" && FORM.test(value);
}
function compareOffsets(a, b) {
  if (a === b) return 0;
  const [left, right] = [parts(a), parts(b)];
  for (const at of [0, 1]) {
    if (left[at] !== right[at]) return left[at] < right[at] ? -1 : 1;
  }
  return 0;
}
function parts(offset) {
  const found = FORM.exec(offset);
  return found ? [BigInt(found[1]), BigInt(found[2])] : [0n, 0n];
}

// src/inbox.ts
var LogInbox = class {
  /** Everything up to here is handled, or does not come: where to go on from. */
  floor;
  waiting = 0;
  /** What is not handled, or stands above something that is not, in the order of offsets. */
  #entries = [];
  /** The highest message with everything before it handled. What a gap skipped may still come, so the floor does not tell. */
  #handled;
  #acked;
  receive(message) {
    const { offset } = message;
    if (this.#handled !== void 0 && compareOffsets(offset, this.#handled) <= 0) {
      this.#acked = void 0;
      return "handled";
    }
    const at = this.#indexOf(offset);
    const entry = this.#entries[at];
    if (entry?.offset !== offset) {
      this.#entries.splice(at, 0, { offset, isMessage: true, message, state: "waiting" });
      this.waiting++;
      return "new";
    }
    if (entry.state === "active" || entry.state === "done") return "known";
    entry.message = message;
    if (entry.state !== "waiting") this.waiting++;
    entry.state = "waiting";
    return "known";
  }
  take() {
    const entry = this.waiting > 0 ? this.#entries.find(({ state }) => state === "waiting") : void 0;
    if (!entry) return void 0;
    this.#become(entry, "active");
    return entry.message;
  }
  leave(offset) {
    const entry = this.#find(offset);
    if (entry?.state === "active") this.#become(entry, "open");
  }
  done(offset) {
    const entry = this.#find(offset);
    if (!entry) return;
    this.#become(entry, "done");
    this.#advance();
  }
  refuse(offset) {
    const entry = this.#find(offset);
    if (entry && entry.state !== "done") this.#become(entry, "refused");
  }
  skip(until, gap) {
    if (this.floor !== void 0 && compareOffsets(until, this.floor) <= 0) return;
    for (const entry of gap ? this.#entries : []) {
      const isGivenUp = entry.state === "refused" || entry.state === "open";
      if (isGivenUp && compareOffsets(entry.offset, until) <= 0) this.#become(entry, "done");
    }
    const at = this.#indexOf(until);
    if (this.#entries[at]?.offset !== until) {
      this.#entries.splice(at, 0, { offset: until, isMessage: false, message: void 0, state: "done" });
    }
    this.#advance();
  }
  /** Delivery starts after `offset` in another life of the store: what was known of positions is void. */
  restart(offset) {
    this.floor = offset;
    this.#handled = this.#acked = void 0;
    this.#entries = [];
    this.waiting = 0;
  }
  lost() {
    this.#acked = void 0;
  }
  takeAcks() {
    if (this.#handled === void 0 || this.#acked === this.#handled) return [];
    this.#acked = this.#handled;
    return [this.#acked];
  }
  #advance() {
    let count = 0;
    while (this.#entries[count]?.state === "done") count++;
    for (const { offset, isMessage } of this.#entries.splice(0, count)) {
      this.floor = later(this.floor, offset);
      if (isMessage) this.#handled = later(this.#handled, offset);
    }
  }
  #become(entry, state) {
    if (entry.state === "waiting") this.waiting--;
    if (state === "done") entry.message = void 0;
    entry.state = state;
  }
  #find(offset) {
    const entry = this.#entries[this.#indexOf(offset)];
    return entry?.offset === offset ? entry : void 0;
  }
  /** Where the offset stands among the entries, or would. */
  #indexOf(offset) {
    let [low, high] = [0, this.#entries.length];
    if (high > 0 && compareOffsets(this.#entries[high - 1].offset, offset) < 0) return high;
    while (low < high) {
      const middle = low + high >> 1;
      if (compareOffsets(this.#entries[middle].offset, offset) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
};
function later(a, b) {
  return a !== void 0 && compareOffsets(a, b) > 0 ? a : b;
}
var REMEMBERED = 1024;
var QueueInbox = class {
  #tasks = /* @__PURE__ */ new Map();
  #handled = new Recent(REMEMBERED);
  #acks = [];
  get waiting() {
    let count = 0;
    for (const { state } of this.#tasks.values()) if (state === "waiting") count++;
    return count;
  }
  receive(message) {
    if (this.#handled.has(message.offset)) {
      this.#acks.push(message.offset);
      return "handled";
    }
    const known = this.#tasks.get(message.offset);
    if (known?.state === "active") return "known";
    this.#tasks.set(message.offset, { message, state: "waiting" });
    return known ? "known" : "new";
  }
  take() {
    for (const task of this.#tasks.values()) {
      if (task.state !== "waiting") continue;
      task.state = "active";
      return task.message;
    }
    return void 0;
  }
  leave(offset) {
    const task = this.#tasks.get(offset);
    if (task?.state === "active") task.state = "open";
  }
  done(offset) {
    if (!this.#tasks.delete(offset)) return;
    this.#handled.add(offset);
    if (this.#acks.push(offset) > REMEMBERED) this.#acks.shift();
  }
  refuse(offset) {
    this.#tasks.delete(offset);
  }
  skip() {
  }
  takeAcks() {
    return this.#acks.splice(0);
  }
  /** The connection is gone: what nobody began goes to whoever is next, or comes again. */
  lost() {
    for (const [offset, { state }] of this.#tasks) if (state !== "active") this.#tasks.delete(offset);
  }
  /** The session is another one: it never had the tasks whose acks wait. */
  forget() {
    this.#acks = [];
  }
};
var Recent = class {
  constructor(most) {
    this.most = most;
  }
  most;
  #names = /* @__PURE__ */ new Set();
  has(name) {
    return this.#names.has(name);
  }
  add(name) {
    this.#names.delete(name);
    this.#names.add(name);
    if (this.#names.size > this.most) this.#names.delete(this.#names.values().next().value);
  }
};

// src/link.ts
var TOKEN_CODES = [4002, 4007];
var Link = class {
  constructor(env, dialer, tokens, events) {
    this.env = env;
    this.dialer = dialer;
    this.tokens = tokens;
    this.events = events;
  }
  env;
  dialer;
  tokens;
  events;
  #current;
  #isStopped = false;
  /** Attempts since a connection last lasted. */
  #attempt = 0;
  #hasAskedAgain = false;
  #wake;
  #renew;
  #isAfresh = false;
  #since = 0;
  /** Runs until it is stopped. Never rejects. */
  async run() {
    let url;
    while (!this.#isStopped) {
      if (!this.#current) this.events.connecting();
      const dialled = await this.#dial(url);
      if (this.#isStopped) return;
      url = void 0;
      let end;
      if ("connection" in dialled) {
        const next = await this.#use(dialled);
        if (this.#isStopped) return;
        if ("ms" in next) {
          url = next.url;
          const said = await this.#drained(dialled.connection, next.ms);
          if (this.#isStopped) return;
          if (!said) continue;
          end = said;
        } else {
          end = next;
        }
      } else {
        end = dialled;
      }
      url = end.url;
      if (!await this.#recover(end)) return;
    }
  }
  /** Ends it. `goodbye` ends the session too. */
  stop(goodbye) {
    this.#isStopped = true;
    this.dialer.cancel();
    this.#current?.close(goodbye);
    this.#current = void 0;
    this.tokens.stop();
    this.#wake?.();
  }
  /** The page came back, or the network may be another one. */
  woke(wake) {
    if (wake === "leaving") return;
    if (wake === "network") this.dialer.routes.forget();
    this.#current?.probe();
    this.#wake?.();
  }
  /** The server asks its clients to go elsewhere: the next connection is opened after the pause, then this one is let go. */
  drain({ retry_after_ms: ms, url }) {
    this.#renew?.({ ms, url });
  }
  /** Opens another connection at once and lets the present one go; `afresh` as another session. */
  renew(afresh) {
    this.#isAfresh ||= afresh;
    this.#renew?.({ ms: 0, url: void 0 });
  }
  async #dial(url) {
    try {
      const token = await this.tokens.current();
      if (this.#isStopped) return { reason: "stopped" };
      return await this.dialer.dial(url, () => this.events.hello(token));
    } catch (thrown) {
      const error = asError(thrown, "token_failed", "connecting failed");
      this.events.report(error);
      return { reason: error.message };
    }
  }
  /** Uses a connection until it ends, or until another is to be opened beside it. */
  async #use({ connection, connected }) {
    const older = this.#current;
    this.#current = connection;
    this.#since = this.env.now();
    this.#hasAskedAgain = false;
    const renewed = new Promise((resolve) => this.#renew = resolve);
    older?.close(this.#isAfresh);
    this.#isAfresh = false;
    this.events.connected(connection, connected);
    const ended = connection.ended.then((end) => {
      if (this.#current === connection) {
        this.#current = void 0;
        this.events.lost(connection, end, this.env.now() - this.#since);
      }
      return end;
    });
    return Promise.race([ended, renewed]);
  }
  /** Waits until the next connection may be opened; the end of the present one, where it says to stop. */
  async #drained(connection, ms) {
    this.#settleAttempts();
    const due = this.env.now() + ms;
    const pause = this.#pause(ms, ms);
    const end = await Promise.race([pause, connection.ended]);
    if (end && whatNext(end, 0, 0) === "stop") return end;
    if (end) this.#tell(end, Math.max(0, due - this.env.now()));
    await pause;
    return void 0;
  }
  /** A connection that lasted makes the next pauses short again. */
  #settleAttempts() {
    if (this.#since > 0 && this.env.now() - this.#since >= LASTED_MS) this.#attempt = 0;
    this.#since = 0;
  }
  /** Decides what follows an end, and waits for it. False: nothing follows. */
  async #recover(end) {
    const code = end.code ?? 0;
    this.#settleAttempts();
    if (TOKEN_CODES.includes(code) && this.tokens.isRenewable && !this.#hasAskedAgain) {
      this.#hasAskedAgain = true;
      this.tokens.refused();
      const ms = this.#attempt++ === 0 ? 0 : FIRST_MS * this.#attempt;
      this.#tell(end, ms);
      await this.#pause(ms);
      return !this.#isStopped;
    }
    const next = whatNext(end, this.#attempt++, this.env.random());
    const retryInMs = next === "stop" ? void 0 : next;
    this.#tell(end, retryInMs);
    if (retryInMs === void 0) {
      this.stop(false);
      const why = `the server ended the connection with ${end.code} and said not to come back: ${end.reason}`;
      this.events.stopped(new TidegateError("refused", why, { closeCode: end.code }));
      return false;
    }
    await this.#pause(retryInMs, end.retryAfterMs);
    return !this.#isStopped;
  }
  /** An attempt to replace a connection that is still there is nobody's concern. */
  #tell({ code, reason }, retryInMs) {
    if (!this.#current || retryInMs === void 0) this.events.waiting({ code, reason, retryInMs });
  }
  /** Waits so many milliseconds. A wake-up makes it shorter, but not shorter than the server asked, nor than a second. */
  #pause(ms, asked = 0) {
    return new Promise((resolve) => {
      const earliest = this.env.now() + Math.max(FIRST_MS, asked);
      const done = () => {
        this.#wake = void 0;
        resolve();
      };
      let timer = this.env.setTimeout(done, ms);
      this.#wake = () => {
        this.env.clearTimeout(timer);
        const left = Math.min(ms, earliest - this.env.now());
        if (this.#isStopped || left <= 0) return done();
        timer = this.env.setTimeout(done, left);
      };
    });
  }
};

// src/memory.ts
var FIRST_REST_MS = 10 * 6e4;
var LONGEST_REST_MS = 24 * 36e5;
var KEPT_MS = 7 * 24 * 36e5;
var MOST_ENTRIES = 32;
var NetworkMemory = class {
  constructor(env, tenant) {
    this.env = env;
    this.#key = `tidegate:networks:${tenant}`;
    const stored = readJson(env.localStorage, this.#key);
    this.#entries = typeof stored === "object" && stored !== null ? stored : {};
  }
  env;
  #entries;
  #key;
  /** Whether the transport failed here lately, so that others come first. */
  isResting(address, transport) {
    return (this.#find(address)?.failed?.[transport]?.until ?? 0) > this.env.now();
  }
  /** The transport that worked last at this address. */
  worked(address) {
    return this.#find(address)?.worked;
  }
  /** A transport worked after others had failed at the same address: those rest for a while. */
  succeeded(address, transport, failed) {
    this.#change(address, (entry) => {
      const kept = entry.failed ??= {};
      delete kept[transport];
      for (const name of failed) {
        const times = (kept[name]?.times ?? 0) + 1;
        const rest = Math.min(LONGEST_REST_MS, FIRST_REST_MS * 2 ** (times - 1));
        kept[name] = { times, until: this.env.now() + rest };
      }
      entry.worked = transport;
    });
    this.#change("", (entry) => entry.address = address);
  }
  /** The address that worked last in this network. */
  get address() {
    return this.#find("")?.address;
  }
  /** The interval between heartbeats that suits this network, in milliseconds. */
  get pingMs() {
    return this.#find("")?.pingMs;
  }
  set pingMs(ms) {
    this.#change("", (entry) => entry.pingMs = ms);
  }
  #find(address) {
    const entry = this.#entries[this.#name(address)];
    return entry && entry.at + KEPT_MS > this.env.now() ? entry : void 0;
  }
  #change(address, change) {
    const entry = this.#find(address) ?? { at: 0 };
    change(entry);
    entry.at = this.env.now();
    this.#entries[this.#name(address)] = entry;
    const newest = Object.entries(this.#entries).sort(([, a], [, b]) => b.at - a.at);
    this.#entries = Object.fromEntries(newest.slice(0, MOST_ENTRIES));
    writeJson(this.env.localStorage, this.#key, this.#entries);
  }
  #name(address) {
    return `${this.env.network()} ${address}`;
  }
};

// src/payload.ts
function encodePayload(data) {
  if (data instanceof Uint8Array) return { data: toBase64(data), enc: "base64" };
  if (data instanceof ArrayBuffer) return { data: toBase64(new Uint8Array(data)), enc: "base64" };
  if (typeof data === "string") return { data, enc: "text" };
  let text;
  try {
    text = JSON.stringify(data);
  } catch (cause) {
    throw new TidegateError("invalid", `the payload cannot be said in JSON: ${cause.message}`, { cause });
  }
  if (text === void 0) throw new TidegateError("invalid", `a payload is a JSON value, a string or bytes, not ${typeof data}`);
  return { data: JSON.parse(text) };
}
function decodePayload({ data, enc }) {
  return enc === "base64" && typeof data === "string" ? fromBase64(data) : data;
}
function toBase64(bytes) {
  let binary = "";
  for (let at = 0; at < bytes.length; at += 8192) binary += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(binary);
}
function fromBase64(text) {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

// src/message.ts
function entryOf(channel, frame) {
  const { offset, headers = {}, key, msg_id: msgId } = frame;
  return { channel, offset, data: decodePayload(frame), headers, key, msgId };
}
var Delivery = class {
  channel;
  offset;
  data;
  headers;
  key;
  msgId;
  attempt;
  #settle;
  #nackDelayMs;
  constructor(frame, nackDelayMs, settle2) {
    const { channel, offset, data, headers, key, msgId } = entryOf(frame.channel, frame);
    [this.channel, this.offset, this.data, this.headers, this.key, this.msgId] = [channel, offset, data, headers, key, msgId];
    this.attempt = frame.attempt;
    this.#settle = settle2;
    this.#nackDelayMs = Math.min(6e4, nackDelayMs * 2 ** Math.min(16, this.attempt - 1));
  }
  get isSettled() {
    return this.#settle === void 0;
  }
  ack() {
    this.#end(void 0);
  }
  nack(delayMs = this.#nackDelayMs) {
    this.#end(Math.max(0, Math.round(delayMs)));
  }
  #end(nackDelayMs) {
    const settle2 = this.#settle;
    this.#settle = void 0;
    settle2?.(this, nackDelayMs);
  }
};

// src/options.ts
function settle(options2) {
  const { tenant, transports = TRANSPORTS, timeoutMs = 6e4 } = options2;
  const here = globalThis.location?.origin;
  const given = options2.url ?? here ?? [];
  const addresses = (typeof given === "string" ? [given] : given).map(normalAddress);
  if (addresses.length === 0) throw new TidegateError("invalid", "`url` is missing: the base address of a node");
  if (!/^[a-z0-9][a-z0-9-]{0,62}$/.test(tenant)) {
    throw new TidegateError("invalid", `\`tenant\` is a name of a-z, 0-9 and -, not ${JSON.stringify(tenant)}`);
  }
  const unknown = transports.find((name) => !TRANSPORTS.includes(name));
  if (unknown !== void 0 || transports.length === 0) {
    throw new TidegateError("invalid", `\`transports\` lists some of ${TRANSPORTS.join(", ")}, not ${JSON.stringify(transports)}`);
  }
  for (const name of ["webTransportTimeoutMs", "headStartMs", "pingMs", "maxQueued", "maxQueuedBytes", "timeoutMs"]) {
    const value = options2[name];
    if (value !== void 0 && !(value >= 0)) throw new TidegateError("invalid", `\`${name}\` is a number from 0, not ${String(value)}`);
  }
  return { addresses, tenant, transports, timeoutMs };
}

// src/pace.ts
var SHORTEST_MS = 1e4;
var LONGEST_MS2 = 6e4;
var PROVEN_INTERVALS = 20;
function nextPing(agreedMs, livedMs, isSilent) {
  if (isSilent) return Math.min(agreedMs, Math.max(SHORTEST_MS, Math.round(agreedMs / 2)));
  if (livedMs < agreedMs * PROVEN_INTERVALS) return void 0;
  return Math.max(agreedMs, Math.min(LONGEST_MS2, Math.round(agreedMs * 1.25)));
}

// src/positions.ts
var MOST_POSITIONS = 128;
var WRITE_EVERY_MS = 1e3;
var PositionStore = class {
  constructor(env, tenant) {
    this.env = env;
    this.#key = `tidegate:positions:${tenant}`;
    const stored = readJson(env.sessionStorage, this.#key);
    const usable2 = Object.entries(stored ?? {}).filter(([, position]) => isOffset(position?.offset));
    this.#positions = new Map(usable2);
  }
  env;
  #positions;
  #key;
  #timer;
  get(channel) {
    return this.#positions.get(channel);
  }
  set(channel, position) {
    this.#positions.delete(channel);
    this.#positions.set(channel, position);
    if (this.#positions.size > MOST_POSITIONS) this.#positions.delete(this.#positions.keys().next().value);
    this.#timer ??= this.env.setTimeout(() => this.flush(), WRITE_EVERY_MS);
  }
  /** The application is through with the channel. */
  delete(channel) {
    if (this.#positions.delete(channel)) this.flush();
  }
  /** Writes now: the page may go away. */
  flush() {
    this.env.clearTimeout(this.#timer);
    this.#timer = void 0;
    writeJson(this.env.sessionStorage, this.#key, Object.fromEntries(this.#positions));
  }
};

// src/requests.ts
var IN_FLIGHT = 32;
var Requests = class {
  constructor(env, limits) {
    this.env = env;
    this.limits = limits;
  }
  env;
  limits;
  #open = /* @__PURE__ */ new Map();
  #lastId = 0;
  #count = 0;
  #bytes = 0;
  #inFlight = 0;
  #closed;
  #send;
  /**
   * Sends a request as soon as it can be sent.
   *
   * Rejects with a `TidegateError`: the server's code, `queue_full`, `timeout`, `connection_lost` or `closed`.
   */
  submit(wish, options2) {
    if (this.#closed) return Promise.reject(this.#closed);
    const bytes = options2.isOwn ? 0 : JSON.stringify(wish).length;
    const { maxQueued, maxQueuedBytes } = this.limits;
    if (!options2.isOwn && (this.#count >= maxQueued || this.#bytes + bytes > maxQueuedBytes)) {
      const most = `the most is maxQueued (${maxQueued}) and maxQueuedBytes (${maxQueuedBytes})`;
      return Promise.reject(new TidegateError("queue_full", `${this.#count} requests of ${this.#bytes} bytes wait already; ${most}`));
    }
    return new Promise((resolve, reject) => {
      const id = ++this.#lastId;
      const text = { ...wish, id };
      const open = { id, text, bytes, options: options2, resolve, reject, isSent: false, timer: void 0 };
      if (options2.timeoutMs > 0) open.timer = this.env.setTimeout(() => this.#expire(open), options2.timeoutMs);
      this.#open.set(id, open);
      if (!options2.isOwn) this.#count++;
      this.#bytes += bytes;
      this.flush();
    });
  }
  /** There is a connection. */
  connected(send) {
    this.#send = send;
    this.flush();
  }
  /** The connection is gone: what may be sent again waits for the next, the rest fails. */
  lost() {
    this.#send = void 0;
    for (const open of [...this.#open.values()]) {
      if (!open.isSent) continue;
      open.isSent = false;
      this.#inFlight--;
      if (open.options.resend) continue;
      this.#settle(open);
      const lost = `the connection broke before the reply to \`${open.text.type}\`: whether it was done is not known`;
      open.reject(new TidegateError("connection_lost", lost));
    }
  }
  /** Sends what can be sent. */
  flush() {
    for (const open of this.#open.values()) {
      if (!this.#send || this.#inFlight >= IN_FLIGHT) return;
      if (open.isSent || open.options.isReady?.() === false) continue;
      open.isSent = true;
      this.#inFlight++;
      this.#send(open.text);
    }
  }
  /** Gives a reply to whoever asked. */
  reply(frame) {
    const open = frame.id === void 0 ? void 0 : this.#open.get(frame.id);
    if (!open) return;
    this.#settle(open);
    if (frame.type === "error") open.reject(new TidegateError(frame.code, frame.message));
    else {
      open.options.onReply?.(frame);
      open.resolve(frame);
    }
    this.flush();
  }
  /** Requests may come again. */
  reopen() {
    this.#closed = void 0;
  }
  /** Nothing is sent any more, and nothing taken until it is opened again. */
  close(error) {
    this.#closed = error;
    this.#send = void 0;
    for (const open of [...this.#open.values()]) {
      this.#settle(open);
      open.reject(error);
    }
  }
  #expire(open) {
    this.#settle(open);
    const done = open.isSent ? "whether it was done is not known" : "it was not sent";
    open.reject(new TidegateError("timeout", `no reply to \`${open.text.type}\` within ${open.options.timeoutMs} ms: ${done}`));
    this.flush();
  }
  #settle(open) {
    if (!this.#open.delete(open.id)) return;
    this.env.clearTimeout(open.timer);
    if (open.isSent) this.#inFlight--;
    if (!open.options.isOwn) this.#count--;
    this.#bytes -= open.bytes;
  }
};

// src/subscription.ts
var ACK_EVERY = 16;
var ACK_EVERY_MS = 1e3;
var Subscription = class {
  /** @internal */
  constructor(host, channel, options2) {
    this.host = host;
    this.options = options2;
    this.#channel = channel;
    this.#inbox = options2.queue ? new QueueInbox() : new LogInbox();
    this.#events = new Events((thrown, name) => {
      const error = asError(thrown, "handler_failed", `a handler of \`${name}\` threw`);
      if (name === "error") this.host.report(error);
      else this.#report(error);
    });
    this.ready = new Promise((resolve, reject) => [this.#setReady, this.#setFailed] = [resolve, reject]);
    this.ready.catch(() => void 0);
  }
  host;
  options;
  /** Resolves at the first `subscribed`; rejects with the server's `TidegateError` when it is refused. */
  ready;
  #channel;
  #phase = "off";
  #epoch;
  #isEstablished = false;
  #isAskedInConnect = false;
  #attempt = 0;
  #inbox;
  #events;
  #handlers = /* @__PURE__ */ new Set();
  #isPumping = false;
  #pulls = [];
  #failure;
  #told;
  #sinceAck = 0;
  #ackedAt = 0;
  #ackTimer;
  #setReady;
  #setFailed;
  /** The channel, as the server names it. */
  get channel() {
    return this.#channel;
  }
  /** Everything up to here is handled; undefined before the server said where it starts, and on a queue. */
  get position() {
    const offset = this.#inbox instanceof LogInbox ? this.#inbox.floor : void 0;
    return offset === void 0 ? void 0 : { offset, ...this.#epoch !== void 0 && { epoch: this.#epoch } };
  }
  /** Whether messages come now. */
  get isActive() {
    return this.#phase === "on" || this.#phase === "paused";
  }
  /** Listens. Messages wait here, up to `maxBuffered`, until somebody listens or iterates. */
  on(name, handler) {
    if (name !== "message") return this.#events.on(name, handler);
    const handle = handler;
    this.#handlers.add(handle);
    void this.#pump();
    return () => void this.#handlers.delete(handle);
  }
  /**
   * Messages one by one. A message counts as handled when the next is asked for; where the loop is left, the
   * last one is not, unless it was acknowledged by hand. Ends with `unsubscribe`; throws when the server refuses
   * the subscription.
   */
  async *[Symbol.asyncIterator]() {
    for (; ; ) {
      const delivery = this.#take();
      if (delivery) {
        let isThrough = false;
        try {
          yield delivery;
          isThrough = true;
        } finally {
          if (isThrough || !this.#acks) this.#finish(delivery);
          else this.#inbox.leave(delivery.offset);
        }
      } else if (this.#failure) {
        throw this.#failure;
      } else if (this.#phase === "ended") {
        return;
      } else {
        await new Promise((resolve) => this.#pulls.push(resolve));
      }
    }
  }
  /** Ends it. Messages that wait are not handled. Resolves when the server knows, or at once without a connection. */
  async unsubscribe() {
    if (this.#phase === "ended") return;
    const isKnown = this.#phase !== "off";
    this.host.positions.delete(this.#channel);
    this.#end(void 0);
    if (isKnown) await this.#leave().catch(() => void 0);
  }
  /** What `connect` says of it; undefined where it is asked for on its own. @internal */
  fields() {
    return this.#isEstablished ? this.#fields() : void 0;
  }
  /** There is a connection, whose `connect` named it or did not. @internal */
  connected(isNamed, isHome) {
    this.#attempt = 0;
    if (!isHome && this.#inbox instanceof QueueInbox) this.#inbox.forget();
    if (isNamed) this.#phase = "asked";
    else if (this.#phase === "off") this.ask();
  }
  /** The connection is gone. @internal */
  lost() {
    if (this.#phase !== "ended") this.#phase = "off";
    this.host.env.clearTimeout(this.#ackTimer);
    this.#inbox.lost();
  }
  /** Asks the server for it. @internal */
  ask() {
    this.#phase = "asked";
    const onReply = (reply) => this.onSubscribed(reply);
    const options2 = { resend: false, timeoutMs: 0, isOwn: true, onReply };
    const asked = this.host.requests.submit({ type: "subscribe", ...this.#fields() }, options2);
    asked.catch((error) => this.#refused(error));
  }
  /** Whether the server's answer is awaited. @internal */
  get isAsked() {
    return this.#phase === "asked";
  }
  /** Whether the server's own subscription to the channel will do, which acknowledges nothing and starts where it likes. @internal */
  get isPlain() {
    return !this.#acks && this.#fields().offset === void 0;
  }
  /** Only a `connect` can ask for it as it is to be: another session begins with it. @internal */
  askInConnect() {
    if (this.#isAskedInConnect) {
      const why = "the user is another one in each session (anonymous?): acknowledgement and positions mean nothing in the own channel";
      return this.fail(new TidegateError("unsupported", why));
    }
    this.#isAskedInConnect = this.#isEstablished = true;
    this.host.renew(true);
  }
  /** The channel has this name from now on, and no position in it is known. @internal */
  rename(channel) {
    if (channel === this.#channel) return;
    const from = this.#channel;
    this.#channel = channel;
    if (this.#inbox instanceof LogInbox && this.#isEstablished) this.#inbox = new LogInbox();
    this.#isEstablished = false;
    this.host.renamed(this, from);
  }
  /** @internal */
  onSubscribed(frame) {
    if (this.#phase === "ended") return;
    if (frame.channel !== this.#channel) this.rename(frame.channel);
    const { channel, offset, epoch, recovered } = frame;
    if (this.#inbox instanceof LogInbox) {
      const floor = this.#inbox.floor;
      const isBefore = floor !== void 0 && compareOffsets(offset, floor) < 0;
      if (floor === void 0 || isBefore && this.#epoch !== void 0 && this.#epoch !== epoch) this.#inbox.restart(offset);
    }
    this.#epoch = epoch;
    this.#phase = "on";
    this.#isEstablished = true;
    this.#attempt = 0;
    const subscribed = { channel, position: { offset, epoch }, recovered };
    this.#setReady(subscribed);
    this.#events.emit("subscribed", subscribed);
    this.#sendAcks(true);
    this.host.requests.flush();
  }
  /** @internal */
  onMessage(frame) {
    if (!this.isActive) return;
    const mayWait = this.options.maxBuffered ?? 1e3;
    if (this.#phase === "paused" || this.#inbox.waiting >= mayWait && !this.#acks) {
      this.#phase = "paused";
      return;
    }
    if (this.#inbox.receive(frame) === "handled") this.#sendAcks(true);
    else void this.#pump();
  }
  /** @internal */
  onPosition(frame) {
    if (this.#phase === "on") this.#skip(frame.offset, frame.epoch, false);
  }
  /** @internal */
  onGap(frame) {
    const { channel, after, until, epoch, reason } = frame;
    if (this.#phase !== "on") return;
    this.#skip(until, epoch, true);
    this.#events.emit("gap", { channel, after, until, epoch, reason });
  }
  /** The server refused it. @internal */
  fail(error) {
    this.#report(error);
    this.#end(error);
  }
  /** The client ended, which tells why itself. @internal */
  close(error) {
    this.#end(error.code === "closed" ? void 0 : error);
  }
  get #acks() {
    return this.options.queue === true || (this.options.ack ?? "none") !== "none";
  }
  get #isManual() {
    return this.options.ack === "manual";
  }
  #fields() {
    const { window } = this.options;
    if (!this.position) this.#start();
    return { channel: this.#channel, ...this.position, ...this.#acks && { ack: true }, ...window && { window } };
  }
  /** Puts it where the application wants to start, if it says. */
  #start() {
    const { position, keepPosition } = this.options;
    const kept = keepPosition ? this.host.positions.get(this.#channel) : void 0;
    const start = kept ?? (position === "start" ? { offset: BEGINNING } : position);
    if (!start || !(this.#inbox instanceof LogInbox)) return;
    this.#inbox.floor = start.offset;
    this.#epoch = start.epoch;
  }
  #skip(until, epoch, isGap) {
    this.#epoch = epoch;
    this.#inbox.skip(until, isGap);
    this.#moved();
  }
  #refused(error) {
    if (this.#phase !== "asked" || error.code === "connection_lost" || error.code === "closed") return;
    if (error.code === "bad_request" && error.message.includes("already subscribed")) return this.#adopt();
    if (error.code !== "unavailable" && error.code !== "limit_exceeded") return this.fail(error);
    if (this.#attempt === 0) this.#report(error);
    const pause = 500 + fullJitter(this.#attempt++, this.host.env.random());
    this.host.env.setTimeout(() => this.#phase === "asked" && this.ask(), pause);
  }
  /** The server has a subscription of its own, or one of before: it is replaced by one as asked for here. */
  #adopt() {
    if (this.#isEstablished && this.#attempt === 0) return void this.#attempt++;
    if (this.#channel.startsWith("user:")) return this.askInConnect();
    this.#leave().catch(() => void 0);
    this.ask();
  }
  #leave() {
    const options2 = { resend: false, timeoutMs: 0, isOwn: true };
    return this.host.requests.submit({ type: "unsubscribe", channel: this.#channel }, options2);
  }
  #take() {
    for (let frame = this.#inbox.take(); frame; frame = this.#inbox.take()) {
      const delay = this.options.nackDelayMs ?? 1e3;
      const delivery = new Delivery(frame, delay, (settled, nackDelayMs) => this.#settle(settled, nackDelayMs));
      if (frame.msg_id === void 0 || !this.host.handled.has(idOf(frame.channel, frame.msg_id))) return delivery;
      delivery.ack();
    }
    return void 0;
  }
  async #pump() {
    this.#pulls.shift()?.();
    if (this.#isPumping) return;
    this.#isPumping = true;
    while (this.#handlers.size > 0 && this.#phase !== "ended") {
      const delivery = this.#take();
      if (!delivery) break;
      try {
        await Promise.all([...this.#handlers].map(async (handle) => handle(delivery)));
        this.#finish(delivery);
      } catch (thrown) {
        this.#failed(delivery, thrown);
      }
    }
    this.#isPumping = false;
  }
  /** The application is through with it. */
  #finish(delivery) {
    if (delivery.isSettled) return;
    if (this.#isManual) this.#inbox.leave(delivery.offset);
    else delivery.ack();
  }
  #failed(delivery, thrown) {
    this.#report(asError(thrown, "handler_failed", `the handler of ${delivery.channel} threw at ${delivery.offset}`));
    if (delivery.isSettled) return;
    if (this.#isManual) this.#inbox.leave(delivery.offset);
    else if (this.#acks) delivery.nack();
    else delivery.ack();
  }
  #settle({ channel, offset, msgId }, nackDelayMs) {
    if (nackDelayMs !== void 0 && this.#acks) {
      this.#inbox.refuse(offset);
      if (this.isActive) this.host.send({ type: "nack", channel, offset, delay_ms: nackDelayMs });
      return;
    }
    this.#inbox.done(offset);
    if (msgId !== void 0) this.host.handled.add(idOf(channel, msgId));
    this.#sinceAck++;
    this.#moved();
    if (this.#phase === "paused" && this.#inbox.waiting === 0) this.#resume();
  }
  /** All that waited is handled: the rest is fetched from the log. */
  #resume() {
    if (this.#channel.startsWith("user:")) {
      this.#phase = "on";
      return this.host.renew(false);
    }
    this.#leave().catch(() => void 0);
    this.ask();
  }
  #moved() {
    const { position } = this;
    if (position && position.offset !== this.#told) {
      this.#told = position.offset;
      if (this.options.keepPosition) this.host.positions.set(this.#channel, position);
      this.#events.emit("position", position);
    }
    this.#sendAcks(false);
  }
  #sendAcks(isUrgent) {
    if (!this.#acks || this.#phase !== "on") return;
    const now = this.host.env.now();
    const isDue = this.#inbox.waiting === 0 || this.#sinceAck >= ACK_EVERY || now - this.#ackedAt >= ACK_EVERY_MS;
    this.host.env.clearTimeout(this.#ackTimer);
    if (!isUrgent && !isDue && !this.options.queue) {
      this.#ackTimer = this.host.env.setTimeout(() => this.#sendAcks(true), ACK_EVERY_MS);
      return;
    }
    for (const offset of this.#inbox.takeAcks()) this.host.send({ type: "ack", channel: this.#channel, offset });
    [this.#sinceAck, this.#ackedAt] = [0, now];
  }
  #end(error) {
    if (this.#phase === "ended") return;
    this.#phase = "ended";
    this.host.env.clearTimeout(this.#ackTimer);
    this.#failure = error;
    this.#setFailed(error ?? new TidegateError("closed", `unsubscribed from ${this.#channel}`));
    this.#pulls.splice(0).forEach((wake) => wake());
    this.host.ended(this);
  }
  /** Tells who listens here, else who listens to the client's errors. */
  #report(error) {
    if (this.#events.has("error")) this.#events.emit("error", error);
    else this.host.report(error);
  }
};
function idOf(channel, msgId) {
  return `${channel}
${msgId}`;
}

// src/subscriptions.ts
var MOST = 128;
var Subscriptions = class {
  #named = /* @__PURE__ */ new Map();
  /** Subscriptions to the channels of the user and the session, whose names the server tells. */
  #own = /* @__PURE__ */ new Map();
  /** Channels that were left without a connection; a session that was kept still has them. */
  #left = /* @__PURE__ */ new Set();
  #host;
  /** The user's own channel, as the server named it last. */
  #userChannel;
  constructor(host) {
    this.#host = {
      ...host,
      renamed: (subscription, from) => this.#renamed(subscription, from),
      ended: (subscription) => this.#ended(subscription)
    };
  }
  /** @throws TidegateError `invalid` for a wrong option or name, or where there is one already, `limit_exceeded` where there are too many */
  add(channel, options2, isConnected) {
    check(options2);
    if (!isName(channel)) {
      throw new TidegateError("invalid", `a channel is named <namespace>:<rest>, not ${JSON.stringify(channel)}`);
    }
    if (this.#named.has(channel)) throw new TidegateError("invalid", `there is a subscription to ${channel} already`);
    if (this.#all().size >= MOST) {
      throw new TidegateError("limit_exceeded", `a client has ${MOST} subscriptions at most`);
    }
    const subscription = new Subscription(this.#host, channel, options2);
    this.#named.set(channel, subscription);
    this.#left.delete(channel);
    if (isConnected) subscription.ask();
    return subscription;
  }
  /** The subscription to the user's or the session's own channel; made where there is none yet. */
  own(kind, options2, connected) {
    check(options2);
    const known = this.#own.get(kind);
    if (known) return known;
    const subscription = new Subscription(this.#host, `${kind}:`, options2);
    this.#own.set(kind, subscription);
    if (connected && kind === "session") this.#begin(subscription, `session:${connected.session}`);
    if (connected && kind === "user" && this.#userChannel) {
      subscription.rename(this.#userChannel);
      subscription.askInConnect();
    }
    return subscription;
  }
  /** Whether a publication to the channel may go: where it is being subscribed to, not before that is done. */
  isReady(channel) {
    return this.#named.get(channel)?.isActive ?? true;
  }
  /** What `connect` says about those that existed before. */
  fields() {
    return [...this.#named.values()].flatMap((subscription) => subscription.fields() ?? []);
  }
  /** There is a connection, whose `connect` named these channels. */
  connected(frame, named) {
    for (const [channel, subscription] of [...this.#named]) {
      const isOther = subscription === this.#own.get("session") && channel !== `session:${frame.session}`;
      if (!isOther) subscription.connected(named.has(channel), frame.resumed === "home");
    }
    const replies = this.#own.get("session");
    if (replies && replies.channel !== `session:${frame.session}`) this.#begin(replies, `session:${frame.session}`);
    if (frame.resumed === "home") this.#left.forEach((channel) => this.#leave(channel));
    this.#left.clear();
  }
  lost() {
    for (const subscription of this.#all()) subscription.lost();
  }
  /** Takes a frame about a channel; false where it is about none of these. */
  take(frame) {
    switch (frame.type) {
      case "subscribed":
        if (frame.id === void 0) this.#subscribed(frame.channel)?.onSubscribed(frame);
        return frame.id === void 0;
      case "message":
        this.#named.get(frame.channel)?.onMessage(frame);
        return true;
      case "position":
        this.#named.get(frame.channel)?.onPosition(frame);
        return true;
      case "gap":
        this.#named.get(frame.channel)?.onGap(frame);
        return true;
      case "error":
        return frame.id === void 0 && this.#failed(frame);
      default:
        return false;
    }
  }
  /** The client is closed. */
  close(error) {
    for (const subscription of this.#all()) subscription.close(error);
  }
  #all() {
    return /* @__PURE__ */ new Set([...this.#named.values(), ...this.#own.values()]);
  }
  /** Whose `subscribed` this is, where nobody asked for it on this connection. */
  #subscribed(channel) {
    const isUser = channel.startsWith("user:");
    if (isUser) this.#userChannel = channel;
    const known = this.#named.get(channel);
    const own = this.#own.get("user");
    if (known || !own || !isUser) return known;
    own.rename(channel);
    if (own.isPlain) return own;
    own.askInConnect();
    return void 0;
  }
  /** A refusal without an `id` concerns one of those that `connect` named, or one that the new token does not allow. */
  #failed(frame) {
    const error = new TidegateError(frame.code, frame.message);
    const named = frame.channel === void 0 ? void 0 : this.#named.get(frame.channel);
    if (named && (named.isAsked || frame.code === "forbidden")) {
      named.fail(error);
      return true;
    }
    const asked = [...this.#named.values()].filter((subscription) => subscription.isAsked);
    if (frame.channel === void 0) asked.forEach((subscription) => subscription.ask());
    return asked.length > 0;
  }
  #begin(subscription, channel) {
    subscription.lost();
    subscription.rename(channel);
    subscription.connected(false, false);
  }
  #leave(channel) {
    const options2 = { resend: false, timeoutMs: 0, isOwn: true };
    this.#host.requests.submit({ type: "unsubscribe", channel }, options2).catch(() => void 0);
  }
  #renamed(subscription, from) {
    if (this.#named.get(from) === subscription) this.#named.delete(from);
    this.#named.set(subscription.channel, subscription);
  }
  #ended(subscription) {
    if (this.#named.get(subscription.channel) === subscription) this.#named.delete(subscription.channel);
    for (const [kind, own] of this.#own) if (own === subscription) this.#own.delete(kind);
    this.#host.requests.flush();
    if (this.#left.size < MOST && isName(subscription.channel)) this.#left.add(subscription.channel);
  }
};
function isName(channel) {
  return /^[a-z0-9_-]{1,32}:.+$/.test(channel);
}
function check({ ack, window, position, maxBuffered, nackDelayMs }) {
  const wrong = (name, wanted, got) => {
    return new TidegateError("invalid", `\`${name}\` is ${wanted}, not ${JSON.stringify(got)}`);
  };
  if (ack !== void 0 && !["none", "auto", "manual"].includes(ack)) throw wrong("ack", '"none", "auto" or "manual"', ack);
  if (position !== void 0 && position !== "start" && !isOffset(position.offset)) {
    throw wrong("position", '"start" or { offset, epoch? }', position);
  }
  for (const [name, value] of Object.entries({ window, maxBuffered })) {
    if (value !== void 0 && !(Number.isInteger(value) && value >= 1)) throw wrong(name, "a whole number from 1", value);
  }
  if (nackDelayMs !== void 0 && !(nackDelayMs >= 0)) throw wrong("nackDelayMs", "a number from 0", nackDelayMs);
}

// src/token.ts
var LEAD_MS = 6e4;
var LONGEST_TIMER_MS = 24 * 36e5;
var TokenSource = class {
  constructor(env, token, getToken) {
    this.env = env;
    this.getToken = getToken;
    if (token !== void 0) this.#keep(token);
  }
  env;
  getToken;
  #token;
  #askAt = Infinity;
  #reason = "first";
  #timer;
  /** Whether asking for another one can help. */
  get isRenewable() {
    return this.getToken !== void 0;
  }
  /**
   * The token to connect with; undefined where the application has none and connects anonymously.
   *
   * @throws TidegateError `token_failed` where `getToken` fails
   */
  async current() {
    const isGood = this.#token !== void 0 && this.env.now() < this.#askAt;
    if (!this.getToken || isGood) return this.#token;
    const reason = this.#token === void 0 ? this.#reason : "expiring";
    try {
      const token = await this.getToken(reason);
      if (typeof token !== "string" || token === "") {
        throw new TidegateError("token_failed", "getToken gave no token: it must give a string");
      }
      this.#keep(token);
      return token;
    } catch (thrown) {
      throw asError(thrown, "token_failed", "getToken failed");
    }
  }
  /** The application has another one. */
  replace(token) {
    this.#keep(token);
  }
  /** The server refused it, or it expired: the next one is asked for. */
  refused() {
    if (!this.getToken) return;
    this.#token = void 0;
    this.#reason = "refused";
  }
  /** Calls `due` when it is time for a new token, once, unless `stop` is called before. */
  watch(due) {
    this.stop();
    if (!this.getToken || this.#askAt === Infinity) return;
    const wait = Math.max(1e3, this.#askAt - this.env.now());
    const isLast = wait <= LONGEST_TIMER_MS;
    this.#timer = this.env.setTimeout(() => isLast ? due() : this.watch(due), Math.min(wait, LONGEST_TIMER_MS));
  }
  stop() {
    this.env.clearTimeout(this.#timer);
  }
  #keep(token) {
    this.#token = token;
    const expires = expiryOf(token);
    const left = (expires ?? 0) - this.env.now();
    this.#askAt = expires === void 0 || left <= 0 ? Infinity : expires - Math.min(LEAD_MS, left / 10);
  }
};
function expiryOf(token) {
  try {
    const claims = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const { exp } = JSON.parse(atob(claims));
    return typeof exp === "number" ? exp * 1e3 : void 0;
  } catch {
    return void 0;
  }
}

// src/client.ts
var REMEMBERED_IDS = 1024;
var REFRESH_AGAIN_MS = 1e4;
var Tidegate = class {
  /** @throws TidegateError `invalid` or `unsupported_here`: what is wrong with the options */
  constructor(options2) {
    this.options = options2;
    const env = options2.environment ?? realEnvironment(options2.webSocket);
    this.#env = env;
    this.#settings = settle(options2);
    const { tenant, transports } = this.#settings;
    if (!transports.some((name) => isUsable(env, name))) {
      const none = `there is none of ${transports.join(", ")} here; in Node 20 give \`webSocket\` from the package ws`;
      throw new TidegateError("unsupported_here", none);
    }
    this.#events = new Events((thrown, name) => {
      const error = asError(thrown, "handler_failed", `a handler of \`${name}\` threw`);
      if (name === "error") warn(error);
      else this.#report(error);
    });
    this.#memory = new NetworkMemory(env, tenant);
    this.#tokens = new TokenSource(env, options2.token, options2.getToken);
    this.#requests = new Requests(env, { maxQueued: options2.maxQueued ?? 256, maxQueuedBytes: options2.maxQueuedBytes ?? 1048576 });
    this.#positions = new PositionStore(env, tenant);
    this.#subscriptions = new Subscriptions({
      env,
      requests: this.#requests,
      positions: this.#positions,
      handled: new Recent(REMEMBERED_IDS),
      send: (frame) => this.#connection?.send(frame),
      report: (error) => this.#report(error),
      renew: (afresh) => this.#renew(afresh)
    });
  }
  options;
  #env;
  #settings;
  #events;
  #memory;
  #tokens;
  #requests;
  #positions;
  #subscriptions;
  #link;
  #connection;
  #connected;
  #resume;
  #named = /* @__PURE__ */ new Set();
  #device;
  #offWake;
  #state = "idle";
  #opening;
  get state() {
    return this.#state;
  }
  /** The connection in use; undefined while there is none. */
  get connection() {
    return this.#connected;
  }
  /** Calls the handler on every such event, until the function returned is called. */
  on(name, handler) {
    return this.#events.on(name, handler);
  }
  /**
   * Connects, and stays connected until `close` or until the server says not to come back. Resolves when there is
   * a connection for the first time; rejects with `refused` or `closed`. Calling it again gives the same promise.
   */
  connect() {
    if (this.#opening) return this.#opening.promise;
    let [resolve, reject] = [() => void 0, (_) => void 0];
    const promise = new Promise((done, failed) => [resolve, reject] = [done, failed]);
    promise.catch(() => void 0);
    this.#opening = { promise, resolve, reject };
    this.#requests.reopen();
    this.#offWake = this.#env.onWake((wake) => this.#woke(wake));
    void this.#run();
    return promise;
  }
  /**
   * Ends the session, every subscription, and every request that has no reply yet. `connect` begins anew. Resolves
   * when the goodbye is on its way.
   */
  async close() {
    this.#stop(new TidegateError("closed", "the client was closed"), true);
  }
  /**
   * Subscribes, now or as soon as there is a connection, and again on every later one.
   *
   * @throws TidegateError `invalid` or `limit_exceeded`
   */
  subscribe(channel, options2 = {}) {
    return this.#subscriptions.add(channel, options2, this.#connection !== void 0);
  }
  /** The subscription to the user's own channel, `user:<id>`, whose name the server tells. */
  personal(options2 = {}) {
    return this.#subscriptions.own("user", options2, this.#connected);
  }
  /** The subscription to this session's own channel, where backends reply to what `send` sent. */
  replies(options2 = {}) {
    return this.#subscriptions.own("session", options2, this.#connected);
  }
  /**
   * Publishes. Without a connection it waits for one; when the connection breaks before the reply it is sent
   * again, which its idempotency key makes harmless.
   *
   * Resolves with the message's offset, which is absent where a plugin sent it elsewhere. Rejects with a
   * `TidegateError`: the server's code, `invalid`, `queue_full`, `timeout` or `closed`.
   */
  async publish(channel, data, options2 = {}) {
    const { key, msgId = randomName(), timeoutMs = this.#settings.timeoutMs } = options2;
    const wish = { type: "publish", channel, ...encodePayload(data), ...key !== void 0 && { key }, msg_id: msgId };
    const isReady = () => this.#subscriptions.isReady(channel);
    const { offset } = await this.#requests.submit(wish, { resend: true, timeoutMs, isReady });
    return { offset };
  }
  /**
   * Sends to the tenant's backends. Without a connection it waits for one. It has no idempotency key: when the
   * connection breaks before the reply it rejects with `connection_lost` rather than being sent twice.
   */
  async send(data, options2 = {}) {
    const { topic, timeoutMs = this.#settings.timeoutMs } = options2;
    const wish = { type: "send", ...encodePayload(data), ...topic !== void 0 && { topic } };
    await this.#requests.submit(wish, { resend: false, timeoutMs });
  }
  /** Reads from a channel's log without subscribing, oldest first. */
  async history(channel, options2) {
    const { limit, before, after } = options2;
    const bounds = { ...before !== void 0 && { before }, ...after !== void 0 && { after } };
    const reply = await this.#ask({ type: "history", channel, limit, ...bounds });
    return { entries: (reply.messages ?? []).map((entry) => entryOf(channel, entry)), epoch: reply.epoch };
  }
  /** Who is in a channel, as the server says it. Rejects with `unsupported` where the namespace does not keep presence. */
  async presence(channel) {
    const { type, id, ...answer } = await this.#ask({ type: "presence", channel });
    return answer;
  }
  /**
   * Replaces the token before it expires. With `getToken` this happens by itself.
   *
   * @param token default: what `getToken` gives
   */
  async refresh(token) {
    if (token !== void 0) this.#tokens.replace(token);
    const current = await this.#tokens.current();
    if (current === void 0) throw new TidegateError("invalid", "there is no token to refresh: give one, or the option `getToken`");
    await this.#ask({ type: "refresh", token: current });
    this.#tokens.watch(() => void this.#refreshAlone());
  }
  async #ask(wish) {
    return await this.#requests.submit(wish, { resend: true, timeoutMs: this.#settings.timeoutMs });
  }
  async #run() {
    const { tenant, transports, addresses } = this.#settings;
    const { device, route, webTransportTimeoutMs = 2e3, headStartMs = 500 } = this.options;
    this.#become("connecting");
    const opening = this.#opening;
    if (device === void 0) this.#device ??= await tabDevice(this.#env, tenant);
    if (this.#opening !== opening) return this.#releaseDevice();
    const dialer = new Dialer({ addresses, tenant, transports, askRoute: route, webTransportTimeoutMs, headStartMs }, this.#env, this.#memory);
    this.#link = new Link(this.#env, dialer, this.#tokens, {
      hello: (token) => this.#hello(token),
      connecting: () => this.#become("connecting"),
      connected: (connection, frame) => this.#onConnected(connection, frame),
      lost: (connection, end, livedMs) => this.#onLost(connection, end, livedMs),
      waiting: (disconnected) => {
        this.#become("waiting");
        this.#events.emit("disconnected", disconnected);
      },
      report: (error) => this.#report(error),
      stopped: (error) => this.#stop(error, false)
    });
    await this.#link.run();
  }
  #hello(token) {
    const { device = this.#device?.name, pingMs = this.#memory.pingMs } = this.options;
    const subs = this.#subscriptions.fields();
    this.#named = new Set(subs.map(({ channel }) => channel));
    return {
      type: "connect",
      ...token !== void 0 && { token },
      ...this.#resume !== void 0 && { resume: this.#resume },
      ...typeof device === "string" && { device },
      ...pingMs !== void 0 && { ping_ms: Math.round(pingMs) },
      ...subs.length > 0 && { subs }
    };
  }
  #onConnected(connection, frame) {
    if (this.#connection) this.#drop();
    const { transport, url } = connection.endpoint;
    const { session, user, device, resumed, node, ping_ms: pingMs } = frame;
    this.#connection = connection;
    const connected = { session, user, device, resumed, node, transport, url, pingMs };
    this.#connected = connected;
    this.#resume = frame.resume;
    this.#become("connected");
    this.#subscriptions.connected(frame, this.#named);
    this.#requests.connected((request) => connection.send(request));
    this.#tokens.watch(() => void this.#refreshAlone());
    this.#opening?.resolve();
    this.#events.emit("connected", connected);
    connection.listen((next) => this.#take(next));
  }
  #onLost(connection, end, livedMs) {
    const wish = nextPing(connection.pingMs, livedMs, end.silent === true);
    if (wish !== void 0 && this.options.pingMs === void 0) this.#memory.pingMs = wish;
    if (this.#connection !== connection) return;
    this.#drop();
    this.#become("waiting");
  }
  /** What was on its way on the connection is not any more. */
  #drop() {
    this.#connection = this.#connected = void 0;
    this.#tokens.stop();
    this.#requests.lost();
    this.#subscriptions.lost();
  }
  #take(frame) {
    if (this.#subscriptions.take(frame)) return;
    switch (frame.type) {
      case "ok":
      case "subscribed":
        return this.#requests.reply(frame);
      case "error":
        if (frame.id !== void 0) return this.#requests.reply(frame);
        return this.#report(new TidegateError(frame.code, frame.message));
      case "drain":
        this.#events.emit("drain", { retryAfterMs: frame.retry_after_ms });
        return this.#link?.drain(frame);
      case "join":
      case "leave":
        return this.#events.emit("presence", frame);
      default:
        return;
    }
  }
  #renew(afresh) {
    if (afresh) this.#resume = void 0;
    this.#link?.renew(afresh);
  }
  #woke(wake) {
    if (wake === "leaving") this.#positions.flush();
    else this.#link?.woke(wake);
  }
  async #refreshAlone() {
    try {
      await this.refresh();
    } catch (thrown) {
      const error = asError(thrown, "token_failed", "the token was not refreshed");
      if (!this.#connection || error.code === "closed") return;
      this.#report(error);
      this.#env.setTimeout(() => this.#connection && void this.#refreshAlone(), REFRESH_AGAIN_MS);
    }
  }
  #stop(error, goodbye) {
    if (this.#state === "closed" || this.#state === "idle") return;
    this.#link?.stop(goodbye);
    this.#link = void 0;
    this.#connection = this.#connected = this.#resume = void 0;
    this.#offWake?.();
    this.#tokens.stop();
    this.#positions.flush();
    this.#opening?.reject(error);
    this.#opening = void 0;
    this.#requests.close(error);
    this.#subscriptions.close(error);
    this.#releaseDevice();
    this.#become("closed");
  }
  #releaseDevice() {
    this.#device?.release();
    this.#device = void 0;
  }
  #become(state) {
    if (this.#state === state) return;
    this.#state = state;
    this.#events.emit("state", state);
  }
  /** Errors that nobody listens to are not lost in silence. */
  #report(error) {
    if (this.#events.has("error")) this.#events.emit("error", error);
    else warn(error);
  }
};
function warn(error) {
  console.warn(`tidegate: ${error.code}: ${error.message}`);
}
export {
  Subscription,
  Tidegate,
  TidegateError,
  compareOffsets
};
