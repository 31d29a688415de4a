// Trades a second and lag over the whole session.

import { clock, count, ms, rate } from "./format.js";
import { GapShading } from "./gaps.js";
import { plot } from "./plot.js";

const { AreaSeries, LineSeries } = LightweightCharts;
const quiet = { priceLineVisible: false, lastValueVisible: false, crosshairMarkerRadius: 3, lineWidth: 1.5 };

class Series {
  constructor(element, legend, options) {
    this.legend = legend;
    this.points = [];
    this.shading = new GapShading();
    this.chart = plot(element, { timeScale: { shiftVisibleRangeOnNewBar: false, minBarSpacing: 0.05 }, ...options }, (c) => {
      this.colours = c;
      this.shading.set({ colour: c.gap });
      this.paint?.(c);
    });
    // The whole session is in view until the user zooms or scrolls; a double click restores that.
    this.following = true;
    for (const kind of ["wheel", "pointerdown"]) element.addEventListener(kind, () => (this.following = false), { passive: true });
    element.addEventListener("dblclick", () => {
      this.following = true;
      this.chart.timeScale().fitContent();
    });
    this.chart.subscribeCrosshairMove((move) => this.showLegend(move.time ?? null));
  }

  setGaps(gaps) {
    this.shading.set({ gaps });
  }

  update({ whole, points, step_s: step }) {
    if (whole) {
      this.points = points;
      for (const [series, index] of this.lines()) series.setData(points.map((p) => at(p, index)));
    } else {
      for (const point of points) {
        this.points.push(point);
        for (const [series, index] of this.lines()) series.update(at(point, index));
      }
    }
    this.step = step;
    if (this.points.length) this.shading.set({ every: step, origin: this.points[0][0], last: this.points[this.points.length - 1][0] });
    if (this.following && points.length) this.chart.timeScale().fitContent();
    this.showLegend(this.pointed ?? null);
  }

  showLegend(time) {
    this.pointed = time;
    const point = time === null ? this.points.findLast((p) => p[2] !== null) : this.points.find((p) => p[0] === time);
    this.legend.textContent = point ? this.describe(point, time === null ? "" : `${clock(time)}  `) : "";
  }
}

const at = (point, index) => (point[index] === null ? { time: point[0] } : { time: point[0], value: point[index] });

export class RateChart extends Series {
  constructor(element, legend) {
    super(element, legend, { rightPriceScale: { scaleMargins: { top: 0.1, bottom: 0 } } });
    this.area = this.chart.addSeries(AreaSeries, {
      ...quiet, priceFormat: { type: "custom", formatter: (v) => count(v), minMove: 1 },
      autoscaleInfoProvider: (original) => { // the axis begins at 0
        const info = original();
        if (info?.priceRange) info.priceRange.minValue = 0;
        return info;
      },
    });
    this.paint = (c) => this.area.applyOptions({ lineColor: c.accent, topColor: c.area, bottomColor: "transparent" });
    this.paint(this.colours);
    this.area.attachPrimitive(this.shading);
  }

  lines() {
    return [[this.area, 1]];
  }

  describe(point, prefix) {
    return `${prefix}${rate(point[1])} (${this.step ?? 1} s average)`;
  }
}

export class LagChart extends Series {
  constructor(element, legend) {
    super(element, legend, { rightPriceScale: { scaleMargins: { top: 0.1, bottom: 0.05 } } });
    const line = () => this.chart.addSeries(LineSeries, { ...quiet, priceFormat: { type: "custom", formatter: ms, minMove: 0.1 } });
    this.series = [line(), line(), line()];
    this.paint = (c) => [c.up, c.warn, c.down].forEach((color, n) => this.series[n].applyOptions({ color }));
    this.paint(this.colours);
    this.series[0].attachPrimitive(this.shading);
  }

  lines() {
    return this.series.map((series, n) => [series, n + 2]);
  }

  describe(point, prefix) {
    return `${prefix}p50 ${ms(point[2])}, p95 ${ms(point[3])}, p99 ${ms(point[4])}`;
  }
}
