// Who is connected to this gateway: for administrators.

import { find, make, say } from "./dom.js";

const SHOWN = 50;

export class Clients {
  read(answer) {
    const clients = answer.clients.toSorted((a, b) => (a.connected_time < b.connected_time ? -1 : 1));
    say(find("clients-count"), clients.length.toLocaleString("en"));
    find("clients").replaceChildren(...clients.slice(0, SHOWN).map(row));
    say(find("clients-note"), clients.length > SHOWN ? `${clients.length - SHOWN} more: ssmd client list` : "");
  }

  fail(words) {
    say(find("clients-count"), "");
    find("clients").replaceChildren();
    say(find("clients-note"), words);
  }
}

function row(client) {
  const state = make("span", { class: "pill small", "data-state": client.state === "healthy" ? "good" : "bad" }, client.state);
  const cells = [`${client.id} ${client.who}`, state, client.mode, client.sent.toLocaleString("en"), client.dropped.toLocaleString("en")];
  const title = `from ${client.peer}, connected ${client.connected_time}, ${client.subscriptions} subscriptions, ${client.waiting} waiting, ${client.conflated} conflated`;
  return make("tr", { title }, ...cells.map((cell, i) => make("td", { class: i > 2 ? "number" : "" }, cell)));
}
