// The table of tickers, sorted and filtered. Only the rows in view are in the document.

import { count, counted, percent, price, rate, short } from "./format.js";

const HEIGHT = 26; // of a row: 25 and a border in style.css
const POINTS = 60;
const [NUMBER, LAST, CHANGE, RATE, TRADES, QUEUE, GAPS, QUARANTINED, REFUSED] = Array(9).keys();

const COLUMNS = [
  { key: "ticker", name: "Ticker", help: "Symbol", text: true },
  { key: LAST, name: "Last", help: "Last price" },
  { key: CHANGE, name: "Chg %", help: "Change since the session's first price" },
  { key: null, name: "60 s", help: "Price over the last minute, or over the whole session if it has ended" },
  { key: RATE, name: "tr/s", help: "Trades a second over the last 5 s, or on average if the session has ended" },
  { key: TRADES, name: "Trades", help: "Trades recorded" },
  { key: QUEUE, name: "Queue", help: "Trades that wait to be written", wide: true },
  { key: GAPS, name: "Gaps", help: "Gaps of this ticker", wide: true },
  { key: QUARANTINED, name: "Quar.", help: "Trades in quarantine", wide: true },
];

export class Table {
  constructor({ head, body, scroll, filter, shown, onSelect }) {
    Object.assign(this, { head, body, scroll, filter, shown, onSelect });
    this.tickers = [];
    this.lines = [];
    this.sparks = [];
    this.order = [];
    this.rows = new Map();
    this.selected = "";
    this.sort = { key: TRADES, down: true };
    this.second = 0;
    this.buildHead();
    scroll.addEventListener("scroll", () => this.draw());
    new ResizeObserver(() => this.draw()).observe(scroll);
    filter.addEventListener("input", () => this.arrange());
    filter.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown" || event.key === "Enter") {
        scroll.focus();
        if (this.order.length && !this.order.includes(this.numberOf(this.selected))) this.step(-Infinity);
        event.preventDefault();
      } else if (event.key === "Escape") {
        filter.value = "";
        this.arrange();
      }
    });
    scroll.addEventListener("keydown", (event) => this.key(event));
    body.addEventListener("click", (event) => {
      const row = event.target.closest("tr.line");
      if (row) this.onSelect(this.tickers[Number(row.dataset.number)]);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && !event.ctrlKey && !event.metaKey && document.activeElement !== filter) {
        filter.focus();
        event.preventDefault();
      }
    });
  }

  buildHead() {
    for (const column of COLUMNS) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.title = column.help;
      if (!column.text && column.key !== null) cell.classList.add("num");
      if (column.wide) cell.classList.add("wide");
      if (column.key === null) {
        cell.textContent = column.name;
        this.sparkHead = cell;
      } else {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = column.name;
        button.addEventListener("click", () => this.sortBy(column));
        cell.append(button);
      }
      column.cell = cell;
      this.head.append(cell);
    }
    this.markSort();
  }

  sortBy(column) {
    this.sort = this.sort.key === column.key
      ? { key: column.key, down: !this.sort.down }
      : { key: column.key, down: !column.text };
    this.markSort();
    this.arrange();
  }

  markSort() {
    for (const { key, cell } of COLUMNS) {
      if (key === this.sort.key) cell.setAttribute("aria-sort", this.sort.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  update({ whole, tickers, lines, sparks, spark_span: span, now }, live) {
    if (whole) {
      this.tickers = tickers;
      this.sparks = sparks.map((points) => (points.length ? points : Array(POINTS).fill(null)));
      this.lines = [];
      this.second = Math.floor(now);
    }
    for (const line of lines) this.lines[line[NUMBER]] = line;
    if (live && !whole) this.advance(Math.floor(now));
    this.sparkHead.textContent = span === "minute" ? "60 s" : "Session";
    this.arrange(whole);
  }

  // Moves the sparklines by one point a second.
  advance(second) {
    const steps = Math.min(POINTS, Math.max(0, second - this.second));
    this.second = Math.max(second, this.second);
    this.sparks.forEach((points, number) => {
      for (let n = 0; n < steps; n++) {
        points.shift();
        points.push(points[POINTS - 2]);
      }
      points[POINTS - 1] = this.lines[number]?.[LAST] ?? null;
    });
  }

  numberOf(ticker) {
    return this.tickers.indexOf(ticker);
  }

  arrange() {
    const pattern = this.filter.value.trim().toUpperCase();
    const { key, down } = this.sort;
    const order = [];
    this.tickers.forEach((ticker, number) => {
      if (this.lines[number] && ticker.toUpperCase().includes(pattern)) order.push(number);
    });
    const by = (a, b) => {
      if (key === "ticker") return this.tickers[a] < this.tickers[b] ? -1 : 1;
      return (this.lines[a][key] ?? -Infinity) - (this.lines[b][key] ?? -Infinity);
    };
    order.sort((a, b) => (down ? by(b, a) : by(a, b)) || a - b);
    this.order = order;
    const all = this.tickers.length;
    this.shown.textContent = order.length === all ? counted(all, "ticker") : `${count(order.length)} of ${count(all)}`;
    this.draw();
  }

  select(ticker, show) {
    this.selected = ticker;
    const index = this.order.indexOf(this.numberOf(ticker));
    if (show && index >= 0) {
      const top = index * HEIGHT, view = this.scroll.clientHeight - 2 * HEIGHT;
      if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
      else if (top > this.scroll.scrollTop + view) this.scroll.scrollTop = top - view;
    }
    this.draw();
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / HEIGHT) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (steps === undefined) return;
    event.preventDefault();
    this.step(steps);
  }

  step(steps) {
    if (!this.order.length) return;
    const current = this.order.indexOf(this.numberOf(this.selected));
    const next = Math.min(this.order.length - 1, Math.max(0, current + steps));
    this.onSelect(this.tickers[this.order[next]]);
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / HEIGHT) - 5);
    const room = Math.ceil((this.scroll.clientHeight || 600) / HEIGHT) + 10;
    const view = this.order.slice(first, first + room);
    const rows = new Map();
    for (const number of view) {
      const row = this.rows.get(number) ?? this.makeRow();
      this.fill(row, number);
      rows.set(number, row);
    }
    const below = Math.max(0, this.order.length - first - view.length);
    const elements = [this.space("above", first), ...[...rows.values()].map((row) => row.element), this.space("below", below)];
    // Move only what changed, so that a screen reader or a selection keeps its position.
    elements.forEach((element, n) => {
      if (this.body.children[n] !== element) this.body.insertBefore(element, this.body.children[n] ?? null);
    });
    while (this.body.children.length > elements.length) this.body.lastChild.remove();
    this.rows = rows;
    this.scroll.querySelector("table").setAttribute("aria-rowcount", this.order.length + 1);
    rows.forEach((row, number) => row.element.setAttribute("aria-rowindex", this.order.indexOf(number) + 2));
  }

  space(name, lines) {
    const element = (this[name] ??= (() => {
      const row = document.createElement("tr");
      row.className = "space";
      row.setAttribute("aria-hidden", "true");
      row.append(document.createElement("td"));
      return row;
    })());
    element.firstChild.style.height = `${lines * HEIGHT}px`;
    element.hidden = !lines;
    return element;
  }

  makeRow() {
    const element = document.createElement("tr");
    element.className = "line";
    const cells = COLUMNS.map((column) => {
      const cell = document.createElement("td");
      if (!column.text && column.key !== null) cell.classList.add("num");
      if (column.wide) cell.classList.add("wide");
      element.append(cell);
      return cell;
    });
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", "spark");
    svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 18`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const spark = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    svg.append(spark);
    cells[3].append(svg);
    return { element, cells, spark, text: [], mood: [] };
  }

  fill(row, number) {
    const line = this.lines[number], ticker = this.tickers[number];
    row.element.dataset.number = number;
    const selected = String(ticker === this.selected);
    if (row.element.getAttribute("aria-selected") !== selected) row.element.setAttribute("aria-selected", selected);
    const set = (n, text, mood = "") => {
      if (row.text[n] !== text) row.cells[n].textContent = row.text[n] = text;
      if (row.mood[n] !== mood) {
        if (row.mood[n]) row.cells[n].classList.remove(row.mood[n]);
        if (mood) row.cells[n].classList.add(mood);
        row.mood[n] = mood;
      }
    };
    const change = line[CHANGE];
    const mood = change > 0 ? "up" : change < 0 ? "down" : "";
    set(0, line[REFUSED] ? `${ticker} (refused)` : ticker, line[REFUSED] ? "warn" : "");
    row.cells[0].title = line[REFUSED] ? `${ticker}: ${line[REFUSED]}` : ticker;
    set(1, price(line[LAST]));
    set(2, percent(change), mood);
    set(4, rate(line[RATE]), line[RATE] ? "" : "zero");
    set(5, count(line[TRADES]), line[TRADES] ? "" : "zero");
    set(6, short(line[QUEUE]), line[QUEUE] ? "" : "zero");
    set(7, count(line[GAPS]), line[GAPS] > 1 ? "warn" : "zero"); // the first one is the initial connect
    set(8, short(line[QUARANTINED]), line[QUARANTINED] ? "warn" : "zero");
    this.drawSpark(row, this.sparks[number] ?? []);
  }

  drawSpark(row, points) {
    const known = points.filter((value) => value !== null);
    const low = Math.min(...known), high = Math.max(...known);
    const y = (value) => (high > low ? 17 - ((value - low) / (high - low)) * 16 : 9).toFixed(1);
    const path = points.map((value, n) => (value === null ? "" : `${n},${y(value)}`)).join(" ").trim();
    if (row.path === path) return;
    row.spark.setAttribute("points", (row.path = path));
    const change = known.length ? known[known.length - 1] - known[0] : 0;
    row.spark.parentNode.setAttribute("class", `spark ${change > 0 ? "up" : change < 0 ? "down" : "zero"}`);
  }
}
