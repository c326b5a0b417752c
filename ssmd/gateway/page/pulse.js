// How far behind the page is, how much comes, and whether the gateway is well.

import { draw, find, make, mark, say } from "./dom.js";
import { milliseconds, span } from "./moment.js";

const NAMES = {
  lag: ["Behind the journal", "From a message's receipt at the connector to its arrival here, the last ten seconds' median"],
  venue: ["Venue to connector", "From the venue's own time of a message to its receipt, the last ten seconds' median"],
  trip: ["Round trip", "From this page to the gateway and back"],
  rate: ["Messages", "Received here, the last second"],
  bytes: ["Data", "Characters received here, the last second"],
  dropped: ["Dropped", "Messages that the gateway told it dropped, because this page was slow"],
  connects: ["Reconnects", "Of this page"],
};
const KEPT = 120; // seconds
const SAMPLES = 500;
const WINDOW_MS = 10_000;

export class Pulse {
  constructor(stream) {
    this.#stream = stream;
    for (const [name, [label, title]] of Object.entries(NAMES)) {
      this.#cells[name] = make("dd", {}, "—");
      find("pulse").append(make("div", { title }, make("dt", {}, label), this.#cells[name]));
    }
    find("spark").setAttribute("viewBox", `0 0 ${KEPT} 40`);
    find("spark").append(this.#line);
  }

  #stream;
  #cells = {};
  #line = draw("path", { class: "spark-line" });
  #samples = []; // [when heard, lag, venue's lag], ms
  #before = { messages: 0, bytes: 0 };
  #rates = [];
  #topics = new Set();

  /** The first message of a topic after subscribing may be of a quiet market: its age is no lag. */
  heard(message) {
    const topic = `${message.type} ${message.symbol}`;
    const first = message.kind === "snapshot" && !this.#topics.has(topic);
    this.#topics.add(topic);
    if (first || !message.recv_time) return;
    const received = milliseconds(message.recv_time);
    const venue = message.venue_time ? received - milliseconds(message.venue_time) : NaN;
    this.#samples.push([Date.now(), this.#stream.now() - received, venue]);
    if (this.#samples.length > SAMPLES) this.#samples.shift();
  }

  subscribed() {
    this.#topics.clear();
  }

  /** Once a second. */
  show() {
    const { counts, roundTrip } = this.#stream;
    const since = Date.now() - WINDOW_MS;
    this.#samples = this.#samples.filter(([at]) => at >= since);
    const rate = counts.messages - this.#before.messages;
    const bytes = counts.bytes - this.#before.bytes;
    this.#before = { messages: counts.messages, bytes: counts.bytes };
    this.#rates = [...this.#rates, rate].slice(-KEPT);
    const said = {
      lag: median(this.#samples.map(([, lag]) => lag)),
      venue: median(this.#samples.map(([, , venue]) => venue).filter(Number.isFinite)),
      trip: roundTrip === null ? "—" : span(roundTrip),
      rate: `${rate.toLocaleString("en")}/s`,
      bytes: bytes < 10_240 ? `${bytes.toLocaleString("en")} B/s` : `${(bytes / 1_024).toFixed(0)} KiB/s`,
      dropped: counts.dropped.toLocaleString("en"),
      connects: Math.max(0, counts.connects - 1).toLocaleString("en"),
    };
    for (const [name, text] of Object.entries(said)) say(this.#cells[name], text);
    mark(this.#cells.dropped, "class", counts.dropped ? "ink-warn" : "");
    const most = Math.max(10, ...this.#rates);
    const from = KEPT - this.#rates.length;
    mark(this.#line, "d", this.#rates.map((value, i) => `${i ? "L" : "M"}${from + i},${(39 - (value / most) * 38).toFixed(1)}`).join(""));
  }

  health(answer) {
    const bad = answer.checks.filter((check) => !check.good);
    say(find("health"), answer.ready ? "ready" : "not ready");
    mark(find("health"), "data-state", answer.ready ? "good" : "bad");
    say(find("health-reasons"), (bad.length ? bad : answer.checks.filter((c) => c.name.startsWith("view"))).map((c) => `${c.name}: ${c.reason}`).join(" · "));
  }

  unwell(words) {
    say(find("health"), "unknown");
    mark(find("health"), "data-state", "bad");
    say(find("health-reasons"), words);
  }
}

function median(values) {
  if (!values.length) return "—";
  const sorted = values.toSorted((a, b) => a - b);
  return span(Math.max(0, sorted[Math.floor(sorted.length / 2)]));
}
