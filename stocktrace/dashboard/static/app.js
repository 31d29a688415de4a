// The page: what the address asks for, and what the server sends, brought to the parts.

import { Candles } from "./candles.js";
import { clock, zone } from "./format.js";
import { EventList, buildTiles, showHead, showTiles } from "./head.js";
import { Lag, Rate } from "./series.js";
import { Sessions } from "./sessions.js";
import { Stream } from "./stream.js";
import { Table } from "./table.js";

const byId = (id) => document.getElementById(id);
const LENGTHS = [[1, "1s"], [5, "5s"], [15, "15s"], [60, "1m"]];

// What is shown: the address has it, so that it can be kept and sent.
const asked = new URLSearchParams(location.search);
const view = {
  session: asked.get("session"),
  ticker: asked.get("ticker") ?? "",
  every: LENGTHS.some(([s]) => String(s) === asked.get("every")) ? Number(asked.get("every")) : 5,
};
let board = null; // the newest head, tiles and time
let heard = 0;
let offline = false;

function address() {
  const query = new URLSearchParams({ session: view.session });
  if (view.ticker) query.set("ticker", view.ticker);
  if (view.every !== 5) query.set("every", view.every);
  return query;
}

function open(push) {
  history[push ? "pushState" : "replaceState"](null, "", `/?${address()}`);
  stream.ask(address());
}

function choose(ticker) {
  if (ticker === view.ticker) return;
  view.ticker = ticker;
  table.select(ticker, true);
  clearTimeout(choose.timer); // arrow keys run over many
  choose.timer = setTimeout(() => open(true), 120);
}

function showLengths() {
  byId("lengths").replaceChildren(...LENGTHS.map(([seconds, name]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", String(seconds === view.every));
    button.addEventListener("click", () => {
      view.every = seconds;
      showLengths();
      byId("lengths").querySelector("[aria-pressed=true]").focus();
      open(true);
    });
    return button;
  }));
}

function showZone() {
  for (const button of document.querySelectorAll("[data-zone]")) {
    button.setAttribute("aria-pressed", String(button.dataset.zone === zone.name));
  }
}

const now = () => (board ? board.now + (offline ? 0 : (Date.now() - heard) / 1000) : 0);
const isLive = () => board && !["ended", "dead"].includes(board.head.state);

function show() {
  if (!board) return;
  showHead(board.head, now(), offline);
  document.title = `${view.ticker} · ${byId("state").textContent} · stocktrace`;
}

buildTiles();
const table = new Table({
  head: byId("columns"), body: byId("lines"), scroll: byId("list"), filter: byId("filter"), shown: byId("shown"), choose,
});
const events = new EventList(byId("event-list"));
let candles = null, rateChart = null, lagChart = null;

function build() { // the charts measure their place: it must be seen
  if (candles) return;
  byId("board").hidden = false;
  candles = new Candles({
    element: byId("candles"), title: byId("chart-title"), legend: byId("legend"), text: byId("chart-text"), newest: byId("newest"),
  });
  rateChart = new Rate(byId("rate-chart"), byId("rate-legend"));
  lagChart = new Lag(byId("lag-chart"), byId("lag-legend"));
}

const stream = new Stream({
  board(message) {
    build();
    board = message;
    heard = Date.now();
    if (view.session !== message.head.session) {
      view.session = message.head.session; // "latest" has a name
      history.replaceState(null, "", `/?${address()}`);
    }
    table.take(message, isLive());
    rateChart.take(message.history);
    lagChart.take(message.history);
    showTiles(message.tiles, !isLive());
    events.take(message.events, message.whole);
    byId("foot").textContent = !isLive() ? "" : `as of ${clock(message.now)} ${zone.name === "UTC" ? "UTC" : "New York"}`;
    show();
  },
  chart(message) {
    build();
    if (view.ticker && message.ticker !== view.ticker) return; // of the one that was left just now
    if (!view.ticker) {
      view.ticker = message.ticker;
      history.replaceState(null, "", `/?${address()}`);
      table.select(view.ticker, false);
    }
    if (message.gaps) [rateChart, lagChart].forEach((chart) => chart.shade(message.gaps));
    candles.take(message, isLive() && !offline ? now() : 0);
  },
  failure(sentence) {
    byId("state").textContent = "not found";
    byId("banner").textContent = sentence;
    byId("banner").dataset.mood = "bad";
    byId("banner").hidden = false;
  },
  lost(is) {
    offline = is;
    if (board) show();
    else if (is) byId("state").textContent = "dashboard offline";
  },
});

const sessions = new Sessions({
  section: byId("sessions"), body: byId("sessions-table").tBodies[0], none: byId("no-sessions"),
  lost(is) {
    byId("state").textContent = is ? "dashboard offline" : "sessions";
    byId("state").dataset.mood = is ? "bad" : "";
  },
});

addEventListener("popstate", () => location.reload());
for (const button of document.querySelectorAll("[data-zone]")) {
  button.addEventListener("click", () => {
    zone.set(button.dataset.zone);
    localStorage.setItem("zone", zone.name);
    showZone();
  });
}
document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement;
  const at = typing || event.ctrlKey || event.metaKey || event.altKey ? -1 : ["1", "2", "3", "4"].indexOf(event.key);
  if (at >= 0 && candles) byId("lengths").children[at].click();
});

zone.set(localStorage.getItem("zone") === "America/New_York" ? "America/New_York" : "UTC");
showZone();
showLengths();
if (view.session) {
  table.select(view.ticker, false);
  open(false);
  setInterval(show, 1000);
} else {
  sessions.show();
}
