// A trading day: where it is among its states, and what happened to it.

import { find, make, mark, say } from "./dom.js";
import { clock } from "./moment.js";

const STATES = ["PENDING", "STARTING", "ACTIVE", "ENDING", "COMPLETE"];
const SHOWN = 14;

export class Day {
  constructor() {
    this.#marks = STATES.map((state) => make("li", {}, state.toLowerCase()));
    find("day-states").append(...this.#marks);
  }

  #marks;

  /** REST's answer of one day. */
  read(answer) {
    const { day } = answer;
    say(find("day-date"), `${day.date}${day.forced ? " · forced" : ""}`);
    const at = STATES.indexOf(day.state);
    this.#marks.forEach((item, number) => {
      mark(item, "data-state", number < at ? "past" : number === at ? "now" : "next");
      mark(item, "aria-current", String(number === at));
    });
    const wrong = at < 0 ? [make("li", { class: "wrong" }, make("strong", {}, day.state), ` ${day.why}`)] : [];
    const doing = day.step ? [make("li", {}, make("time", {}, "now"), make("span", {}, day.step), make("span", { class: "dim" }, "under way"))] : [];
    const happened = answer.timeline.slice(-SHOWN).reverse().map(line);
    const nothing = happened.length ? [] : [make("li", { class: "dim" }, "Nothing has happened to it yet")];
    find("day-steps").replaceChildren(...wrong, ...doing, ...happened, ...nothing);
  }
}

function line(step) {
  const { detail } = step;
  const words =
    step.what === "moved" ? `${(detail.from ?? "").toLowerCase()} → ${(detail.to ?? "").toLowerCase()}` : [detail.step, step.what.replaceAll("_", " ").replace("step ", "")].filter(Boolean).join(" ");
  const outcome = detail.outcome && detail.outcome !== "done" ? detail.outcome : step.what === "moved" ? (detail.why ?? "") : "";
  const title = [step.who, detail.why].filter(Boolean).join(": ");
  return make("li", { title }, make("time", { datetime: step.time }, clock(step.time).slice(0, 8)), make("span", {}, words), make("span", { class: "dim" }, outcome));
}
