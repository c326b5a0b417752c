// What of the day is proved to be there: one strip a channel, from the day's opening to now.

import { draw, find, make, say } from "./dom.js";
import { clock, milliseconds, span } from "./moment.js";

const WIDTH = 600;
const LEAST = 1.5; // of a strip's width: a short gap is seen all the same

export class Coverage {
  /** REST's answer, and the span of the day (ms). */
  read(answer, opens, until) {
    say(find("coverage-date"), answer.date);
    const times = answer.channels.flatMap((c) => c.intervals.map((i) => milliseconds(i.from_time)));
    const first = Math.max(opens, Math.min(until - 60_000, ...times)); // from the first entry: a strip is not mostly empty
    const strips = answer.channels.map((channel) => strip(channel, first, until));
    find("coverage").replaceChildren(...(strips.length ? [...strips, scale(first, until)] : [make("p", { class: "note" }, "Nothing was captured on this day")]));
  }

  fail(words) {
    find("coverage").replaceChildren(make("p", { class: "note" }, words));
  }
}

function strip(channel, first, until) {
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} 14`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const order = { proved: 0, probable: 1, unknown: 2, gap: 3 };
  const kinds = channel.intervals.map((interval) => ({ interval, kind: kindOf(interval) })).sort((a, b) => order[a.kind] - order[b.kind]);
  for (const { interval, kind } of kinds) {
    const from = Math.max(0, ((milliseconds(interval.from_time) - first) / (until - first)) * WIDTH);
    const to = Math.min(WIDTH, ((milliseconds(interval.to_time) - first) / (until - first)) * WIDTH);
    if (!(to >= 0 && from <= WIDTH)) continue;
    const words = `${interval.status}${interval.cause ? `: ${interval.cause}` : ""}, ${clock(interval.from_time)} to ${clock(interval.to_time)}`;
    const bar = draw("rect", { class: `cover-${kind}`, x: from, y: 0, width: Math.max(LEAST, to - from), height: 14 }, draw("title", {}, words));
    svg.append(bar);
  }
  const gaps = channel.intervals.filter((i) => kindOf(i) === "gap").length;
  const missing = channel.missing ? `, ${channel.missing.toLocaleString("en")} missing` : "";
  const said = `${gaps || "no"} gap${gaps === 1 || !gaps ? "" : "s"}${missing}`;
  const entries = Object.values(channel.entries).reduce((a, b) => a + b, 0).toLocaleString("en");
  return make("div", { class: "strip" }, make("span", {}, channel.channel), make("span", { class: "dim" }, `${said} · ${entries} entries`), svg);
}

function kindOf(interval) {
  return ["proved", "probable", "gap"].find((kind) => interval.status.startsWith(kind)) ?? "unknown";
}

function scale(first, until) {
  const at = (ms) => clock(new Date(ms).toISOString()).slice(0, 8);
  return make("p", { class: "scale dim" }, make("span", {}, at(first)), make("span", {}, span(until - first)), make("span", {}, at(until)));
}
