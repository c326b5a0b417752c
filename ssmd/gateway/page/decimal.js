// Prices and sizes are decimal strings. They are compared and added as integers of 10^-18, and shown as they came.

const SCALE = 18;
const cache = new Map();

/** The integer of 10^-18 that `text` says. Bounded: 20,000 texts are remembered. */
export function units(text) {
  let found = cache.get(text);
  if (found === undefined) {
    const negative = text.startsWith("-");
    const [whole, fraction = ""] = (negative ? text.slice(1) : text).split(".");
    found = BigInt(whole + fraction.slice(0, SCALE).padEnd(SCALE, "0"));
    if (negative) found = -found;
    if (cache.size >= 20_000) cache.clear();
    cache.set(text, found);
  }
  return found;
}

export function compare(a, b) {
  const left = units(a);
  const right = units(b);
  return left < right ? -1 : left > right ? 1 : 0;
}

export function isZero(text) {
  return units(text) === 0n;
}

/** Digits behind the point. */
export function decimals(text) {
  const at = text.indexOf(".");
  return at < 0 ? 0 : text.length - at - 1;
}

/** `value` of 10^-18 with `places` decimals; further digits are cut. */
export function text(value, places) {
  const negative = value < 0n;
  const digits = (negative ? -value : value).toString().padStart(SCALE + 1, "0");
  const whole = digits.slice(0, -SCALE);
  const fraction = digits.slice(-SCALE).slice(0, places);
  return (negative ? "-" : "") + whole + (places ? `.${fraction}` : "");
}

/** The sum, with as many decimals as the longer of the two. */
export function add(a, b) {
  return text(units(a) + units(b), Math.max(decimals(a), decimals(b)));
}

/** As an integer of 10^-places: what charts draw with. */
export function scaled(value, places) {
  return Number(units(value) / 10n ** BigInt(SCALE - places));
}

/** What `scaled` made, as text. */
export function unscaled(value, places) {
  return text(BigInt(Math.round(value)) * 10n ** BigInt(SCALE - places), places);
}

/** The part of `whole` that `part` is, 0 to 1, for the width of a bar. */
export function share(part, whole) {
  return whole > 0n ? Number((part * 10_000n) / whole) / 10_000 : 0;
}
