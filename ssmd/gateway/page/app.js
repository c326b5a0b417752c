// The page: one market live, or as it was, beside all the others and how the whole is doing.

import { Book } from "./book.js";
import { Chart, INTERVALS } from "./chart.js";
import { Clients } from "./clients.js";
import { Coverage } from "./coverage.js";
import { Day } from "./day.js";
import { find, make, mark, say } from "./dom.js";
import { Heading } from "./heading.js";
import { Ladder } from "./ladder.js";
import { Markets, isOpen } from "./markets.js";
import { clock, milliseconds, rfc3339, shown, span } from "./moment.js";
import { Pulse } from "./pulse.js";
import { Refused, Rest, market as pathOf } from "./rest.js";
import { Stream } from "./stream.js";
import { Tape } from "./tape.js";
import { themes } from "./theme.js";
import { TimeBar } from "./timebar.js";

const CONFLATE_MS = 250; // a screen shows no more, and a slow network bears it
const LIST_MS = 1_000;
const TRADES = 60;
const EMPTY_MS = 2_000; // a list without a market is read again: a day may have begun just now
const EVERY = { markets: 30_000, health: 5_000, clients: 5_000, day: 15_000, coverage: 30_000, candles: 60_000 };
const SLOWLY_MS = 2_000; // between questions about candles while it plays
const BUSY = new Set([0, 429, 503, 504]);

class Page {
  #rest = new Rest((reason) => this.#askKey(reason));
  #stream = new Stream({ key: () => this.#rest.key, onMessage: (message) => this.#heard(message), onState: () => this.#connection() });
  #time = new TimeBar({ now: () => this.#stream.now(), onChange: (at) => this.#moved(at) });
  #markets = new Markets({
    rest: this.#rest,
    now: () => this.#stream.now(),
    onChoose: (symbol) => this.#choose(symbol),
    onShown: (symbols) => this.#watch(symbols),
  });
  #heading = new Heading();
  #ladder = new Ladder();
  #tape = new Tape();
  #chart = new Chart((at) => this.#time.go(at));
  #day = new Day();
  #coverage = new Coverage();
  #clients = new Clients();
  #pulse = new Pulse(this.#stream);
  #symbol = "";
  #live = new Book();
  #past = new Book();
  #pastTrades = [];
  #interval = ""; // chosen by hand
  #question = new AbortController(); // about the past
  #askedAt = {}; // what was asked when
  #opens = 0; // of the day that is shown, ms
  #drawing = false;
  #wrong = new Map(); // what went wrong where
  #replay = null; // where the gateway serves a past day: which, how fast

  async start() {
    this.#intervals();
    this.#keys();
    themes(() => this.#chart.paint());
    const [symbol, at] = decodeURIComponent(location.hash.slice(1)).split("@");
    this.#stream.want("days", { channels: ["day"], mode: "realtime" });
    this.#stream.start();
    setInterval(() => this.#second(), 1_000);
    addEventListener("hashchange", () => this.#linked());
    if (symbol) this.#markets.choose(symbol);
    await this.#list();
    if (at) this.#time.go(Date.parse(at));
  }

  /** Read the list of markets, and choose one where none is chosen yet. */
  async #list() {
    const markets = await this.#try("markets", () => this.#markets.load());
    const first = markets?.find((line) => line.captured && isOpen(line, this.#stream.now())) ?? markets?.[0];
    if (first && !this.#symbol) this.#markets.choose(first.symbol);
    if (this.#wrong.has("market") && this.#markets.of(this.#symbol)) this.#again();
  }

  /** Choose the market once more: it was not known when it was chosen. */
  #again() {
    const symbol = this.#symbol;
    this.#symbol = "";
    this.#choose(symbol);
  }

  get #isPast() {
    return this.#time.at !== null;
  }

  // --- the market ---------------------------------------------------------------------------------------------------------

  #choose(symbol) {
    if (symbol === this.#symbol) return;
    this.#symbol = symbol;
    this.#live.clear();
    this.#past.clear();
    this.#pastTrades = [];
    this.#tape.clear();
    this.#chart.clear();
    this.#heading.start(symbol, this.#markets.of(symbol));
    this.#wrong.delete("market");
    this.#stream.want("market", { channels: ["book", "trade", "ticker", "market", "gap"], symbols: [symbol], mode: "conflated", interval_ms: CONFLATE_MS });
    this.#link();
    this.#fit();
    this.#draw();
    if (this.#isPast) this.#moved(this.#time.at);
    else this.#backfill();
  }

  /** What the stream does not tell: the definition, earlier trades, candles. */
  async #backfill() {
    const symbol = this.#symbol;
    const mine = () => symbol === this.#symbol && !this.#isPast;
    await Promise.all([
      this.#try("market", async () => {
        const answer = await this.#rest.get(pathOf(symbol));
        if (mine()) this.#heading.read(answer);
      }),
      this.#try("trades", async () => {
        const answer = await this.#rest.get(`${pathOf(symbol)}/trades`, { limit: TRADES });
        if (mine()) this.#tape.add(answer.trades);
      }),
      this.#candles(),
    ]);
    this.#draw();
  }

  async #candles(signal) {
    const [symbol, interval, at] = [this.#symbol, this.#chart.interval, this.#time.asOf];
    if (!symbol) return;
    this.#askedAt.candles = Date.now();
    await this.#try("candles", async () => {
      const answer = await this.#rest.get(`${pathOf(symbol)}/candles`, { interval, as_of: at }, signal);
      if (symbol !== this.#symbol || interval !== this.#chart.interval || this.#isPast !== Boolean(at)) return;
      this.#chart.read(answer);
      if (!this.#isPast) this.#chart.add(this.#tape.trades.toReversed());
    });
  }

  /** Candles as long as the market is old, until somebody chooses. */
  #fit() {
    const opened = milliseconds(this.#markets.of(this.#symbol)?.open_time ?? "");
    const age = this.#stream.now() - opened;
    const fits = !(age > 0) ? "1m" : age < 20 * 60_000 ? "15s" : age < 2 * 3_600_000 ? "1m" : age < 86_400_000 ? "5m" : "15m";
    this.#chart.interval = this.#interval || fits;
    for (const button of find("intervals").children) mark(button, "aria-pressed", String(button.textContent === this.#chart.interval));
  }

  #intervals() {
    const buttons = Object.keys(INTERVALS).map((name) => make("button", { type: "button" }, name));
    find("intervals").append(...buttons);
    find("intervals").addEventListener("click", (event) => {
      if (event.target.tagName !== "BUTTON") return;
      this.#interval = event.target.textContent;
      this.#fit();
      this.#chart.clear();
      this.#candles();
    });
  }

  #watch(symbols) {
    this.#stream.want("list", symbols.length ? { channels: ["bbo"], symbols, mode: "conflated", interval_ms: LIST_MS } : null);
  }

  // --- live ---------------------------------------------------------------------------------------------------------------

  #heard(message) {
    const mine = message.symbol === this.#symbol;
    this.#pulse.heard(message);
    switch (message.type) {
      case "welcome":
        say(find("env"), message.env);
        break;
      case "subscribed":
        this.#subscribed(message);
        break;
      case "error":
        if (message.id?.startsWith("market.")) this.#complain("market", message.message);
        break;
      case "bbo":
        this.#markets.best(message);
        break;
      case "day":
        this.#askedAt.day = 0;
        break;
      case "market":
        this.#markets.update(message);
        if (mine && !this.#isPast) this.#heading.market(message);
        break;
      case "gap":
        if ((mine || !message.symbol) && !this.#isPast) this.#askedAt.coverage = 0;
        break;
      default:
        if (mine) this.#market(message);
    }
    this.#draw();
  }

  #market(message) {
    if (message.type === "book" && !this.#live.apply(message)) this.#stream.refresh(["book"], this.#symbol);
    else if (message.type === "stale") this.#live.state = "STALE";
    else if (message.type === "ticker" && !this.#isPast) this.#heading.ticker(message);
    else if (message.type === "trade") {
      const fresh = this.#tape.add([message]);
      if (this.#isPast || !fresh.length) return;
      this.#heading.traded(message);
      this.#chart.add(fresh);
    }
  }

  #subscribed(message) {
    this.#pulse.subscribed();
    if (message.id.startsWith("market.")) {
      this.#complain("market", message.unknown?.length ? `${this.#symbol} is not known yet: it is shown when it is` : "");
      if (this.#stream.counts.connects > 1 && !this.#isPast) this.#backfill();
    }
  }

  #connection() {
    if (this.#stream.state === "open") this.#wrong.clear();
    if (this.#stream.state === "open" && this.#stream.counts.connects > 1) this.#askedAt = {};
    if (this.#stream.state === "waiting") this.#ask("health"); // a WebSocket does not say that the key is the reason
    this.#tell();
  }

  // --- the past -----------------------------------------------------------------------------------------------------------

  /** Show the instant `at`, or what is live. */
  async #moved(at) {
    this.#question.abort();
    this.#link();
    this.#tell();
    if (at === null) {
      mark(document.documentElement, "data-looking", "false");
      this.#askedAt = {};
      this.#past.clear();
      this.#pastTrades = [];
      this.#chart.clear();
      this.#draw();
      await this.#backfill();
      return;
    }
    if (!this.#past.position) this.#past.state = "LOOKING";
    const { signal } = (this.#question = new AbortController());
    // What is shown is of another instant until this one is answered.
    if (!this.#time.playing) mark(document.documentElement, "data-looking", "true");
    this.#draw();
    try {
      await this.#look(signal);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
    if (!signal.aborted) mark(document.documentElement, "data-looking", "false");
  }

  async #look(signal) {
    const symbol = this.#symbol;
    if (!symbol) return;
    const query = { as_of: this.#time.asOf };
    const slowly = this.#time.playing && Date.now() - (this.#askedAt.candles ?? 0) < SLOWLY_MS;
    await Promise.all([
      this.#try("past", async () => {
        const [book, trades] = await Promise.all([
          this.#patiently(`${pathOf(symbol)}/book`, query, signal),
          this.#patiently(`${pathOf(symbol)}/trades`, { ...query, limit: TRADES }, signal),
        ]);
        signal.throwIfAborted();
        this.#past.read(book);
        this.#pastTrades = trades.trades;
        mark(document.documentElement, "data-looking", "false"); // the definition, folded for its own sake, may take longer
        this.#heading.book(this.#past);
        if (trades.trades[0]) this.#heading.traded(trades.trades[0]);
        this.#draw();
      }),
      slowly ? null : this.#candles(signal),
      this.#time.playing
        ? null
        : this.#try("market", async () => {
            const answer = await this.#patiently(pathOf(symbol), query, signal);
            if (!signal.aborted) this.#heading.read(answer);
          }),
    ]);
    if (!this.#time.playing) Object.assign(this.#askedAt, { day: 0, coverage: 0 });
  }

  /** The past is answered for a few at a time: whoever comes too soon tries once more. */
  async #patiently(path, query, signal) {
    try {
      return await this.#rest.get(path, query, signal);
    } catch (error) {
      if (!(error instanceof Refused) || !BUSY.has(error.status) || error.status === 0) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500));
      return this.#rest.get(path, query, signal);
    }
  }

  // --- what is shown ------------------------------------------------------------------------------------------------------

  #draw() {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      const book = this.#isPast ? this.#past : this.#live;
      this.#ladder.show(book);
      this.#tape.show(this.#isPast ? this.#pastTrades : this.#tape.trades);
      if (!this.#isPast && this.#live.position) this.#heading.book(this.#live);
      say(find("book-time"), book.time && !book.time.startsWith("1970") ? clock(book.time) : "");
      say(find("book-position"), book.position);
      this.#tell();
    });
  }

  /** Live, a replay, past, reconnecting or stale: never left to be guessed. */
  #tell() {
    const { state, tries, retryAt, reason } = this.#stream;
    const [when, words, detail] = this.#isPast
      ? ["past", this.#time.playing ? "playing" : "past", `${shown(this.#time.at)} UTC${state === "open" ? "" : " · reconnecting"}`]
      : state !== "open"
        ? ["reconnecting", tries ? "reconnecting" : "connecting", tries ? [`try ${tries}`, retryIn(retryAt), reason].filter(Boolean).join(" · ") : ""]
        : this.#live.state === "STALE"
          ? ["stale", "stale", "messages are missing: the book waits for a snapshot"]
          : this.#replay
            ? ["replay", "replay", replayed(this.#replay)]
            : ["live", "live", ""];
    mark(document.documentElement, "data-when", when);
    mark(find("when"), "data-state", when);
    say(find("when"), words);
    say(find("when-detail"), detail);
    say(find("live"), this.#replay ? "Now" : "Live");
    say(find("markets-when"), this.#isPast ? `prices are ${this.#replay ? "the newest" : "live"}` : "");
    const wrong = [...this.#wrong.values()].filter(Boolean);
    find("notice").hidden = !wrong.length;
    say(find("notice"), [...new Set(wrong)].join(" · "));
  }

  #complain(where, words) {
    if (words) this.#wrong.set(where, words);
    else this.#wrong.delete(where);
    this.#tell();
  }

  /** The answer of `ask`; undefined where it was refused, and the reader is told why. */
  async #try(where, ask) {
    try {
      const answer = await ask();
      this.#complain(where, "");
      return answer;
    } catch (error) {
      if (error.name === "AbortError") return undefined;
      if (!(error instanceof Refused)) throw error;
      // That the gateway is away is told once, by the stream; that a busy one is late, by the next answer.
      this.#complain(where, BUSY.has(error.status) && error.status !== 429 ? "" : error.message);
      return undefined;
    }
  }

  // --- every second -------------------------------------------------------------------------------------------------------

  #second() {
    this.#pulse.show();
    const now = this.#stream.now();
    say(find("clock"), `${shown(now).slice(0, 19)} UTC`);
    this.#heading.closing(this.#time.at ?? now);
    if (!this.#isPast) this.#chart.move(now);
    this.#tell();
    if (document.hidden || this.#stream.state !== "open") return;
    const hasCome = this.#wrong.has("market") && this.#live.position; // a market that was not known when it was chosen
    const every = this.#markets.isEmpty || hasCome ? { ...EVERY, markets: EMPTY_MS } : EVERY;
    const due = Object.keys(every).filter((name) => Date.now() - (this.#askedAt[name] ?? 0) >= every[name]);
    for (const name of due) {
      this.#askedAt[name] = Date.now();
      this.#ask(name);
    }
  }

  async #ask(name) {
    const as_of = this.#time.asOf;
    const read = (path, query, take, fail) =>
      this.#rest.get(path, query).then(take, (error) => {
        if (!(error instanceof Refused)) throw error;
        if (error.status === 403) this.#askedAt[name] = Infinity; // until there is another key
        fail?.(error.message);
      });
    switch (name) {
      case "markets":
        return this.#list();
      case "candles":
        return this.#isPast ? null : this.#candles();
      case "health":
        return read("/v1/health", {}, (answer) => this.#health(answer), (words) => this.#pulse.unwell(words));
      case "clients":
        return read("/v1/clients", {}, (answer) => this.#clients.read(answer), (words) => this.#clients.fail(words));
      case "day":
        return read("/v1/days", { limit: 30 }, (answer) => this.#days(answer, as_of));
      case "coverage":
        return read("/v1/coverage", { as_of }, (a) => this.#coverage.read(a, this.#opens, this.#time.at ?? this.#stream.now()), (words) => this.#coverage.fail(words));
    }
    return null;
  }

  #health(answer) {
    this.#pulse.health(answer);
    this.#replay = answer.replay;
    this.#tell();
  }

  async #days(answer, as_of) {
    this.#time.days(answer.days);
    const at = this.#time.at ?? this.#stream.now();
    const day = answer.days.find((d) => milliseconds(d.opens_time) <= at && at < milliseconds(d.over_time));
    if (!day) return;
    this.#opens = milliseconds(day.opens_time);
    await this.#try("day", async () => this.#day.read(await this.#rest.get(day.href, { as_of })));
  }

  // --- links, keys --------------------------------------------------------------------------------------------------------

  #link() {
    const at = this.#isPast && !this.#time.playing ? `@${rfc3339(this.#time.at)}` : "";
    const hash = `#${encodeURIComponent(this.#symbol)}${at}`;
    if (!this.#time.playing && location.hash !== hash) history.replaceState(null, "", hash);
  }

  #linked() {
    const [symbol, at] = decodeURIComponent(location.hash.slice(1)).split("@");
    if (symbol && symbol !== this.#symbol) this.#markets.choose(symbol);
    if (at) this.#time.go(Date.parse(at));
    else this.#time.live();
  }

  #keys() {
    find("keys").addEventListener("click", () => find("help").showModal());
    find("help-close").addEventListener("click", () => find("help").close());
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      const typing = event.target.matches("input:not([type=range]), select, textarea");
      const pressing = event.key === " " && event.target.matches("button, summary, a");
      if (event.key === "Escape") {
        event.target.blur?.();
        this.#time.live();
        return;
      }
      const act = {
        "/": () => this.#markets.search(),
        " ": () => this.#time.toggle(),
        ",": () => this.#time.step(-10_000),
        ".": () => this.#time.step(10_000),
        t: () => find("theme").click(),
        "?": () => find("help").showModal(),
      }[event.key];
      if (!act || typing || pressing) return;
      event.preventDefault();
      act();
    });
  }

  #askKey(reason) {
    const door = find("door");
    if (door.open) return;
    say(find("door-reason"), reason);
    const input = find("door-key");
    const open = () => {
      this.#rest.useKey(input.value.trim());
      door.close();
      this.#stream.again();
      this.#askedAt = {};
      if (this.#symbol) this.#backfill();
      this.#list();
    };
    find("door-form").onsubmit = (event) => {
      event.preventDefault();
      open();
    };
    door.showModal();
    input.select(); // the one that was wrong
  }
}

function replayed({ date, speed, symbols, state }) {
  const pace = { max: "as fast as it is taken", step: "step by step" }[speed] ?? `${speed}× real time`;
  const progress = { waiting: "not begun", over: "over" }[state] ?? pace;
  return [date, progress, symbols.length ? `only ${symbols.slice(0, 3).join(", ")}${symbols.length > 3 ? " …" : ""}` : ""].filter(Boolean).join(", ");
}

function retryIn(at) {
  const left = at - Date.now();
  return left > 0 ? `next in ${span(left)}` : "now";
}

new Page().start();
