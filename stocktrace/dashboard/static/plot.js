// What all charts of the page have in common: colours, fonts, and times in the chosen zone.

import { clock, day, minute, zone } from "./format.js";
import { colours, onTheme } from "./theme.js";

const { createChart, ColorType, CrosshairMode, TickMarkType } = LightweightCharts;

function mark(time, kind) {
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
    timeScale: { timeVisible: true, secondsVisible: true, tickMarkFormatter: mark, ...options.timeScale },
    crosshair: { mode: CrosshairMode.Normal },
  });
  const dress = () => {
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
  dress();
  onTheme(dress);
  // The words on the axis are made anew when an option changes.
  zone.listeners.push(() => chart.applyOptions({ localization: {}, timeScale: { tickMarkFormatter: (t, k) => mark(t, k) } }));
  return chart;
}
