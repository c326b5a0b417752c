// One market's order book, folded from the stream's messages or read from REST: a snapshot replaces, a delta sets totals.

import { compare, isZero } from "./decimal.js";

export class Book {
  constructor() {
    this.clear();
  }

  clear() {
    this.state = "SYNCING";
    this.position = "";
    this.time = "";
    this.bids = []; // [price, size], best first
    this.asks = [];
  }

  /** Take a `book` message. False: something before it was missed, and a snapshot is needed. */
  apply(message) {
    if (message.kind === "snapshot") {
      this.bids = message.bids;
      this.asks = message.asks;
    } else if (message.prev_position !== this.position) {
      this.state = "STALE";
      return false;
    } else {
      this.bids = merged(this.bids, message.bids, -1);
      this.asks = merged(this.asks, message.asks, 1);
    }
    this.state = message.state;
    this.position = message.position;
    this.time = message.recv_time ?? "";
    return true;
  }

  /** Take what REST answers of `/book`. */
  read(answer) {
    Object.assign(this, { state: answer.state, position: answer.position, time: answer.recv_time, bids: answer.bids, asks: answer.asks });
  }
}

/** The side with the changed levels set; `order` 1: lowest price first. */
function merged(side, changes, order) {
  const changed = new Map(changes);
  const kept = side.filter(([price]) => !changed.has(price));
  const fresh = changes.filter(([, size]) => !isZero(size));
  return fresh.length ? [...kept, ...fresh].sort(([a], [b]) => order * compare(a, b)) : kept;
}
