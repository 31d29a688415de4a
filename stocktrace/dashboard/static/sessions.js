// The first page: the sessions of the data folder.

import { count, duration, span, stamp, zone } from "./format.js";

const AGAIN_MS = 2000;
const WORDS = { running: "live", dead: "died: run stocktrace recover", damaged: "its report is damaged" };
const MOODS = { running: "good", complete: "", recovered: "warn", interrupted: "warn", failed: "bad", dead: "bad", damaged: "bad" };

export class Sessions {
  constructor({ section, body, none, lost }) {
    Object.assign(this, { section, body, none, lost });
    this.found = [];
    zone.listeners.push(() => this.draw());
  }

  show() {
    this.section.hidden = false;
    this.ask();
  }

  hide() {
    this.section.hidden = true;
    clearTimeout(this.timer);
  }

  async ask() {
    try {
      const answer = await fetch("/api/sessions");
      if (!answer.ok) throw new Error(answer.statusText);
      this.found = await answer.json();
      this.lost(false);
      this.draw();
    } catch {
      this.lost(true);
    }
    if (!this.section.hidden) this.timer = setTimeout(() => this.ask(), AGAIN_MS);
  }

  draw() {
    this.none.hidden = this.found.length > 0;
    this.body.replaceChildren(...this.found.map((one) => this.line(one)));
  }

  line(one) {
    const row = document.createElement("tr");
    const cell = (text, ...classes) => {
      const element = document.createElement("td");
      element.textContent = text;
      element.classList.add(...classes);
      row.append(element);
      return element;
    };
    const link = document.createElement("a");
    link.href = `/?session=${encodeURIComponent(one.session)}`;
    link.textContent = one.started ? stamp(Date.parse(one.started) / 1000) : one.session;
    cell("").append(link);
    const state = document.createElement("span");
    state.className = "pill";
    state.dataset.mood = MOODS[one.state] ?? "";
    state.textContent = WORDS[one.state] ?? one.state;
    cell("").append(state);
    cell(span(one.seconds), "num");
    cell(count(one.tickers), "num");
    cell(one.trades === null ? "?" : count(one.trades), "num");
    cell(one.gaps ? `${count(one.gaps)} (${duration(one.gap_s)})` : "0", "num", one.outages ? "warn" : "zero");
    cell(count(one.quarantined), "num", "wide", one.quarantined ? "warn" : "zero");
    cell(one.session, "wide", "session");
    return row;
  }
}
