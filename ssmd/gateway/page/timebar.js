// The instant that is shown: now, or any before it. The slider, the text beside it, and playing on from there.

import { find, make, mark, say } from "./dom.js";
import { milliseconds, parse, rfc3339, shown } from "./moment.js";

const RANGES = { "15 min": 15 * 60_000, "1 hour": 3_600_000, "6 hours": 6 * 3_600_000, "24 hours": 86_400_000 };
const REPEATED_MS = 60_000;
const TICK_MS = 250;
const MOST_MS = 2_000; // of real time in one step: a server that takes longer slows the play
const SETTLE_MS = 120; // a thumb that is dragged asks when it rests

export class TimeBar {
  /** `now` is the gateway's time (ms); `onChange` gets the instant (ms), or null for live. */
  constructor({ now, onChange }) {
    this.at = null;
    this.playing = false;
    this.#now = now;
    this.#onChange = onChange;
    this.days([]);
    this.#slider.addEventListener("input", () => this.#slid());
    this.#text.addEventListener("change", () => this.#typed());
    this.#ranges.addEventListener("change", () => this.#ranged());
    find("play").addEventListener("click", () => this.toggle());
    find("back").addEventListener("click", () => this.step(-10_000));
    find("forward").addEventListener("click", () => this.step(10_000));
    find("live").addEventListener("click", () => this.live());
    setInterval(() => this.#tick(), TICK_MS);
    this.#show();
  }

  #now;
  #onChange;
  #slider = find("slider");
  #text = find("instant");
  #ranges = find("range");
  #play = find("play");
  #timer = 0;
  #day = null;
  #busy = false;
  #ticked = 0; // when it moved on last, performance.now()

  /** Days that may be chosen, as REST lists them. */
  days(days) {
    const chosen = this.#ranges.value || "15 min";
    const recent = Object.keys(RANGES).map((name) => make("option", { value: name }, `last ${name}`));
    const dated = days.map((day) => make("option", { value: day.date }, day.date));
    this.#days = new Map(days.map((day) => [day.date, day]));
    this.#ranges.replaceChildren(...recent, ...dated);
    this.#ranges.value = [...Object.keys(RANGES), ...this.#days.keys()].includes(chosen) ? chosen : "15 min";
  }

  #days = new Map();

  /** Show the instant `at` (ms). */
  go(at, { quietly = false } = {}) {
    if (!Number.isFinite(at)) return;
    if (at >= this.#now()) {
      this.live();
      return;
    }
    this.at = Math.floor(at);
    this.#show();
    if (!quietly) this.#tell();
  }

  live() {
    const was = this.at;
    this.playing = false;
    this.at = null;
    if (this.#day) this.#ranges.value = "15 min";
    this.#day = null;
    this.#show();
    if (was !== null) this.#tell();
  }

  step(ms) {
    this.go((this.at ?? this.#now()) + ms);
  }

  toggle() {
    if (this.at === null) this.go(this.#now() - REPEATED_MS, { quietly: true }); // live plays anyway: the last minute again
    this.playing = this.at !== null && !this.playing;
    this.#ticked = performance.now();
    this.#show();
  }

  async #tell() {
    clearTimeout(this.#timer);
    await this.#onChange(this.at);
  }

  /** While it plays, the instant moves on by the time that has passed, once what is shown has been answered. */
  async #tick() {
    if (this.playing && !this.#busy && this.at !== null) {
      this.#busy = true;
      const passed = Math.min(MOST_MS, performance.now() - this.#ticked);
      this.#ticked = performance.now();
      this.go(this.at + passed * Number(find("speed").value), { quietly: true });
      try {
        await this.#onChange(this.at);
      } finally {
        this.#busy = false;
      }
    }
    this.#show();
  }

  #slid() {
    const at = Number(this.#slider.value);
    this.playing = false;
    this.at = at >= Number(this.#slider.max) ? null : at;
    this.#show();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#onChange(this.at), SETTLE_MS);
  }

  #typed() {
    const at = parse(this.#text.value, this.at ?? this.#now());
    mark(this.#text, "aria-invalid", String(!Number.isFinite(at)));
    if (!Number.isFinite(at)) return;
    this.playing = false;
    this.#text.blur();
    this.go(at);
  }

  #ranged() {
    this.#day = this.#days.get(this.#ranges.value) ?? null;
    const [first, last] = this.#bounds();
    if (this.#day && (this.at ?? this.#now()) > last) this.go(last);
    else if (this.at !== null && this.at < first) this.go(first);
    this.#show();
  }

  #bounds() {
    const now = Math.floor(this.#now());
    if (this.#day) return [milliseconds(this.#day.opens_time), Math.min(now, milliseconds(this.#day.over_time))];
    const long = RANGES[this.#ranges.value];
    const last = this.at !== null && this.at < now - long ? this.at + long / 2 : now; // what is shown is in the range
    return [last - long, last];
  }

  #show() {
    const [first, last] = this.#bounds();
    const past = this.at !== null;
    Object.assign(this.#slider, { min: String(first), max: String(last) });
    this.#slider.value = String(past ? this.at : last);
    mark(this.#slider, "aria-valuetext", past ? `${shown(this.at)} UTC` : "live");
    if (document.activeElement !== this.#text) {
      this.#text.value = shown(past ? this.at : this.#now()).slice(0, past ? 23 : 19);
      mark(this.#text, "aria-invalid", "false");
    }
    say(this.#play, this.playing ? "Pause" : "Play");
    mark(this.#play, "aria-pressed", String(this.playing));
    find("live").disabled = !past;
    find("forward").disabled = !past;
  }

  /** As REST is asked; undefined: as it is now. */
  get asOf() {
    return this.at === null ? undefined : rfc3339(this.at);
  }
}
