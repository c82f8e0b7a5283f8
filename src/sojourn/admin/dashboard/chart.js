/**
 * Lines: the little ones beside a figure, and a chart with a grid, prices at its right and times below.
 *
 * Knows numbers only. A chart says in words what it shows, for those who can't see it.
 */
const SVG = "http://www.w3.org/2000/svg";

function node(tag, attributes = {}) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const WIDTH = 120;
const HEIGHT = 32;

/**
 * A sparkline of the last values, the newest at the right; nothing at all is a calm flat line.
 *
 * @returns an element with `update(values)`.
 */
export function sparkline(label, tone = "") {
  const area = node("path", { class: "spark-area" });
  const line = node("path", { class: "spark-line" });
  const root = node("svg", { class: `spark ${tone}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label });
  root.append(area, line);
  root.update = (values) => {
    const top = Math.max(...values, 0);
    const step = WIDTH / Math.max(1, values.length - 1);
    const points = values.map((value, index) =>
      `${(index * step).toFixed(1)},${(HEIGHT - 2 - (top ? value / top : 0) * (HEIGHT - 5)).toFixed(1)}`);
    const path = points.length ? `M${points.join("L")}` : "";
    if (line.getAttribute("d") === path) return;
    line.setAttribute("d", path);
    area.setAttribute("d", path && `${path}L${WIDTH},${HEIGHT}L0,${HEIGHT}Z`);
    root.setAttribute("aria-label", `${label}: now ${round(values.at(-1) ?? 0)}, at most ${round(top)} in the last minute`);
  };
  return root;
}

function round(value) {
  return Math.abs(value) < 10 ? Math.round(value * 100) / 100 : Math.round(value);
}

const MARGIN = { top: 10, right: 64, bottom: 22, left: 8 };
const LINES = 4;

/**
 * A chart of one value over time, as wide as its place.
 *
 * @returns `{root, update(points)}`, of points `[seconds since 1970, value]`, the oldest first.
 */
export function chart(label, { height = 240, digits = 2 } = {}) {
  const root = node("svg", { class: "chart", role: "img", "aria-label": label });
  root.style.height = `${height}px`;
  const box = document.createElement("div");
  box.className = "chart-box";
  box.append(root);
  let points = [];
  const watcher = new ResizeObserver(() => draw());
  watcher.observe(box);

  function draw() {
    const width = box.clientWidth;
    if (!width) return;
    root.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    const values = points.map((point) => point[1]);
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (!points.length) [low, high] = [0, 1];
    const room = (high - low) * 0.12 || Math.abs(high) * 0.002 || 1;
    [low, high] = [low - room, high + room];
    const [from, to] = [points[0]?.[0] ?? 0, points.at(-1)?.[0] ?? 1];
    const x = (at) => MARGIN.left + (to > from ? (at - from) / (to - from) : 1) * inner.width;
    const y = (value) => MARGIN.top + (1 - (value - low) / (high - low)) * inner.height;
    const parts = [];
    for (let index = 0; index <= LINES; index += 1) {
      const value = low + ((high - low) * index) / LINES;
      parts.push(node("line", { class: "chart-grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }));
      const words = node("text", { class: "chart-word", x: width - MARGIN.right + 8, y: y(value) + 4 });
      words.textContent = value.toFixed(digits);
      parts.push(words);
    }
    if (points.length) {
      const path = `M${points.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join("L")}`;
      const floor = MARGIN.top + inner.height;
      parts.push(node("path", { class: "chart-area", d: `${path}L${x(to)},${floor}L${x(from)},${floor}Z` }));
      parts.push(node("path", { class: "chart-line", d: path }));
      const last = values.at(-1);
      parts.push(node("line", { class: "chart-now", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(last), y2: y(last) }));
      parts.push(node("rect", { class: "chart-flag", x: width - MARGIN.right + 3, y: y(last) - 10, width: MARGIN.right - 3, height: 20, rx: 4 }));
      const flag = node("text", { class: "chart-flag-word", x: width - MARGIN.right + 8, y: y(last) + 4 });
      flag.textContent = last.toFixed(digits);
      parts.push(flag, node("circle", { class: "chart-dot", cx: x(to), cy: y(last), r: 3 }));
      for (const [at, anchor] of [[from, "start"], [to, "end"]]) {
        const words = node("text", { class: "chart-word", x: x(at), y: height - 5, "text-anchor": anchor });
        words.textContent = new Date(at * 1000).toLocaleTimeString("en-GB");
        parts.push(words);
      }
      const change = last - values[0];
      root.setAttribute("aria-label", `${label}: ${last.toFixed(digits)}, ${change < 0 ? "down" : "up"} ${Math.abs(change).toFixed(digits)} since ${new Date(from * 1000).toLocaleTimeString("en-GB")}`);
    }
    root.replaceChildren(...parts);
  }
  return {
    root: box,
    update(next) {
      points = next;
      draw();
    },
    stop: () => watcher.disconnect(),
  };
}
