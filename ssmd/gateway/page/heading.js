// What the market is, and its best prices.

import { find, mark, say } from "./dom.js";
import { instant, milliseconds, rfc3339, span } from "./moment.js";

export class Heading {
  /** What the list knows of it, before the market itself is answered. */
  start(symbol, line) {
    this.#define(symbol, line?.title, "", line?.status, milliseconds(line?.close_time ?? ""));
    this.#numbers({});
    say(find("gaps"), "");
  }

  /** REST's answer of the market. */
  read(answer) {
    const definition = answer.definition ?? {};
    this.#define(answer.symbol, definition.title, definition.subtitle, answer.status, definition.close_ns / 1e6);
    this.#numbers(answer.prices);
    this.gaps(answer.gaps.length);
  }

  /** Messages of the stream. */
  ticker(message) {
    const { last, last_size, volume, open_interest } = message;
    this.#numbers({ ...this.#prices, last, last_size, volume, open_interest });
  }

  book(book) {
    const [bid, bid_size] = book.bids[0] ?? [];
    const [ask, ask_size] = book.asks[0] ?? [];
    this.#numbers({ ...this.#prices, bid, bid_size, ask, ask_size });
  }

  traded(trade) {
    this.#numbers({ ...this.#prices, last: trade.price, last_size: trade.size });
  }

  market(message) {
    if (message.status) this.#status(message.status);
    if (message.close_time) this.#closes(milliseconds(message.close_time));
  }

  gaps(count) {
    say(find("gaps"), count ? `${count} gap${count > 1 ? "s" : ""} today` : "");
  }

  closing(now) {
    if (!this.#close) return;
    const left = this.#close - now;
    say(find("closes"), `${left > 0 ? "closes in" : "closed"} ${span(Math.abs(left))}${left > 0 ? "" : " ago"} · ${instant(rfc3339(this.#close)).slice(0, 16)}`);
  }

  #prices = {};
  #close = 0; // ms

  #define(symbol, title, subtitle, status, close) {
    say(find("title"), title || symbol);
    say(find("subtitle"), subtitle ?? "");
    say(find("symbol"), symbol);
    this.#status(status || "unknown");
    this.#closes(close);
    document.title = `${title || symbol} · ssmd`;
  }

  #status(status) {
    say(find("market-status"), status);
    mark(find("market-status"), "data-state", status);
  }

  #closes(close) {
    this.#close = close > 0 ? close : 0;
    if (!this.#close) say(find("closes"), "");
  }

  #numbers(prices) {
    this.#prices = prices;
    for (const name of ["bid", "ask", "last"]) {
      say(find(name), prices[name] ?? "—");
      say(find(`${name}-size`), prices[`${name}_size`] ? `× ${prices[`${name}_size`]}` : "\u00a0");
    }
    say(find("volume"), prices.volume ?? "—");
    say(find("interest"), prices.open_interest ? `open ${prices.open_interest}` : "\u00a0");
  }
}
