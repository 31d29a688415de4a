// Trades a second and lag over the whole session.

import { clock, count, ms, rate } from "./format.js";
import { Gaps } from "./gaps.js";
import { plot } from "./plot.js";

const { AreaSeries, LineSeries } = LightweightCharts;
const quiet = { priceLineVisible: false, lastValueVisible: false, crosshairMarkerRadius: 3, lineWidth: 1.5 };

class Series {
  constructor(element, legend, options) {
    this.legend = legend;
    this.points = [];
    this.gaps = new Gaps();
    this.chart = plot(element, { timeScale: { shiftVisibleRangeOnNewBar: false, minBarSpacing: 0.05 }, ...options }, (c) => {
      this.colours = c;
      this.gaps.set({ colour: c.gap });
      this.paint?.(c);
    });
    // The whole session is in view until somebody looks at a part of it; a double click brings it back.
    this.following = true;
    for (const kind of ["wheel", "pointerdown"]) element.addEventListener(kind, () => (this.following = false), { passive: true });
    element.addEventListener("dblclick", () => {
      this.following = true;
      this.chart.timeScale().fitContent();
    });
    this.chart.subscribeCrosshairMove((move) => this.tell(move.time ?? null));
  }

  shade(stretches) {
    this.gaps.set({ stretches });
  }

  take({ whole, points, every }) {
    if (whole) {
      this.points = points;
      for (const [series, index] of this.lines()) series.setData(points.map((p) => at(p, index)));
    } else {
      for (const point of points) {
        this.points.push(point);
        for (const [series, index] of this.lines()) series.update(at(point, index));
      }
    }
    this.every = every;
    if (this.points.length) this.gaps.set({ every, origin: this.points[0][0], last: this.points[this.points.length - 1][0] });
    if (this.following && points.length) this.chart.timeScale().fitContent();
    this.tell(this.pointed ?? null);
  }

  tell(time) {
    this.pointed = time;
    const point = time === null ? this.points.findLast((p) => p[2] !== null) : this.points.find((p) => p[0] === time);
    this.legend.textContent = point ? this.words(point, time === null ? "" : `${clock(time)}  `) : "";
  }
}

const at = (point, index) => (point[index] === null ? { time: point[0] } : { time: point[0], value: point[index] });

export class Rate extends Series {
  constructor(element, legend) {
    super(element, legend, { rightPriceScale: { scaleMargins: { top: 0.1, bottom: 0 } } });
    this.area = this.chart.addSeries(AreaSeries, {
      ...quiet, priceFormat: { type: "custom", formatter: (v) => count(v), minMove: 1 },
      autoscaleInfoProvider: (original) => { // a rate begins at nothing
        const info = original();
        if (info?.priceRange) info.priceRange.minValue = 0;
        return info;
      },
    });
    this.paint = (c) => this.area.applyOptions({ lineColor: c.accent, topColor: c.area, bottomColor: "transparent" });
    this.paint(this.colours);
    this.area.attachPrimitive(this.gaps);
  }

  lines() {
    return [[this.area, 1]];
  }

  words(point, when) {
    return `${when}${rate(point[1])} a second, in steps of ${this.every ?? 1} s`;
  }
}

export class Lag extends Series {
  constructor(element, legend) {
    super(element, legend, { rightPriceScale: { scaleMargins: { top: 0.1, bottom: 0.05 } } });
    const line = () => this.chart.addSeries(LineSeries, { ...quiet, priceFormat: { type: "custom", formatter: ms, minMove: 0.1 } });
    this.series = [line(), line(), line()];
    this.paint = (c) => [c.up, c.warn, c.down].forEach((color, n) => this.series[n].applyOptions({ color }));
    this.paint(this.colours);
    this.series[0].attachPrimitive(this.gaps);
  }

  lines() {
    return this.series.map((series, n) => [series, n + 2]);
  }

  words(point, when) {
    return `${when}half within ${ms(point[2])}, 95 % ${ms(point[3])}, 99 % ${ms(point[4])}`;
  }
}
