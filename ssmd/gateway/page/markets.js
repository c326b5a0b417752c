// The list of markets: searched, filtered, walked with arrows; the best prices of those that are shown are live.

import { find, make, mark, say } from "./dom.js";
import { milliseconds } from "./moment.js";
import { Refused, market as pathOf } from "./rest.js";

const LOADED = 5_000; // markets that are searched here; beyond them the server is asked, by words and by name
const PAGE = 1_000;
const ROWS = 100;
const SETTLE_MS = 200;

export class Markets {
  constructor({ rest, now, onChoose, onShown }) {
    this.chosen = "";
    this.#now = now;
    this.#rest = rest;
    this.#onChoose = onChoose;
    this.#onShown = onShown;
    this.#list.addEventListener("keydown", (event) => this.#walk(event));
    this.#list.addEventListener("click", (event) => {
      const row = event.target.closest("[role=option]");
      if (row) this.choose(row.dataset.symbol);
    });
    this.#search.addEventListener("input", () => this.show());
    this.#search.addEventListener("keydown", (event) => this.#searched(event));
    this.#status.addEventListener("change", () => this.show());
    find("markets-open").addEventListener("click", () => this.open(!this.#open));
  }

  #rest;
  #now; // the gateway's time, which may be that of a past day
  #onChoose;
  #onShown;
  #list = find("markets");
  #search = find("search");
  #status = find("status");
  #markets = [];
  #best = new Map(); // symbol -> bbo message
  #rows = new Map(); // symbol -> cells
  #open = false;
  #timer = 0;
  #more = false;
  #found = { words: "", lines: [] }; // what the gateway answered to words
  #told = "";

  /** Read the list again. Raises Refused. */
  async load() {
    const found = [];
    let cursor;
    do {
      const answer = await this.#rest.get("/v1/markets", { limit: PAGE, cursor });
      found.push(...answer.markets);
      cursor = answer.next;
    } while (cursor && found.length < LOADED);
    this.#more = Boolean(cursor);
    const now = this.#now();
    this.#markets = found.sort((a, b) => rank(a, now) - rank(b, now) || (a.symbol < b.symbol ? -1 : 1));
    this.show();
    return found;
  }

  get isEmpty() {
    return this.#markets.length === 0;
  }

  of(symbol) {
    return [...this.#markets, ...this.#found.lines].find((line) => line.symbol === symbol);
  }

  /** What the venue says a market is now. */
  update(message) {
    const line = this.of(message.symbol);
    if (line && message.status && line.status !== message.status) {
      line.status = message.status;
      this.show();
    }
  }

  best(message) {
    this.#best.set(message.symbol, message);
    const row = this.#rows.get(message.symbol);
    if (row) quote(row, message);
  }

  show() {
    const words = this.#search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const status = this.#status.value;
    let found = this.#markets.filter(
      (line) => (!status || line.status === status) && words.every((word) => `${line.symbol} ${line.title} ${line.category}`.toLowerCase().includes(word)),
    );
    if (!found.length && this.#found.words === this.#search.value.trim()) found = this.#found.lines.filter((line) => !status || line.status === status);
    const shown = found.slice(0, ROWS);
    this.#fill(shown);
    say(find("markets-count"), `${found.length.toLocaleString("en")}${this.#more ? "+" : ""}`);
    const hidden = found.length - shown.length;
    const nothing = this.isEmpty && !words.length ? "No market yet: the list is read again every two seconds" : "None like this: Enter asks the gateway";
    say(find("markets-note"), hidden ? `${hidden.toLocaleString("en")} more: search to narrow it` : found.length ? "" : nothing);
    const symbols = shown.filter((line) => line.captured).map((line) => line.symbol);
    if (symbols.join() !== this.#told) {
      this.#told = symbols.join();
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#onShown(symbols), SETTLE_MS);
    }
  }

  choose(symbol) {
    this.chosen = symbol;
    for (const [name, row] of this.#rows) mark(row.row, "aria-selected", String(name === symbol));
    const row = this.#rows.get(symbol);
    if (row) mark(this.#list, "aria-activedescendant", row.row.id);
    row?.row.scrollIntoView({ block: "nearest" });
    this.open(false);
    this.#onChoose(symbol);
  }

  open(open) {
    this.#open = open;
    find("markets-body").classList.toggle("open", open);
    mark(find("markets-open"), "aria-expanded", String(open));
  }

  search() {
    this.open(true);
    this.#search.focus();
    this.#search.select();
  }

  #fill(lines) {
    const before = this.#rows;
    this.#rows = new Map(lines.map((line) => [line.symbol, before.get(line.symbol) ?? row()]));
    [...this.#rows].forEach(([symbol, cells], number) => {
      const line = lines[number];
      cells.row.id = `market-${number}`;
      cells.row.dataset.symbol = symbol;
      say(cells.title, line.title || symbol);
      say(cells.symbol, symbol);
      const status = line.status === "active" && !isOpen(line, this.#now()) ? "over" : line.status;
      say(cells.status, status);
      mark(cells.row, "data-status", status);
      mark(cells.row, "aria-selected", String(symbol === this.chosen));
      const best = this.#best.get(symbol);
      if (best) quote(cells, best);
      else say(cells.best, line.captured ? "" : "not captured");
    });
    const rows = [...this.#rows.values()].map((cells) => cells.row);
    if (rows.length !== this.#list.childElementCount || rows.some((r, i) => this.#list.children[i] !== r)) this.#list.replaceChildren(...rows);
  }

  #walk(event) {
    const symbols = [...this.#rows.keys()];
    const at = symbols.indexOf(this.chosen);
    const to = { ArrowDown: at + 1, ArrowUp: at < 0 ? 0 : at - 1, Home: 0, End: symbols.length - 1, PageDown: at + 8, PageUp: at - 8 }[event.key];
    if (to === undefined || !symbols.length) return;
    event.preventDefault();
    this.choose(symbols[Math.max(0, Math.min(symbols.length - 1, to))]);
    this.open(this.#open);
  }

  async #searched(event) {
    if (event.key === "ArrowDown") {
      event.preventDefault();
      this.#list.focus();
      if (!this.#rows.has(this.chosen) && this.#rows.size) this.choose([...this.#rows.keys()][0]);
    } else if (event.key === "Enter") {
      const [first] = this.#rows.keys();
      if (first) this.choose(first);
      else await this.#ask(this.#search.value.trim());
    } else if (event.key === "Escape") {
      event.stopPropagation();
      if (this.#search.value) {
        this.#search.value = "";
        this.show();
      } else this.#search.blur();
    }
  }

  /** By words, then by name, of all that the gateway knows; what it says is like it is offered. */
  async #ask(symbol) {
    if (!symbol) return;
    try {
      const { markets } = await this.#rest.get("/v1/markets", { q: symbol, status: this.#status.value, limit: ROWS });
      if (markets.length) {
        this.#found = { words: symbol, lines: markets };
        this.show();
        return;
      }
      await this.#rest.get(pathOf(symbol));
      this.choose(symbol);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      say(find("markets-note"), error.nearest.length ? `${error.message}; like it: ${error.nearest.join(", ")}` : error.message);
    }
  }
}

/** First what is captured, and of it what can be traded. */
function rank(line, now) {
  return (line.captured ? 0 : 2) + (isOpen(line, now) ? 0 : 1);
}

/** The venue may not have said yet that a market is closed. */
export function isOpen(line, now) {
  return line.status === "active" && !(milliseconds(line.close_time) < now);
}

function row() {
  const [title, symbol, status, best] = ["title", "symbol", "status", "best"].map((name) => make("span", { class: name }));
  return { row: make("li", { role: "option" }, make("div", {}, title, best), make("div", {}, symbol, status)), title, symbol, status, best };
}

function quote(cells, message) {
  say(cells.best, message.bid || message.ask ? `${message.bid?.[0] ?? "—"} / ${message.ask?.[0] ?? "—"}` : message.state === "STALE" ? "—" : "empty");
  mark(cells.best, "data-state", message.state);
}
