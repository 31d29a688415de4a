// The state of the session in words, the figures, and the events.

import { clock, count, counted, duration, ms, rate, span, zone } from "./format.js";

const byId = (id) => document.getElementById(id);

// The pill's word and mood, and a sentence for what asks for attention.
function words(head, now) {
  const of = head.final_state;
  switch (head.state) {
    case "connecting":
      return ["connecting", "warn", retry(head, now)];
    case "connected":
      return head.market ? ["market closed", "", `No trades, the link is fine: ${head.market}.`] : ["connected", "good", ""];
    case "reconnecting":
      return ["reconnecting", "warn", retry(head, now)];
    case "ending":
      return ["ending", "", "It listens no more and publishes what was received."];
    case "silent":
      return ["no heartbeat", "bad", `The capture has not told how it stands for ${duration(head.silent_s)}: it is stopped, or its machine is busy.`];
    case "dead":
      return ["died", "bad", "Its process died. What it received is on the tape: run stocktrace recover."];
    default:
      return ["ended", of === "failed" ? "bad" : of === "complete" ? "" : "warn", of === "failed" ? `Failed: ${head.reason}` : ""];
  }
}

function retry({ retry: wait, error }, now) {
  if (!wait) return error ? `Not listening: ${error}` : "Not listening yet.";
  const left = Math.max(0, Date.parse(wait.at) / 1000 - now);
  const when = left > 0 ? `in ${left.toFixed(0)} s` : "now";
  return `Not listening: ${wait.reason}. Try ${wait.attempt} ${when}.`;
}

export function showHead(head, now, lost) {
  const [word, mood, sentence] = lost ? ["dashboard offline", "bad", "The dashboard does not answer. What is shown is from before; it is asked again."] : words(head, now);
  const pill = byId("state");
  if (pill.textContent !== word) pill.textContent = word;
  pill.dataset.mood = mood;
  const banner = byId("banner");
  banner.hidden = !sentence;
  banner.dataset.mood = mood;
  if (banner.textContent !== sentence) banner.textContent = sentence;
  const over = head.state === "ended";
  byId("detail").textContent = `${counted(head.tickers, "ticker")} · ${head.session.slice(0, 16)}${over ? ` · ${head.final_state}${head.reason && head.final_state !== "failed" ? `: ${head.reason}` : ""}` : ""}${head.behind ? " · reading…" : ""}`;
  byId("detail").title = `session ${head.session} on ${head.host}`;
  byId("time").hidden = false;
  const all = head.elapsed_s + head.remaining_s;
  byId("progress").value = over ? 1 : all > 0 ? head.elapsed_s / all : 0;
  byId("progress").hidden = over;
  byId("clock").textContent = over ? `${span(head.elapsed_s)} long` : `${span(head.elapsed_s)} elapsed, ${span(head.remaining_s)} left`;
}

const TILES = [
  ["rate", "Trades/s", (t, over) => [rate(t.rate), over ? "on average" : ""], "Received over the last 5 s"],
  ["trades", "Trades", (t) => [count(t.trades), ""], "Recorded: in CSV or Parquet"],
  ["lag", "Feed lag p50 / p99", (t) => [`${ms(t.lag_p50)} / ${ms(t.lag_p99)}`, "ms"], "From the trade's time to its receipt, over the last minute", (t) => (t.lag_p99 > 60_000 ? "bad" : t.lag_p99 > 5000 ? "warn" : "")],
  ["disk", "Disk lag p99", (t) => [ms(t.disk_p99), t.disk_p99 === null ? "" : "ms"], "From receipt to the CSV, over the last minute; the tape has it at once"],
  ["queue", "Queue max", (t) => [count(t.queue), t.queue_of], "Trades of one ticker that wait to be written"],
  ["reconnects", "Reconnects", (t) => [count(t.reconnects), ""], "How often the connection was lost", (t) => (t.reconnects ? "warn" : "")],
  ["gaps", "Gaps", (t) => [count(t.gaps), t.gaps ? duration(t.gap_s) : ""], "Stretches in which nobody listened, and how long they were; the first is connecting", (t) => (t.outages ? "warn" : "")],
  ["quarantined", "Quarantined", (t) => [count(t.quarantined), ""], "Rows that the schema refused; kept with their reason", (t) => (t.quarantined ? "warn" : "")],
  ["rolled", "Rolled / in Parquet", (t) => [`${count(t.rolled)} / ${count(t.published)}`, t.files ? counted(t.files, "file") : ""], "Windows that have ended, and those that are published"],
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

export function showTiles(tiles, over) {
  for (const [name, , show, , mood] of TILES) {
    const tile = byId(`tile-${name}`);
    const [value, unit] = show(tiles, over);
    const [main, small] = tile.querySelector("dd").children;
    if (main.textContent !== value) main.textContent = value;
    if (small.textContent !== unit) small.textContent = unit;
    tile.dataset.mood = mood ? mood(tiles) : "";
  }
}

const MOODS = { disconnect: "warn", gap: "warn", quarantine: "warn", refused: "warn", error: "warn", notice: "warn", spill: "warn", failure: "bad" };
const MOST = 200;

// Newest first: it is what a person looks for.
export class EventList {
  constructor(element) {
    this.element = element;
    zone.listeners.push(() => {
      for (const line of element.children) line.firstChild.textContent = clock(Number(line.dataset.at));
    });
  }

  take(events, whole) {
    if (whole) this.element.replaceChildren();
    for (const [at, kind, text] of events) {
      const line = document.createElement("li");
      line.dataset.at = at;
      line.dataset.mood = MOODS[kind] ?? "";
      line.dataset.kind = kind;
      const time = document.createElement("time");
      time.dateTime = new Date(at * 1000).toISOString();
      time.textContent = clock(at);
      const words = document.createElement("span");
      words.textContent = text;
      line.append(time, words);
      this.element.prepend(line);
    }
    while (this.element.children.length > MOST) this.element.lastChild.remove();
  }
}
