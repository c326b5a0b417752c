// The WebSocket: kept open, with what is wanted of it. After a break it asks to resume where it was.

const FIRST_WAIT_MS = 250;
const MOST_WAIT_MS = 5_000;
const PING_MS = 5_000;
const RESUME_WITHIN_MS = 10 * 60_000; // after that a snapshot is less work for everybody
const CONNECT_MS = 10_000;
const STEADY_MS = 5_000; // a connection that held so long was a good one: the next wait is short again

export class Stream {
  /** `onMessage` gets each message; `onState` "connecting", "open" or "waiting". */
  constructor({ key, onMessage, onState }) {
    this.state = "connecting";
    this.tries = 0;
    this.retryAt = 0; // Date.now() of the next try
    this.roundTrip = null; // ms
    this.offset = 0; // the server's clock less ours, ms
    this.heardAt = 0;
    this.heartbeat = 5_000;
    this.reason = "";
    this.counts = { messages: 0, bytes: 0, frames: 0, dropped: 0, conflated: 0, connects: 0 };
    this.#key = key;
    this.#onMessage = onMessage;
    this.#onState = onState;
    setInterval(() => this.#look(), 1_000);
    addEventListener("online", () => this.state === "waiting" && this.#connect());
  }

  #key;
  #onMessage;
  #onState;
  #socket = null;
  #timer = 0;
  #wanted = new Map(); // name -> {request, id, subscription}
  #positions = new Map(); // stream -> sequence
  #mark = ""; // by which the gateway knows whether they are still the same streams
  #openedAt = 0;
  #lostAt = 0;
  #pingAt = 0;
  #pinged = 0;
  #number = 0;

  start() {
    this.#connect();
  }

  /** Ask for what `request` says under `name`, instead of what was asked for under it before; null: for nothing. */
  want(name, request) {
    const before = this.#wanted.get(name);
    if (before?.subscription) this.#send({ op: "unsubscribe", subscription: before.subscription });
    this.#wanted.delete(name);
    if (!request) return;
    const wanted = { request, id: `${name}.${++this.#number}`, subscription: "" };
    this.#wanted.set(name, wanted);
    this.#send({ op: "subscribe", id: wanted.id, ...request });
  }

  /** Ask again for the state of what was missed. */
  refresh(channels, symbol) {
    this.#send({ op: "snapshot", channels, symbols: [symbol] });
  }

  now() {
    return Date.now() + this.offset;
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#go("connecting");
    const url = new URL("/v1/stream", location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const key = this.#key();
    const socket = new WebSocket(url, key ? ["ssmd.v1", `ssmd.key.${key}`] : ["ssmd.v1"]);
    this.#socket = socket;
    this.heardAt = Date.now();
    socket.onopen = () => this.#opened(socket);
    socket.onmessage = (event) => socket === this.#socket && this.#received(event.data);
    socket.onclose = (event) => socket === this.#socket && this.#closed(event.reason);
  }

  #opened(socket) {
    if (socket !== this.#socket) return;
    const resume = Date.now() - this.#lostAt < RESUME_WITHIN_MS ? [...this.#positions].map(([name, at]) => `${name}:${at}`) : [];
    this.counts.connects += 1;
    this.reason = "";
    this.#openedAt = Date.now();
    this.#go("open");
    for (const [name, wanted] of this.#wanted) {
      wanted.subscription = "";
      wanted.id = `${name}.${++this.#number}`;
      const resumes = wanted.request.channels.includes("trade") && resume.length ? { resume, mark: this.#mark } : {};
      this.#send({ op: "subscribe", id: wanted.id, ...wanted.request, ...resumes });
    }
    this.#ping();
  }

  #received(data) {
    this.heardAt = Date.now();
    this.counts.frames += 1;
    this.counts.bytes += data.length;
    let messages;
    try {
      messages = JSON.parse(data);
    } catch {
      this.#drop("it sent what is no JSON");
      return;
    }
    for (const message of messages) {
      this.counts.messages += 1;
      this.#read(message);
      this.#onMessage(message);
    }
  }

  #read(message) {
    if (message.resumed === false) this.#positions.clear(); // they may be of another stream
    if (message.position) this.#note(message.position);
    if (message.mark) this.#mark = message.mark;
    switch (message.type) {
      case "welcome":
        this.heartbeat = message.heartbeat_s * 1_000;
        break;
      case "heartbeat":
        for (const position of message.positions) this.#note(position);
        break;
      case "subscribed":
        this.#subscribed(message);
        break;
      case "pong":
        this.#ponged(message);
        break;
      case "dropped":
        this.counts.dropped += message.count;
        break;
      case "conflated":
        this.counts.conflated += message.count;
        break;
    }
  }

  #subscribed(message) {
    for (const wanted of this.#wanted.values()) {
      if (wanted.id === message.id) {
        wanted.subscription = message.subscription;
        if (!message.resumed) for (const position of message.positions) this.#note(position);
        return;
      }
    }
    this.#send({ op: "unsubscribe", subscription: message.subscription }); // another was wanted meanwhile
  }

  #note(position) {
    const at = position.lastIndexOf(":");
    const name = position.slice(0, at);
    const sequence = Number(position.slice(at + 1));
    if (/_md(_|$)/.test(name) && !(this.#positions.get(name) >= sequence)) this.#positions.set(name, sequence);
  }

  #ping() {
    this.#pingAt = performance.now();
    this.#pinged = Date.now();
    this.#send({ op: "ping", id: "page" });
  }

  #ponged(message) {
    const trip = performance.now() - this.#pingAt;
    this.roundTrip = trip;
    const offset = message.time_ns / 1e6 - (Date.now() - trip / 2);
    this.offset = Math.abs(offset) < trip / 2 + 1 ? 0 : offset; // within what a round trip can tell the clocks agree
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  /** Once a second: a connection that says nothing for two heartbeats and a half is none. */
  #look() {
    const silent = Date.now() - this.heardAt;
    if (this.state === "connecting" && silent > CONNECT_MS) this.#drop("it does not answer");
    else if (this.state === "open" && silent > this.heartbeat * 2.5) this.#drop(`nothing heard for ${Math.round(silent / 1_000)} s`);
    else if (this.state === "open" && Date.now() - this.#pinged > PING_MS) this.#ping();
  }

  #drop(reason) {
    const socket = this.#socket;
    this.#closed(reason);
    socket?.close();
  }

  #closed(reason) {
    if (this.state === "open") {
      this.#lostAt = Date.now();
      if (this.#lostAt - this.#openedAt > STEADY_MS) this.tries = 0;
    }
    this.#socket = null;
    this.roundTrip = null;
    this.reason = reason;
    this.tries += 1;
    const most = Math.min(MOST_WAIT_MS, FIRST_WAIT_MS * 2 ** (this.tries - 1));
    const wait = most * (0.5 + Math.random() / 2);
    this.retryAt = Date.now() + wait;
    this.#timer = setTimeout(() => this.#connect(), wait);
    this.#go("waiting");
  }

  /** Try at once, with the key there is now. */
  again() {
    if (this.state !== "open") this.#connect();
  }

  #go(state) {
    this.state = state;
    this.#onState(state);
  }
}
