// The common part of all charts: colours, fonts, and times in the selected zone.

import { clock, day, minute, zone } from "./format.js";
import { colours, onTheme } from "./theme.js";

const { createChart, ColorType, CrosshairMode, TickMarkType } = LightweightCharts;

function tickLabel(time, kind) {
  if (kind === TickMarkType.TimeWithSeconds) return clock(time);
  return kind === TickMarkType.Time ? minute(time) : day(time);
}

// Calls `paint` with the colours now and whenever they change.
export function plot(element, options, paint) {
  const chart = createChart(element, {
    autoSize: true,
    ...options,
    layout: { attributionLogo: false, fontSize: 11, panes: { separatorColor: "transparent" } },
    localization: { timeFormatter: (time) => `${day(time)} ${clock(time)}` },
    timeScale: { timeVisible: true, secondsVisible: true, tickMarkFormatter: tickLabel, ...options.timeScale },
    crosshair: { mode: CrosshairMode.Normal },
  });
  const applyColours = () => {
    const c = colours();
    const font = getComputedStyle(document.body).fontFamily;
    chart.applyOptions({
      layout: {
        background: { type: ColorType.Solid, color: c.card },
        textColor: c.soft,
        fontFamily: font,
        panes: { separatorColor: c.line },
      },
      grid: { vertLines: { color: c.line }, horzLines: { color: c.line } },
      timeScale: { borderColor: c.line },
      rightPriceScale: { borderColor: c.line },
    });
    paint(c);
  };
  applyColours();
  onTheme(applyColours);
  // Changing an option makes the chart format the labels of the axis again.
  zone.listeners.push(() => chart.applyOptions({ localization: {}, timeScale: { tickMarkFormatter: (t, k) => tickLabel(t, k) } }));
  return chart;
}
