// Numbers and times as a trader reads them. Times are epoch seconds; only their texts have a zone.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => whole.format(value);
export const counted = (value, thing) => `${count(value)} ${thing}${value === 1 ? "" : "s"}`;
export const short = (value) => (value < 10_000 ? whole.format(value) : compact.format(value));

export function rate(value) {
  return value >= 100 ? whole.format(value) : value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

// As many digits as the price needs: 45,123.5 and 1.08432.
export function digits(price) {
  const size = Math.abs(price);
  return size >= 10_000 ? 1 : size >= 10 ? 2 : size >= 1 ? 4 : 6;
}

export function price(value) {
  if (value === null || value === undefined) return "–";
  const places = digits(value);
  return value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
}

export function percent(value) {
  if (value === null) return "–";
  const text = value.toFixed(2);
  return Number(text) === 0 ? "0.00" : `${value > 0 ? "+" : ""}${text}`;
}

export function ms(value) {
  if (value === null || value === undefined) return "–";
  return value >= 10_000 ? `${(value / 1000).toFixed(0)}s` : value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const two = (value) => String(value).padStart(2, "0");
  return `${two(Math.floor(s / 3600))}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
}

export function duration(seconds) {
  if (seconds > 0 && seconds < 0.95) return `${Math.max(1, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

// One zone for the whole page; listeners are called when it changes.
export const zone = {
  name: "UTC",
  listeners: [],
  set(name) {
    this.name = name;
    formats.clear();
    for (const listener of this.listeners) listener();
  },
};
const formats = new Map();

function format(kind, options) {
  if (!formats.has(kind)) {
    formats.set(kind, new Intl.DateTimeFormat("en-GB", { timeZone: zone.name, hourCycle: "h23", ...options }));
  }
  return formats.get(kind);
}

const hms = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
export const clock = (t) => format("clock", hms).format(t * 1000);
export const minute = (t) => format("minute", { hour: "2-digit", minute: "2-digit" }).format(t * 1000);
export const day = (t) => format("day", { day: "numeric", month: "short" }).format(t * 1000);
export const stamp = (t) =>
  format("stamp", { year: "numeric", month: "short", day: "2-digit", ...hms }).format(t * 1000);
