// The page: shows the session of the address, and passes what the server sends to its parts.

import { Candles } from "./candles.js";
import { clock, zone } from "./format.js";
import { EventList, buildTiles, showHead, showTiles } from "./head.js";
import { LagChart, RateChart } from "./series.js";
import { Sessions } from "./sessions.js";
import { Stream } from "./stream.js";
import { Table } from "./table.js";

const byId = (id) => document.getElementById(id);
const LENGTHS = [[1, "1s"], [5, "5s"], [15, "15s"], [60, "1m"]];

// The selection is in the address, so that it can be bookmarked and sent.
const query = new URLSearchParams(location.search);
const view = {
  session: query.get("session"),
  ticker: query.get("ticker") ?? "",
  every: LENGTHS.some(([s]) => String(s) === query.get("every")) ? Number(query.get("every")) : 5,
};
let state = null; // the newest message about the session
let receivedAt = 0;
let offline = false;

function address() {
  const parameters = new URLSearchParams({ session: view.session });
  if (view.ticker) parameters.set("ticker", view.ticker);
  if (view.every !== 5) parameters.set("every", view.every);
  return parameters;
}

function open(push) {
  history[push ? "pushState" : "replaceState"](null, "", `/?${address()}`);
  stream.subscribe(address());
}

function selectTicker(ticker) {
  if (ticker === view.ticker) return;
  view.ticker = ticker;
  table.select(ticker, true);
  clearTimeout(selectTicker.timer); // arrow keys pass many tickers
  selectTicker.timer = setTimeout(() => open(true), 120);
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

const now = () => (state ? state.now + (offline ? 0 : (Date.now() - receivedAt) / 1000) : 0);
const isLive = () => state && !["ended", "crashed"].includes(state.head.state);

function show() {
  if (!state) return;
  showHead(state.head, now(), offline);
  document.title = `${view.ticker} · ${byId("state").textContent} · stocktrace`;
}

buildTiles();
const table = new Table({
  head: byId("columns"), body: byId("lines"), scroll: byId("list"), filter: byId("filter"), shown: byId("shown"), onSelect: selectTicker,
});
const events = new EventList(byId("event-list"));
let candles = null, rateChart = null, lagChart = null;

function buildCharts() { // they measure their elements, which must be visible
  if (candles) return;
  byId("session").hidden = false;
  candles = new Candles({
    element: byId("candles"), title: byId("chart-title"), legend: byId("legend"), text: byId("chart-text"), newest: byId("newest"),
  });
  rateChart = new RateChart(byId("rate-chart"), byId("rate-legend"));
  lagChart = new LagChart(byId("lag-chart"), byId("lag-legend"));
}

const stream = new Stream({
  session(message) {
    buildCharts();
    state = message;
    receivedAt = Date.now();
    if (view.session !== message.head.session) {
      view.session = message.head.session; // the address had "latest"
      history.replaceState(null, "", `/?${address()}`);
    }
    table.update(message, isLive());
    rateChart.update(message.history);
    lagChart.update(message.history);
    showTiles(message.tiles, !isLive());
    events.update(message.events, message.whole);
    byId("foot").textContent = !isLive() ? "" : `as of ${clock(message.now)} ${zone.name === "UTC" ? "UTC" : "New York"}`;
    show();
  },
  chart(message) {
    buildCharts();
    if (view.ticker && message.ticker !== view.ticker) return; // of the ticker that was selected before
    if (!view.ticker) {
      view.ticker = message.ticker;
      history.replaceState(null, "", `/?${address()}`);
      table.select(view.ticker, false);
    }
    if (message.gaps) [rateChart, lagChart].forEach((chart) => chart.setGaps(message.gaps));
    candles.update(message, isLive() && !offline ? now() : 0);
  },
  failure(sentence) {
    byId("state").textContent = "not found";
    byId("banner").textContent = sentence;
    byId("banner").dataset.mood = "bad";
    byId("banner").hidden = false;
  },
  offline(isOffline) {
    offline = isOffline;
    if (state) show();
    else if (isOffline) byId("state").textContent = "dashboard offline";
  },
});

const sessions = new Sessions({
  section: byId("sessions"), body: byId("sessions-table").tBodies[0], none: byId("no-sessions"),
  offline(isOffline) {
    byId("state").textContent = isOffline ? "dashboard offline" : "sessions";
    byId("state").dataset.mood = isOffline ? "bad" : "";
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
  const index = typing || event.ctrlKey || event.metaKey || event.altKey ? -1 : ["1", "2", "3", "4"].indexOf(event.key);
  if (index >= 0 && candles) byId("lengths").children[index].click();
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
