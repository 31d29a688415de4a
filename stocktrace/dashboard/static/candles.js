// The chart of one ticker: candles, volume, and the gaps.
//
// The axis is linear in time: a second without trades is as wide as one with trades, so that gaps
// have their true length. Such bars are blank ("whitespace").

import { clock, count, counted, digits, duration, percent, price } from "./format.js";
import { GapShading } from "./gaps.js";
import { plot } from "./plot.js";

const { CandlestickSeries, HistogramSeries, LineStyle } = LightweightCharts;
const MAX_BARS = 7200;
const LIVE_BARS = 80; // bars in view when a live chart is opened: wide enough to read
const ENDED_BARS = 240; // the same for a session that has ended
const MARGIN_BARS = 3; // free space right of the newest bar

export class Candles {
  constructor({ element, title, legend, text, newest }) {
    Object.assign(this, { title, legend, text });
    this.bars = new Map();
    this.last = 0;
    this.first = 0;
    this.every = 5;
    this.ticker = "";
    this.shadings = [new GapShading(), new GapShading()]; // one per pane
    this.chart = plot(element, { timeScale: { minBarSpacing: 0.2, shiftVisibleRangeOnNewBar: false } }, (c) => this.paint(c));
    this.candles = this.chart.addSeries(CandlestickSeries, { priceLineStyle: LineStyle.Dotted, borderVisible: false });
    this.volume = this.chart.addSeries(HistogramSeries, {
      priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false,
    }, 1);
    this.chart.panes()[0].setStretchFactor(4);
    this.chart.panes()[1].setStretchFactor(1);
    this.candles.attachPrimitive(this.shadings[0]);
    this.volume.attachPrimitive(this.shadings[1]);
    this.paint(this.colours);
    this.chart.subscribeCrosshairMove((move) => this.showLegend(move.time ?? null));
    // The newest bar stays in view until the user scrolls away.
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
    this.setShading({ colour: c.gap });
    if (this.bars.size) this.volume.setData(this.times().map((t) => this.volumeOf(t)));
  }

  update({ ticker, every, whole, bars, gaps }, now) {
    if (gaps) this.setShading({ gaps });
    const fresh = whole || ticker !== this.ticker || every !== this.every;
    const isNew = fresh && (ticker !== this.ticker || every !== this.every || !this.bars.size);
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
    if (isNew && this.bars.size) this.follow(now ? LIVE_BARS : Math.min(ENDED_BARS, Math.max(20, this.length()) + MARGIN_BARS));
    else if (this.following) this.follow(this.width());
    this.showLegend(this.pointed ?? null);
    this.describe();
  }

  // Fills the chart with a bar for every interval, from the first bar up to now or to the newest.
  extend(bars, fresh, now) {
    const newest = bars.length ? bars[bars.length - 1][0] : this.last;
    const to = Math.max(newest, now ? Math.floor(now / this.every) * this.every : 0, this.last);
    if (!this.bars.size) return;
    if (fresh || to - this.first > MAX_BARS * this.every * 1.2) {
      this.first = Math.max(Math.min(...this.bars.keys()), to - (MAX_BARS - 1) * this.every);
      for (const time of this.bars.keys()) if (time < this.first) this.bars.delete(time);
      this.last = to;
      const precision = fresh ? this.precision() : null;
      const times = this.times();
      this.candles.setData(times.map((t) => this.candleOf(t)));
      this.volume.setData(times.map((t) => this.volumeOf(t)));
      if (precision) this.candles.applyOptions({ priceFormat: { type: "price", precision, minMove: 10 ** -precision } });
    } else {
      const from = Math.max(this.first, Math.min(bars.length ? bars[0][0] : to, this.last));
      for (let time = from; time <= to; time += this.every) {
        const historical = time < this.last;
        this.candles.update(this.candleOf(time), historical);
        this.volume.update(this.volumeOf(time), historical);
      }
      this.last = to;
    }
    this.setShading({ every: this.every, last: this.last });
  }

  setShading(values) {
    for (const shading of this.shadings) shading.set(values);
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

  precision() {
    for (const bar of this.bars.values()) if (bar.close !== null) return digits(bar.close);
    return 2;
  }

  length() {
    return this.last ? (this.last - this.first) / this.every + 1 : 0;
  }

  width() {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    return range ? range.to - range.from : LIVE_BARS;
  }

  // Shows the newest bars; a chart with fewer bars grows from the left.
  follow(width) {
    this.following = true;
    const to = Math.max(this.length() - 1 + MARGIN_BARS, width - 1);
    this.chart.timeScale().setVisibleLogicalRange({ from: to - width, to });
  }

  showLegend(time) {
    this.pointed = time;
    const at = time ?? this.newestPriced();
    const bar = this.bars.get(at);
    const gap = time !== null && this.shadings[0].gapAt(time);
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
    if (gap) add(`gap: ${gap[2]}`, "b");
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
    const gaps = this.shadings[0].gaps.length;
    this.text.textContent = !bar ? "No trades yet." :
      `Candles of ${duration(this.every)}. The newest with a price, at ${clock(bar.time)}: ` +
      `open ${price(bar.open)}, high ${price(bar.high)}, low ${price(bar.low)}, close ${price(bar.close)}, ` +
      `volume ${count(bar.volume)}. ${counted(gaps, "gap")} in the session.`;
  }
}
