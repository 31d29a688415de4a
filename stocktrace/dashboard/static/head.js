// The state of the session in words, the tiles, and the events.

import { clock, count, counted, duration, ms, rate, span, zone } from "./format.js";

const byId = (id) => document.getElementById(id);

// The pill's word and mood, and a sentence for the banner.
function describe(head, now) {
  const final = head.final_state;
  switch (head.state) {
    case "connecting":
      return ["connecting", "warn", describeRetry(head, now)];
    case "connected":
      if (head.lag_s) return ["behind", "warn", `Connected, but the feed is ${duration(head.lag_s)} behind: trades arrive that late.`];
      return head.market ? ["market closed", "", `Connected, but the market is closed: ${head.market}.`] : ["connected", "good", ""];
    case "reconnecting":
      return ["reconnecting", "warn", describeRetry(head, now)];
    case "ending":
      return ["ending", "", "The capture has finished and is publishing what it received."];
    case "silent":
      return ["no heartbeat", "bad", `No heartbeat for ${duration(head.silent_s)}: the capture is suspended, or its machine is overloaded.`];
    case "crashed":
      return ["crashed", "bad", "The capture crashed. Everything it received is on its tape. Run stocktrace recover."];
    default:
      return ["ended", final === "failed" ? "bad" : final === "complete" ? "" : "warn", final === "failed" ? `Failed: ${head.reason}` : ""];
  }
}

function describeRetry({ retry, error, open_gap_s: seconds }, now) {
  const lasting = seconds === null ? "" : ` for ${duration(seconds)}`;
  if (!retry) return error ? `Not connected${lasting}: ${error}` : `Not connected yet${lasting}.`;
  const left = Math.max(0, Date.parse(retry.at) / 1000 - now);
  const when = left > 0 ? `in ${left.toFixed(0)} s` : "now";
  return `Not connected${lasting}: ${retry.reason}. Attempt ${retry.attempt} ${when}.`;
}

export function showHead(head, now, offline) {
  const [word, mood, sentence] = offline
    ? ["dashboard offline", "bad", "The dashboard does not answer. The page shows the last known state and keeps trying."]
    : describe(head, now);
  const pill = byId("state");
  if (pill.textContent !== word) pill.textContent = word;
  pill.dataset.mood = mood;
  const banner = byId("banner");
  banner.hidden = !sentence;
  banner.dataset.mood = mood;
  if (banner.textContent !== sentence) banner.textContent = sentence;
  const ended = head.state === "ended";
  const { final_state: final, reason } = head;
  const outcome = !ended ? "" : reason && final !== "failed" ? ` · ${final}: ${reason}` : ` · ${final}`;
  byId("detail").textContent = `${counted(head.tickers, "ticker")} · ${head.session.slice(0, 16)}${outcome}${head.behind ? " · reading…" : ""}`;
  byId("detail").title = `session ${head.session} on ${head.host}`;
  byId("time").hidden = false;
  const all = head.elapsed_s + head.remaining_s;
  byId("progress").value = ended ? 1 : all > 0 ? head.elapsed_s / all : 0;
  byId("progress").hidden = ended;
  byId("clock").textContent = ended ? `lasted ${span(head.elapsed_s)}` : `${span(head.elapsed_s)} elapsed, ${span(head.remaining_s)} left`;
}

const TILES = [
  ["rate", "Trades/s", (t, ended) => [rate(t.rate), ended ? "on average" : ""], "Received over the last 5 s, or on average in a session that has ended"],
  ["trades", "Trades", (t) => [count(t.trades), ""], "Recorded in CSV or Parquet"],
  ["lag", "Feed lag p50 / p99", (t) => [`${ms(t.lag_p50)} / ${ms(t.lag_p99)}`, "ms"], "From the trade's time to its receipt, over the last minute", (t) => (t.lag_p99 > 60_000 ? "bad" : t.lag_p99 > 5000 ? "warn" : "")],
  ["disk", "Disk lag p99", (t) => [ms(t.disk_p99), t.disk_p99 === null ? "" : "ms"], "From receipt to the CSV, over the last minute; the tape has every frame immediately"],
  ["queue", "Queue max", (t) => [count(t.queue), t.queue_ticker], "The longest queue: trades of one ticker that wait to be written"],
  ["reconnects", "Reconnects", (t) => [count(t.reconnects), ""], "Number of times the connection was lost", (t) => (t.reconnects ? "warn" : "")],
  ["gaps", "Gaps", (t) => [count(t.gaps), t.gaps ? duration(t.gap_s) : ""], "Times without a connection, and their total length; the first gap is the initial connect", (t) => (t.outages ? "warn" : "")],
  ["quarantined", "Quarantined", (t) => [count(t.quarantined), ""], "Rows that failed validation; they are kept with the reason", (t) => (t.quarantined ? "warn" : "")],
  ["rolled", "Rolled / in Parquet", (t) => [`${count(t.rolled)} / ${count(t.published)}`, t.files ? counted(t.files, "file") : ""], "Windows that have ended, and windows that are published"],
];

export function buildTiles() {
  for (const [name, title, , help] of TILES) {
    const tile = document.createElement("div");
    tile.id = `tile-${name}`;
    tile.title = help;
    const term = document.createElement("dt");
    term.textContent = title;
    const value = document.createElement("dd");
    value.append(document.createElement("span"), document.createElement("small"));
    tile.append(term, value);
    byId("tiles").append(tile);
  }
}

export function showTiles(tiles, ended) {
  for (const [name, , show, , mood] of TILES) {
    const tile = byId(`tile-${name}`);
    const [value, unit] = show(tiles, ended);
    const [main, small] = tile.querySelector("dd").children;
    if (main.textContent !== value) main.textContent = value;
    if (small.textContent !== unit) small.textContent = unit;
    tile.dataset.mood = mood ? mood(tiles) : "";
  }
}

const MOODS = { disconnect: "warn", gap: "warn", quarantine: "warn", refused: "warn", error: "warn", notice: "warn", spill: "warn", failure: "bad" };
const MAX_EVENTS = 200;

// Newest first.
export class EventList {
  constructor(element) {
    this.element = element;
    zone.listeners.push(() => {
      for (const line of element.children) line.firstChild.textContent = clock(Number(line.dataset.at));
    });
  }

  update(events, whole) {
    if (whole) this.element.replaceChildren();
    for (const [at, kind, text] of events) {
      const line = document.createElement("li");
      line.dataset.at = at;
      line.dataset.mood = MOODS[kind] ?? "";
      line.dataset.kind = kind;
      const time = document.createElement("time");
      time.dateTime = new Date(at * 1000).toISOString();
      time.textContent = clock(at);
      const sentence = document.createElement("span");
      sentence.textContent = text;
      line.append(time, sentence);
      this.element.prepend(line);
    }
    while (this.element.children.length > MAX_EVENTS) this.element.lastChild.remove();
  }
}
