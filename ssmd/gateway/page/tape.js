// Trades, newest first.

import { find, make, mark, say } from "./dom.js";
import { clock } from "./moment.js";

const KEPT = 200;
const SHOWN = 60;
const SIDES = { buy: "▲", sell: "▼", unknown: "·" };

export class Tape {
  constructor() {
    this.trades = []; // newest first
    this.#rows = Array.from({ length: SHOWN }, () => {
      const cells = ["time", "side", "price", "size"].map((name) => make("td", { class: name }));
      const row = make("tr", { hidden: true }, ...cells);
      this.#body.append(row);
      return { row, cells };
    });
  }

  #body = find("trades");
  #empty = find("trades-empty");
  #rows;

  clear() {
    this.trades = [];
  }

  /** Trades of REST or the stream, in any order; those that are there already count once. */
  add(trades) {
    const known = new Set(this.trades.map((trade) => trade.position));
    const fresh = trades.filter((trade) => !known.has(trade.position));
    if (!fresh.length) return [];
    this.trades = [...fresh, ...this.trades].sort((a, b) => sequence(b) - sequence(a)).slice(0, KEPT);
    return fresh;
  }

  show(trades = this.trades) {
    this.#rows.forEach(({ row, cells }, number) => {
      const trade = trades[number];
      row.hidden = !trade;
      if (!trade) return;
      const side = trade.aggressor;
      mark(row, "data-side", side);
      say(cells[0], clock(trade.recv_time));
      say(cells[1], SIDES[side] ?? "·");
      mark(cells[1], "aria-label", side);
      say(cells[2], trade.price);
      mark(cells[2], "class", `price ink-${side === "buy" ? "bid" : side === "sell" ? "ask" : "text"}`);
      say(cells[3], trade.size);
    });
    this.#empty.hidden = trades.length > 0;
  }
}

export function sequence(trade) {
  return Number(trade.position.slice(trade.position.lastIndexOf(":") + 1));
}
