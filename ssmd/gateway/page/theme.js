// Dark or light: as the machine says, until somebody chooses.

import { find, say } from "./dom.js";

const ORDER = ["auto", "dark", "light"];

export function themes(onChange) {
  const button = find("theme");
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    say(button, { auto: "Theme: auto", dark: "Theme: dark", light: "Theme: light" }[theme]);
    onChange();
  };
  let theme = localStorage.getItem("ssmd.theme") ?? "auto";
  if (!ORDER.includes(theme)) theme = "auto";
  button.addEventListener("click", () => {
    theme = ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length];
    localStorage.setItem("ssmd.theme", theme);
    apply(theme);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onChange);
  apply(theme);
}
