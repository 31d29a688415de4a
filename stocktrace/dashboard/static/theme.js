// The page's colours for the canvases, and an event when they change.

export function colours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  return Object.fromEntries(
    ["card", "line", "text", "soft", "accent", "up", "down", "warn", "gap", "area"].map((name) => [name, colour(name)]),
  );
}

export function onTheme(listener) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", listener);
}
