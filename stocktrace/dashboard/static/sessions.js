// The start page: the sessions of the data folder.

import { count, duration, span, stamp, zone } from "./format.js";

const REFRESH_MS = 2000;
const WORDS = { running: "live", crashed: "crashed: run stocktrace recover", damaged: "damaged report" };
const MOODS = { running: "good", complete: "", recovered: "warn", interrupted: "warn", failed: "bad", crashed: "bad", damaged: "bad" };

export class Sessions {
  constructor({ section, body, none, offline }) {
    Object.assign(this, { section, body, none, offline });
    this.sessions = [];
    zone.listeners.push(() => this.draw());
  }

  show() {
    this.section.hidden = false;
    this.refresh();
  }

  async refresh() {
    try {
      const answer = await fetch("/api/sessions");
      if (!answer.ok) throw new Error(answer.statusText);
      this.sessions = await answer.json();
      this.offline(false);
      this.draw();
    } catch {
      this.offline(true);
    }
    setTimeout(() => this.refresh(), REFRESH_MS);
  }

  draw() {
    this.none.hidden = this.sessions.length > 0;
    this.body.replaceChildren(...this.sessions.map((session) => this.makeRow(session)));
  }

  makeRow(session) {
    const row = document.createElement("tr");
    const cell = (text, ...classes) => {
      const element = document.createElement("td");
      element.textContent = text;
      element.classList.add(...classes);
      row.append(element);
      return element;
    };
    const link = document.createElement("a");
    link.href = `/?session=${encodeURIComponent(session.session)}`;
    link.textContent = session.started ? stamp(Date.parse(session.started) / 1000) : session.session;
    cell("").append(link);
    const state = document.createElement("span");
    state.className = "pill";
    const odd = session.connection && session.connection !== "connected";
    state.dataset.mood = odd ? "warn" : MOODS[session.state] ?? "";
    state.textContent = odd ? session.connection : WORDS[session.state] ?? session.state;
    cell("").append(state);
    cell(span(session.seconds), "num");
    cell(count(session.tickers), "num");
    cell(session.trades === null ? "?" : count(session.trades), "num");
    cell(session.gaps ? `${count(session.gaps)} (${duration(session.gap_s)})` : "0", "num", session.outages ? "warn" : "zero");
    cell(count(session.quarantined), "num", "wide", session.quarantined ? "warn" : "zero");
    cell(session.session, "wide", "session");
    return row;
  }
}
