// The chart of one ticker: candles, volume, and the gaps.
//
// The axis is one of time: a second in which nothing was traded takes the room of one in which
// something was, so that silence and gaps have their length. Such bars are blank ("whitespace").

import { clock, count, counted, digits, duration, percent, price } from "./format.js";
import { Gaps } from "./gaps.js";
import { plot } from "./plot.js";

const { CandlestickSeries, HistogramSeries, LineStyle } = LightweightCharts;
const MOST = 7200;
const AT_FIRST = 80; // bars in view when a chart is opened: candles wide enough to read,
const OVER = 240; // and more of a session that is over
const ROOM = 3; // bars' room right of the newest

export class Candles {
  constructor({ element, title, legend, text, newest }) {
    Object.assign(this, { title, legend, text });
    this.bars = new Map();
    this.last = 0;
    this.first = 0;
    this.every = 5;
    this.ticker = "";
    this.gaps = [new Gaps(), new Gaps()]; // one a pane
    this.chart = plot(element, { timeScale: { minBarSpacing: 0.2, shiftVisibleRangeOnNewBar: false } }, (c) => this.paint(c));
    this.candles = this.chart.addSeries(CandlestickSeries, { priceLineStyle: LineStyle.Dotted, borderVisible: false });
    this.volume = this.chart.addSeries(HistogramSeries, {
      priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false,
    }, 1);
    this.chart.panes()[0].setStretchFactor(4);
    this.chart.panes()[1].setStretchFactor(1);
    this.candles.attachPrimitive(this.gaps[0]);
    this.volume.attachPrimitive(this.gaps[1]);
    this.paint(this.colours);
    this.chart.subscribeCrosshairMove((move) => this.point(move.time ?? null));
    // The newest bar stays in view until somebody looks elsewhere.
    this.following = true;
    let touched = false;
    for (const kind of ["wheel", "pointerdown"]) element.addEventListener(kind, () => (touched = true), { passive: true });
    newest.addEventListener("click", () => this.follow(this.width()));
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => {
      if (touched && range) this.following = range.to >= this.length() - 1;
      newest.hidden = this.following;
    });
  }

  paint(c) {
    this.colours = c;
    if (!this.candles) return;
    this.candles.applyOptions({ upColor: c.up, downColor: c.down, wickUpColor: c.up, wickDownColor: c.down });
    this.shade({ colour: c.gap });
    if (this.bars.size) this.volume.setData(this.times().map((t) => this.volumeOf(t)));
  }

  take({ ticker, every, whole, bars, gaps }, now) {
    if (gaps) this.shade({ stretches: gaps });
    const fresh = whole || ticker !== this.ticker || every !== this.every;
    const began = fresh && (ticker !== this.ticker || every !== this.every || !this.bars.size);
    if (fresh) {
      this.bars.clear();
      Object.assign(this, { ticker, every, first: 0, last: 0 });
      this.candles.setData([]);
      this.volume.setData([]);
    }
    for (const [time, open, high, low, close, volume, trades] of bars) {
      this.bars.set(time, { time, open, high, low, close, volume, trades });
    }
    this.extend(bars, fresh, now);
    if (began && this.bars.size) this.follow(now ? AT_FIRST : Math.min(OVER, Math.max(20, this.length()) + ROOM));
    else if (this.following) this.follow(this.width());
    this.point(this.pointed ?? null);
    this.describe();
  }

  // From the first bar on there is one for every interval, up to now or to the newest.
  extend(bars, fresh, now) {
    const newest = bars.length ? bars[bars.length - 1][0] : this.last;
    const to = Math.max(newest, now ? Math.floor(now / this.every) * this.every : 0, this.last);
    if (!this.bars.size) return;
    if (fresh || to - this.first > MOST * this.every * 1.2) {
      this.first = Math.max(Math.min(...this.bars.keys()), to - (MOST - 1) * this.every);
      for (const time of this.bars.keys()) if (time < this.first) this.bars.delete(time);
      this.last = to;
      const place = fresh ? this.places() : null;
      const times = this.times();
      this.candles.setData(times.map((t) => this.candleOf(t)));
      this.volume.setData(times.map((t) => this.volumeOf(t)));
      if (place) this.candles.applyOptions({ priceFormat: { type: "price", precision: place, minMove: 10 ** -place } });
    } else {
      const from = Math.max(this.first, Math.min(bars.length ? bars[0][0] : to, this.last));
      for (let time = from; time <= to; time += this.every) {
        const historical = time < this.last;
        this.candles.update(this.candleOf(time), historical);
        this.volume.update(this.volumeOf(time), historical);
      }
      this.last = to;
    }
    this.shade({ every: this.every, last: this.last });
  }

  shade(facts) {
    for (const gaps of this.gaps) gaps.set(facts);
  }

  times() {
    return Array.from({ length: (this.last - this.first) / this.every + 1 }, (_, n) => this.first + n * this.every);
  }

  candleOf(time) {
    const bar = this.bars.get(time);
    if (!bar || bar.close === null) return { time };
    return { time, open: bar.open, high: bar.high, low: bar.low, close: bar.close };
  }

  volumeOf(time) {
    const bar = this.bars.get(time);
    if (!bar) return { time };
    const colour = bar.close === null ? this.colours.soft : bar.close >= bar.open ? this.colours.up : this.colours.down;
    return { time, value: bar.volume, color: `${colour}90` };
  }

  places() {
    for (const bar of this.bars.values()) if (bar.close !== null) return digits(bar.close);
    return 2;
  }

  length() {
    return this.last ? (this.last - this.first) / this.every + 1 : 0;
  }

  width() {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    return range ? range.to - range.from : AT_FIRST;
  }

  // A young chart grows from the left, an old one has its newest bars in view.
  follow(width) {
    this.following = true;
    const to = Math.max(this.length() - 1 + ROOM, width - 1);
    this.chart.timeScale().setVisibleLogicalRange({ from: to - width, to });
  }

  point(time) {
    this.pointed = time;
    const at = time ?? this.newestPriced();
    const bar = this.bars.get(at);
    const gap = time !== null && this.gaps[0].at(time);
    this.legend.replaceChildren();
    const add = (text, tag = "span") => {
      const part = document.createElement(tag);
      part.textContent = text;
      this.legend.append(part, " ");
    };
    if (time !== null) add(clock(time));
    if (bar && bar.close !== null) {
      const change = ((bar.close / bar.open) - 1) * 100;
      for (const [letter, value] of [["O", bar.open], ["H", bar.high], ["L", bar.low], ["C", bar.close]]) {
        add(letter);
        add(price(value), "b");
      }
      add(`${percent(change)} %`);
    }
    if (bar) {
      add("V");
      add(count(bar.volume), "b");
      add(counted(bar.trades, "trade"));
    } else if (time !== null && !gap) add("no trades");
    if (gap) add(`not listening: ${gap[2]}`, "b");
  }

  newestPriced() {
    for (let time = this.last; time >= this.first && time > 0; time -= this.every) {
      const bar = this.bars.get(time);
      if (bar && bar.close !== null) return time;
    }
    return this.last;
  }

  describe() {
    this.title.textContent = this.ticker || "no ticker";
    const bar = this.bars.get(this.newestPriced());
    const gaps = this.gaps[0].stretches.length;
    this.text.textContent = !bar ? "No trades yet." :
      `Candles of ${duration(this.every)}; the newest with a price at ${clock(bar.time)}: ` +
      `open ${price(bar.open)}, high ${price(bar.high)}, low ${price(bar.low)}, close ${price(bar.close)}, ` +
      `volume ${count(bar.volume)}. ${counted(gaps, "gap")} in the session.`;
  }
}
