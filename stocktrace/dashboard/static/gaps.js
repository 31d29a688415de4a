// Shades the gaps behind the series that it is attached to.

export class GapShading {
  constructor() {
    this.gaps = [];
    this.colour = "transparent";
    this.every = 1;
    this.origin = 0; // bars begin at multiples of `every` from here
    this.last = 0;
    this.views = [{ zOrder: () => "bottom", renderer: () => ({ draw: (target) => this.draw(target) }) }];
  }

  attached({ chart, requestUpdate }) {
    this.chart = chart;
    this.request = requestUpdate;
  }

  detached() {
    this.chart = null;
  }

  paneViews() {
    return this.views;
  }

  set(values) {
    Object.assign(this, values);
    this.request?.();
  }

  // Returns the gap that contains a time.
  gapAt(time) {
    return this.gaps.find(([start, end]) => time + this.every > start && time < (end ?? Infinity));
  }

  // Returns the x coordinate of a time: within its bar, which begins half a bar left of its middle.
  x(time) {
    const scale = this.chart.timeScale();
    const bar = Math.floor((time - this.origin) / this.every) * this.every + this.origin;
    const middle = scale.timeToCoordinate(bar);
    if (middle === null) return null;
    return middle + ((time - bar) / this.every - 0.5) * scale.options().barSpacing;
  }

  draw(target) {
    if (!this.chart) return;
    const range = this.chart.timeScale().getVisibleRange();
    if (!range) return;
    target.useBitmapCoordinateSpace(({ context, bitmapSize, horizontalPixelRatio }) => {
      context.fillStyle = this.colour;
      for (const [start, end] of this.gaps) {
        const to = Math.min(end ?? this.last + this.every, this.last + this.every);
        if (to < range.from || start > range.to + this.every) continue;
        const left = this.x(Math.max(start, range.from)) ?? 0;
        const right = this.x(Math.min(to, range.to + this.every - 1e-3));
        if (right === null) continue;
        // At least two pixels, so that a short gap is visible.
        const width = Math.max(2, right - left);
        context.fillRect(left * horizontalPixelRatio, 0, width * horizontalPixelRatio, bitmapSize.height);
      }
    });
  }
}
