// The order book as a ladder of fixed height, and its depth as a curve.

import { add, share, units } from "./decimal.js";
import { draw, find, make, mark, say } from "./dom.js";

const ROWS = 10; // of each side: the ladder never jumps
const DEPTH_LEVELS = 40;
const WIDTH = 320;
const HEIGHT = 96;

export class Ladder {
  constructor() {
    this.#asks = rows(find("asks"), "ask").reverse(); // the best is lowest
    this.#bids = rows(find("bids"), "bid");
    this.#curves = ["bid", "ask"].map((side) => draw("path", { class: `depth-${side}` }));
    this.#chart.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.#chart.append(...this.#curves);
  }

  #asks;
  #bids;
  #curves;
  #chart = find("depth");
  #spread = find("spread");
  #state = find("book-state");
  #levels = find("book-levels");

  show(book) {
    const bids = totals(book.bids);
    const asks = totals(book.asks);
    const most = [bids, asks].map((side) => side[Math.min(ROWS, side.length) - 1]?.total ?? 0n).reduce((a, b) => (a > b ? a : b));
    fill(this.#bids, bids, most);
    fill(this.#asks, asks, most);
    const [bid, ask] = [book.bids[0], book.asks[0]];
    say(this.#spread, bid && ask ? `spread ${add(ask[0], bid[0].startsWith("-") ? bid[0].slice(1) : `-${bid[0]}`)}` : "no spread");
    say(this.#state, { VALID: "valid", STALE: "stale", SYNCING: "no snapshot yet", LOOKING: "looking it up" }[book.state]);
    mark(this.#state, "data-state", book.state);
    say(this.#levels, `${counted(book.bids, "bid")} · ${counted(book.asks, "ask")}`);
    this.#curve(bids.slice(0, DEPTH_LEVELS), asks.slice(0, DEPTH_LEVELS));
  }

  /** Price from left to right, what could be traded up to it from the bottom up. */
  #curve(bids, asks) {
    const prices = [...bids, ...asks].map((level) => units(level.price));
    const low = prices.reduce((a, b) => (a < b ? a : b), prices[0] ?? 0n);
    const high = prices.reduce((a, b) => (a > b ? a : b), prices[0] ?? 0n);
    const most = [bids.at(-1)?.total ?? 0n, asks.at(-1)?.total ?? 0n].reduce((a, b) => (a > b ? a : b));
    [bids, asks].forEach((side, number) => {
      let path = "";
      if (side.length) {
        const x = (level) => (share(units(level.price) - low, high - low) * WIDTH).toFixed(1);
        const y = (level) => (HEIGHT - share(level.total, most) * (HEIGHT - 4)).toFixed(1);
        path = `M${x(side[0])},${HEIGHT}`;
        for (const level of side) path += `H${x(level)}V${y(level)}`;
        path += `${number ? `H${WIDTH}` : "H0"}V${HEIGHT}Z`;
      }
      mark(this.#curves[number], "d", path);
    });
    const words = bids.length || asks.length ? `from ${(bids.at(-1) ?? asks[0]).price} to ${(asks.at(-1) ?? bids[0]).price}` : "empty";
    mark(this.#chart, "aria-label", `Depth of the book, ${words}`);
  }
}

function counted(side, name) {
  return `${side.length} ${name}${side.length === 1 ? "" : "s"}`;
}

/** Each level with the sum of sizes up to it. */
function totals(side) {
  let total = 0n;
  let said = "0";
  return side.slice(0, DEPTH_LEVELS).map(([price, size]) => {
    total += units(size);
    said = add(said, size);
    return { price, size, total, said };
  });
}

function rows(body, side) {
  const made = Array.from({ length: ROWS }, () => {
    const cells = ["price", "size", "total"].map((name) => make("td", { class: name === "price" ? `price ink-${side}` : name }));
    const row = make("tr", { class: side }, ...cells);
    body.append(row);
    return { row, cells, size: "", price: "" };
  });
  return made;
}

function fill(rowsOf, levels, most) {
  rowsOf.forEach((line, number) => {
    const level = levels[number];
    const texts = level ? [level.price, level.size, level.said] : ["", "", ""];
    texts.forEach((text, column) => say(line.cells[column], text));
    line.row.style.setProperty("--part", level ? share(level.total, most) : 0);
    if (level && line.price === level.price && line.size !== level.size) flash(line.row);
    line.price = level?.price ?? "";
    line.size = level?.size ?? "";
  });
}

function flash(row) {
  for (const animation of row.getAnimations()) animation.cancel();
  row.animate([{ outline: "1px solid var(--dim)", outlineOffset: "-1px" }, { outline: "1px solid transparent", outlineOffset: "-1px" }], 400);
}
