// A node in a few lines: logs, sessions that can be resumed, acknowledgements. It keeps to docs/protocol.md.

import type { ClientFrame, ConnectFrame, MessageFrame, PayloadFields, ServerFrame, SubFields } from "../../src/frames.js";
import { compareOffsets } from "../../src/offsets.js";
import type { Socket, World } from "./world.js";

interface Logged extends PayloadFields {
  offset: string;
  msg_id?: string;
  key?: string;
}

interface Sub {
  ack: boolean;
  window: number;
  /** Everything up to here was sent. */
  sent: string;
  /** Sent and not acknowledged, with attempts. */
  flight: Map<string, number>;
}

interface Session {
  name: string;
  generation: number;
  user: string;
  subs: Map<string, Sub>;
  socket: Socket | undefined;
}

export class Node {
  logs = new Map<string, Logged[]>();
  sessions = new Map<string, Session>();
  epoch = "00000000000000aa";
  pingMs = 25_000;
  /** Frames of the client that are not answered. */
  deaf = new Set<ClientFrame["type"]>();
  /** Channels that nobody may subscribe to. */
  forbidden = new Set<string>();
  connects: ConnectFrame[] = [];
  #names = 0;
  #clock = 0;

  /** Answers the sockets of a world. */
  constructor(private readonly world: World) {
    world.onSocket = (socket) => this.accept(socket);
  }

  accept(socket: Socket): void {
    let session: Session | undefined;
    socket.onFrame = (frame) => {
      if (this.deaf.has(frame.type)) return;
      if (frame.type === "connect") session = this.#connect(socket, frame);
      else if (session?.socket === socket) this.#take(session, frame);
    };
    socket.open();
  }

  /** Adds to a log, and delivers. */
  publish(channel: string, data: unknown, more: Partial<Logged> = {}): string {
    const log = this.#log(channel);
    const known = more.msg_id === undefined ? undefined : log.find(({ msg_id }) => msg_id === more.msg_id);
    if (known) return known.offset;
    const offset = `${1_800_000_000_000 + ++this.#clock}-0`;
    log.push({ offset, data, ...(typeof data === "string" && { enc: "text" as const }), ...more });
    for (const session of this.sessions.values()) this.#deliver(session, channel);
    return offset;
  }

  /** The session that a client has now. */
  get session(): Session {
    return [...this.sessions.values()].at(-1)!;
  }

  /** Sends everything in flight again. */
  redeliver(channel: string): void {
    for (const session of this.sessions.values()) this.#resend(session, channel);
  }

  #log(channel: string): Logged[] {
    const log = this.logs.get(channel) ?? [];
    this.logs.set(channel, log);
    return log;
  }

  #connect(socket: Socket, frame: ConnectFrame): Session {
    this.connects.push(frame);
    const kept = frame.resume === undefined ? undefined : this.sessions.get(frame.resume.split(" ")[0]!);
    const isHome = kept !== undefined && frame.resume === `${kept.name} ${kept.generation}`;
    const session = isHome ? kept : { name: `s${++this.#names}`, generation: 0, user: "ann", subs: new Map(), socket: undefined };
    session.generation++;
    session.socket = socket;
    this.sessions.set(session.name, session);
    this.#say(session, {
      type: "connected", session: session.name, user: session.user, resume: `${session.name} ${session.generation}`,
      resumed: isHome ? "home" : frame.resume === undefined ? "new" : "lost", node: "n1", ping_ms: frame.ping_ms ?? this.pingMs,
      ...(frame.device !== undefined && { device: frame.device }),
    });
    const asked = new Map((frame.subs ?? []).map((sub) => [sub.channel, sub]));
    const personal = `user:${session.user}`;
    for (const [channel, sub] of session.subs) {
      const from = asked.get(channel)?.offset;
      if (from !== undefined && !sub.ack && compareOffsets(from, sub.sent) < 0) sub.sent = from;
      this.#begin(session, channel, true, undefined);
    }
    if (!asked.has(personal)) asked.set(personal, { channel: personal });
    for (const [channel, sub] of asked) if (!session.subs.has(channel)) this.#subscribe(session, sub, undefined);
    return session;
  }

  #subscribe(session: Session, fields: SubFields, id: number | undefined): void {
    const { channel, offset, ack = false, window = 64 } = fields;
    const fail = (code: string, message: string) => this.#say(session, { type: "error", ...(id !== undefined && { id }), code, message });
    if (session.subs.has(channel)) return fail("bad_request", `already subscribed to ${channel}`);
    if (this.forbidden.has(channel)) return fail("forbidden", `the token does not allow subscribing to ${channel}`);
    const last = channel.startsWith("user:") ? "0-0" : (this.#log(channel).at(-1)?.offset ?? "0-0");
    session.subs.set(channel, { ack, window, sent: offset ?? last, flight: new Map() });
    this.#begin(session, channel, offset !== undefined, id);
  }

  #begin(session: Session, channel: string, isWished: boolean, id: number | undefined): void {
    const sub = session.subs.get(channel)!;
    const ids = id === undefined ? {} : { id };
    this.#say(session, { type: "subscribed", ...ids, channel, offset: sub.sent, epoch: this.epoch, ...(isWished && { recovered: true }) });
    this.#resend(session, channel);
    this.#deliver(session, channel);
  }

  #resend(session: Session, channel: string): void {
    const flight = session.subs.get(channel)?.flight ?? new Map<string, number>();
    for (const [offset, attempt] of flight) {
      flight.set(offset, attempt + 1);
      this.#message(session, channel, this.#log(channel).find((entry) => entry.offset === offset)!, attempt + 1);
    }
  }

  #deliver(session: Session, channel: string): void {
    const sub = session.subs.get(channel);
    if (!sub || !session.socket) return;
    for (const entry of this.#log(channel)) {
      if (compareOffsets(entry.offset, sub.sent) <= 0) continue;
      if (sub.ack && sub.flight.size >= sub.window) return;
      sub.sent = entry.offset;
      if (sub.ack) sub.flight.set(entry.offset, 1);
      this.#message(session, channel, entry, 1);
    }
  }

  #message(session: Session, channel: string, entry: Logged, attempt: number): void {
    this.#say(session, { type: "message", channel, ...entry, attempt } satisfies MessageFrame);
  }

  #take(session: Session, frame: Exclude<ClientFrame, ConnectFrame>): void {
    switch (frame.type) {
      case "subscribe":
        return this.#subscribe(session, frame, frame.id);
      case "unsubscribe":
        session.subs.delete(frame.channel);
        return this.#say(session, { type: "ok", id: frame.id });
      case "publish": {
        const { id, channel, data, enc, msg_id } = frame;
        const offset = this.publish(channel, data, { ...(enc && { enc }), ...(msg_id !== undefined && { msg_id }) });
        return this.#say(session, { type: "ok", id, offset });
      }
      case "ack": {
        const sub = session.subs.get(frame.channel);
        for (const offset of sub?.flight.keys() ?? []) if (compareOffsets(offset, frame.offset) <= 0) sub!.flight.delete(offset);
        return this.#deliver(session, frame.channel);
      }
      case "nack":
        return;
      case "ping":
        return this.#say(session, { type: "pong" });
      case "history":
        return this.#say(session, { type: "ok", id: frame.id, epoch: this.epoch, messages: this.#log(frame.channel).slice(-frame.limit) });
      default:
        return this.#say(session, { type: "ok", id: frame.id });
    }
  }

  #say(session: Session, frame: ServerFrame): void {
    const socket = session.socket;
    // As on a real connection: a broken one takes nothing.
    if (socket && socket === this.world.sockets.at(-1)) socket.says(frame);
  }
}
