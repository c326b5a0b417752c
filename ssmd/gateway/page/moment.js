// Instants: RFC 3339 from the server, milliseconds since 1970 for the slider. Everything is shown in UTC.

/** Milliseconds of an RFC 3339 text of the server's, whose nine decimals not every browser reads; NaN for "". */
export function milliseconds(rfc3339) {
  return Date.parse(rfc3339.replace(/(\.\d{3})\d+/, "$1"));
}

export function rfc3339(ms) {
  return new Date(ms).toISOString();
}

/** HH:MM:SS.mmm of an RFC 3339 text. */
export function clock(rfc3339text) {
  const time = rfc3339text.slice(11).replace("Z", "");
  const [seconds, fraction = ""] = time.split(".");
  return `${seconds}.${fraction.slice(0, 3).padEnd(3, "0")}`;
}

/** YYYY-MM-DD HH:MM:SS.mmm */
export function shown(ms) {
  return rfc3339(ms).replace("T", " ").replace("Z", "");
}

/** YYYY-MM-DD HH:MM:SS of an RFC 3339 text, "—" for none. */
export function instant(rfc3339text) {
  return rfc3339text && !rfc3339text.startsWith("1970") ? rfc3339text.slice(0, 19).replace("T", " ") : "—";
}

/** What a person typed: a time of `day` (ms within it), or a date and time, UTC. NaN if it is neither. */
export function parse(text, day) {
  const said = text.trim();
  const time = /^(\d{1,2}):(\d{2})(?::(\d{2})(\.\d{1,3})?)?$/.exec(said);
  if (time) return Date.parse(`${rfc3339(day).slice(0, 10)}T${time[1].padStart(2, "0")}:${time[2]}:${time[3] ?? "00"}${time[4] ?? ""}Z`);
  const date = /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)(Z|[+-]\d{2}:\d{2})?)?$/.exec(said);
  return date ? milliseconds(`${date[1]}T${date[2] ?? "00:00"}${date[3] ?? "Z"}`) : NaN;
}

/** A span in words of one unit. */
export function span(ms) {
  const size = Math.abs(ms);
  if (size < 1_000) return `${Math.round(ms)} ms`;
  if (size < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (size < 3_600_000) return `${Math.floor(ms / 60_000)} min`;
  if (size < 86_400_000) return `${Math.floor(ms / 3_600_000)} h`;
  return `${Math.floor(ms / 86_400_000)} d`;
}
