"use strict";
// The chart of one ticker: candles, volume, and shaded gaps.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const names = Object.keys(data.tickers);
  if (!names.length) return;
  const { createChart, CandlestickSeries, HistogramSeries } = LightweightCharts;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const first = Math.floor(data.begin / data.every) * data.every;
  const slots = Math.max(Math.ceil((data.end - first) / data.every), 1);
  const box = document.getElementById("chart");
  const select = document.getElementById("ticker");
  const legend = document.getElementById("legend");
  document.getElementById("charts").hidden = false;
  for (const name of names) select.add(new Option(name, name));

  // Draws gaps behind the bars, at their exact times.
  class Gaps {
    gaps = [];
    attached({ chart, requestUpdate }) { this.chart = chart; this.update = requestUpdate; }
    show(gaps) { this.gaps = gaps; this.update(); }
    paneViews() { return [{ zOrder: () => "bottom", renderer: () => ({ draw: (target) => this.draw(target) }) }]; }
    draw(target) {
      const scale = this.chart.timeScale(), wide = scale.options().barSpacing;
      const left = scale.logicalToCoordinate(0);
      if (left === null) return;
      const x = (time) => left + ((time - first) / data.every - 0.5) * wide;
      target.useMediaCoordinateSpace(({ context, mediaSize }) => {
        context.fillStyle = "rgba(191, 135, 0, 0.28)";
        for (const [from, to] of this.gaps) {
          context.fillRect(x(from), 0, Math.max(x(to) - x(from), 1.5), mediaSize.height);
        }
      });
    }
  }

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const look = () => ({
    layout: { background: { color: colour("--paper") }, textColor: colour("--faint"), attributionLogo: false, panes: { separatorColor: colour("--line") } },
    grid: { vertLines: { color: colour("--card") }, horzLines: { color: colour("--card") } },
    timeScale: { borderColor: colour("--line"), timeVisible: true, secondsVisible: data.every < 60, minBarSpacing: 0.05 },
    rightPriceScale: { borderColor: colour("--line") },
  });
  const chart = createChart(box, { ...look(), autoSize: true });
  const candles = chart.addSeries(CandlestickSeries, { upColor: "#26a69a", downColor: "#ef5350", borderVisible: false, wickUpColor: "#26a69a", wickDownColor: "#ef5350" });
  const volume = chart.addSeries(HistogramSeries, { priceFormat: { type: "volume" }, color: "#8c959f88", lastValueVisible: false, priceLineVisible: false }, 1);
  chart.panes()[1].setStretchFactor(0.25);
  chart.panes()[0].setStretchFactor(0.75);
  const shades = [candles, volume].map((series) => { const gaps = new Gaps(); series.attachPrimitive(gaps); return gaps; });
  dark.addEventListener("change", () => chart.applyOptions(look()));

  const text = (value) => value.toLocaleString("en", { maximumSignificantDigits: 8 });
  let bars = new Map();
  const showLegend = (bar) => {
    legend.textContent = bar ? `O ${text(bar[1])}  H ${text(bar[2])}  L ${text(bar[3])}  C ${text(bar[4])}  V ${text(bar[5])}  ${text(bar[6])} trade${bar[6] === 1 ? "" : "s"}` : "";
  };
  const show = (name) => {
    bars = new Map(data.tickers[name].map((bar) => [bar[0], bar]));
    const priced = data.tickers[name].filter((bar) => bar[4] !== null);
    const ranges = priced.map((bar) => bar[4]);
    const size = ranges.length ? Math.max(...ranges) : 1;
    const digits = size < 10 ? 5 : 2;
    candles.applyOptions({ priceFormat: { type: "price", precision: digits, minMove: 10 ** -digits } });
    // Every bar has a slot, so that the time axis is linear.
    const times = Array.from({ length: slots }, (_, at) => first + at * data.every);
    candles.setData(times.map((time) => {
      const bar = bars.get(time);
      return bar && bar[4] !== null ? { time, open: bar[1], high: bar[2], low: bar[3], close: bar[4] } : { time };
    }));
    volume.setData(times.map((time) => (bars.has(time) ? { time, value: bars.get(time)[5] } : { time })));
    const gaps = data.gaps.filter((gap) => gap[3] === null || gap[3].includes(name));
    for (const shade of shades) shade.show(gaps);
    chart.timeScale().fitContent();
    showLegend(priced[priced.length - 1]);
  };
  chart.subscribeCrosshairMove(({ time }) => {
    const bar = time === undefined ? undefined : bars.get(time);
    if (bar && bar[4] !== null) showLegend(bar);
  });
  select.addEventListener("change", () => show(select.value));
  show(names[0]);
})();
