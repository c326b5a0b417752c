// Candles. Heights are integers of the market's smallest step, so that the axis says exact prices.

import uPlot from "./vendor/uplot.js";
import { add, compare, decimals, scaled, unscaled } from "./decimal.js";
import { colour, find, say } from "./dom.js";
import { milliseconds, rfc3339 } from "./moment.js";

export const INTERVALS = { "5s": 5_000, "15s": 15_000, "1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000 };
const SHOWN = 100; // as REST answers where nobody says since when
const STEPS = Array.from({ length: 10 }, (_, power) => [1, 2, 5].map((step) => step * 10 ** power)).flat();

export class Chart {
  /** `onPick` gets the instant (ms) of a candle that was clicked. */
  constructor(onPick) {
    this.interval = "1m";
    this.candles = []; // {at (ms), open, high, low, close, volume, trades}
    this.until = 0; // ms
    this.#onPick = onPick;
    this.#build();
    new ResizeObserver(() => this.#resize()).observe(this.#place);
    this.#place.addEventListener("click", () => {
      const index = this.#plot.cursor.idx;
      if (index !== null && index !== undefined && this.candles[index]) this.#onPick(this.candles[index].at + this.step - 1);
    });
  }

  #onPick;
  #place = find("chart");
  #readout = find("chart-readout");
  #empty = find("chart-empty");
  #plot;
  #places = 2;
  #ink = {};

  get step() {
    return INTERVALS[this.interval];
  }

  /** Take REST's answer. */
  read(answer) {
    this.candles = answer.candles.map((c) => ({ ...c, at: milliseconds(c.start_time) }));
    this.until = milliseconds(answer.as_of_time);
    this.#places = Math.max(0, ...this.candles.flatMap((c) => [decimals(c.high), decimals(c.low), decimals(c.close)]));
    this.#draw();
  }

  clear() {
    this.candles = [];
    this.#draw();
  }

  /** Put trades of the stream, oldest first, into the bars that REST did not answer yet. */
  add(trades) {
    for (const trade of trades) {
      const time = milliseconds(trade.recv_time);
      if (time <= this.until) continue;
      this.until = time;
      const at = Math.floor(time / this.step) * this.step;
      const last = this.candles.at(-1);
      if (last?.at === at) {
        last.close = trade.price;
        if (compare(trade.price, last.high) > 0) last.high = trade.price;
        if (compare(trade.price, last.low) < 0) last.low = trade.price;
        last.volume = add(last.volume, trade.size);
        last.trades += 1;
      } else if (!last || last.at < at) {
        const price = trade.price;
        this.candles.push({ at, open: price, high: price, low: price, close: price, volume: trade.size, trades: 1 });
        if (this.candles.length > SHOWN) this.candles.shift();
      }
      this.#places = Math.max(this.#places, decimals(trade.price));
    }
    this.#draw();
  }

  /** Let the right edge be `now`, if it is later. */
  move(now) {
    if (now > this.until + this.step / 4 || now < this.until) {
      this.until = now;
      this.#draw();
    }
  }

  /** In the colours of the theme that is shown. */
  paint() {
    this.#ink = Object.fromEntries(["bid", "ask", "dim", "line"].map((name) => [name, colour(name)]));
    this.#plot.redraw(false, true);
  }

  #draw() {
    const column = (name) => this.candles.map((c) => scaled(c[name], this.#places));
    const [open, high, low, close] = ["open", "high", "low", "close"].map(column);
    this.#plot.setData([this.candles.map((c) => (c.at + this.step / 2) / 1_000), open, high, low, close], false);
    this.#plot.batch(() => {
      const end = Math.floor(this.until / this.step) * this.step + this.step;
      this.#plot.setScale("x", { min: (end - SHOWN * this.step) / 1_000, max: end / 1_000 });
      const [bottom, top] = low.length ? [Math.min(...low), Math.max(...high)] : [0, 100];
      const room = Math.max(2, Math.ceil((top - bottom) * 0.08));
      this.#plot.setScale("y", { min: bottom - room, max: top + room });
    });
    this.#empty.hidden = this.candles.length > 0;
    this.#tell(this.candles.at(-1));
  }

  #tell(candle) {
    const words = candle
      ? `${rfc3339(candle.at).slice(11, this.step < 60_000 ? 19 : 16)} O ${candle.open} H ${candle.high} L ${candle.low} C ${candle.close} V ${candle.volume}`
      : "";
    say(this.#readout, words);
  }

  #build() {
    const axis = { stroke: () => this.#ink.dim, grid: { stroke: () => this.#ink.line, width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const utc = (seconds) => rfc3339(seconds * 1_000).slice(11, this.step < 60_000 ? 19 : 16);
    this.#plot = new uPlot(
      {
        ...this.#size(),
        padding: [8, 0, 0, 0],
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { show: false }, y: false },
        scales: { x: { time: true, auto: false }, y: { auto: false } },
        axes: [
          { ...axis, space: 70, size: 28, gap: 4, values: (plot, ticks) => ticks.map((tick) => (plot.valToPos(tick, "x") < 24 ? "" : utc(tick))) },
          { ...axis, side: 1, size: 64, gap: 6, incrs: STEPS, values: (_, ticks) => ticks.map((tick) => unscaled(tick, this.#places)) },
        ],
        series: [{}, ...["open", "high", "low", "close"].map((label) => ({ label, paths: () => null, points: { show: false } }))],
        tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1_000), "UTC"),
        hooks: {
          draw: [(plot) => this.#bars(plot)],
          setCursor: [(plot) => this.#tell(this.candles[plot.cursor.idx ?? this.candles.length - 1])],
        },
      },
      [[], [], [], [], []],
      this.#place,
    );
    this.paint();
  }

  #bars(plot) {
    const { ctx } = plot;
    const [times, open, high, low, close] = plot.data;
    const pixel = devicePixelRatio;
    const width = Math.max(1, Math.floor((plot.bbox.width / SHOWN) * 0.65));
    ctx.save();
    ctx.beginPath();
    ctx.rect(plot.bbox.left, plot.bbox.top, plot.bbox.width, plot.bbox.height);
    ctx.clip();
    times.forEach((time, i) => {
      const x = Math.round(plot.valToPos(time, "x", true));
      const [o, h, l, c] = [open[i], high[i], low[i], close[i]].map((value) => Math.round(plot.valToPos(value, "y", true)));
      ctx.fillStyle = close[i] >= open[i] ? this.#ink.bid : this.#ink.ask;
      ctx.fillRect(x - Math.floor(pixel / 2), h, Math.max(1, Math.round(pixel)), l - h);
      ctx.fillRect(x - Math.floor(width / 2), Math.min(o, c), width, Math.max(Math.round(pixel), Math.abs(o - c)));
    });
    ctx.restore();
  }

  #size() {
    return { width: Math.max(200, this.#place.clientWidth), height: Math.max(120, this.#place.clientHeight) };
  }

  #resize() {
    const size = this.#size();
    if (size.width !== this.#plot.width || size.height !== this.#plot.height) this.#plot.setSize(size);
  }
}
