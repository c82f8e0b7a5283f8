/**
 * The parts that pages and panels are made of: elements, tables, badges, words for times and numbers, dialogs.
 *
 * Whatever comes from a server or a peer becomes a text node or an attribute's value here, never markup. Knows no page
 * and no address.
 */
export { chart, sparkline } from "./chart.js";
export { VirtualList } from "./list.js";

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. Properties: `class`, `data` and `on` (objects), any attribute; null, undefined and false leave it out. */
export function el(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same in SVG's namespace. */
export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [kind, listener] of Object.entries(value)) node.addEventListener(kind, listener);
    else if (name === "data") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
}

/** Put other children into an element. */
export function fill(node, ...children) {
  node.replaceChildren();
  append(node, children);
  return node;
}

/** Set a text only where it has changed: what stays is not painted again. */
export function say(node, text) {
  const wanted = String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

const ICONS = {
  overview: "M3 12h4l3-8 4 16 3-8h4",
  sessions: "M6 4v16M18 4v16M6 9h11m0 0-3-3m3 3-3 3M18 16H7m0 0 3-3m-3 3 3 3",
  gateways: "M4 5h16v5H4zM4 14h16v5H4zM8 7.5h.01M8 16.5h.01",
  events: "M5 6h14M5 12h14M5 18h9",
  config: "M4 7h9m4 0h3M4 17h3m4 0h9M15 5v4M9 15v4",
  light: "M12 4V2m0 20v-2m8-8h2M2 12h2m13.7-5.7 1.4-1.4M4.9 19.1l1.4-1.4m0-11.4L4.9 4.9m14.2 14.2-1.4-1.4M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8Z",
  dark: "M20 14.5A8 8 0 0 1 9.5 4 8 8 0 1 0 20 14.5Z",
  auto: "M12 3a9 9 0 1 0 0 18Zm0 0a9 9 0 0 1 0 18",
  close: "M6 6l12 12M18 6 6 18",
  check: "M5 12.5 10 17 19 7",
  warn: "M12 4 2.8 20h18.4L12 4Zm0 6v4m0 3h.01",
  right: "m9 6 6 6-6 6",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13Zm5-1.5L20 20",
  download: "M12 4v11m0 0-4-4m4 4 4-4M5 20h14",
  leave: "M14 4h5v16h-5M4 12h10m0 0-4-4m4 4-4 4",
};

/** An icon; it says nothing by itself: the control that it stands in has a name. */
export function icon(name) {
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}

/** A word on a coloured ground: `ok`, `warn`, `bad`, `info` or nothing for plain. */
export function badge(text, tone = "") {
  return el("span", { class: `badge ${tone}` }, text);
}

const STATE_TONES = { open: "ok", failed: "bad", finished: "" };

/** The badge of a session's state. */
export function stateBadge(state) {
  return badge(state, STATE_TONES[state] ?? "warn");
}

/** A button. Tones: `primary`, `danger`, `quiet`. */
export function button(text, onClick, { tone = "", symbol = null, label = null, disabled = false, title = null } = {}) {
  return el(
    "button",
    { type: "button", class: `button ${tone}`, "aria-label": label, disabled, title, on: { click: onClick } },
    symbol && icon(symbol),
    text && el("span", {}, text),
  );
}

/** A box with a heading, which names it for those who listen instead of looking. */
export function card(title, { hint = null, actions = null, level = 2, tone = "" } = {}, ...children) {
  const id = `card-${(cards += 1)}`;
  return el(
    "section",
    { class: `card ${tone}`, "aria-labelledby": id },
    el("header", { class: "card-head" },
      el(`h${level}`, { id }, title), hint && el("p", { class: "hint" }, hint), actions && el("div", { class: "actions" }, actions)),
    children,
  );
}
let cards = 0;

/** What stands where a list would be empty: what is missing, and when it will be there. */
export function nothing(text, symbol = "check") {
  return el("p", { class: "nothing" }, icon(symbol), el("span", {}, text));
}

/** A name and its value, side by side; values may be nodes. */
export function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value, title]) =>
    el("div", { title }, el("dt", {}, name), el("dd", {}, value === "" || value === null || value === undefined ? "–" : value))));
}

/** A figure with its unit underneath, for the head of a page. */
export function figure(label, value, tone = "") {
  const shown = el("b", { class: tone }, value);
  return Object.assign(el("div", { class: "figure" }, shown, el("span", {}, label)), { set: (text) => say(shown, text) });
}

/**
 * A table of at most some rows, kept up to date by `update(rows)`: lines are found again by `key`, so that what is
 * focused or selected stays so.
 *
 * Columns: `{title, value(row) -> text or node, numeric, mono, wide, title: head, hint}`. A row of which `link(row)` gives an
 * address can be opened. On a phone the cells of a row stand below each other, each with its column's name.
 */
export function table(label, columns, { key, link = null, empty = "Nothing yet", limit = 200 } = {}) {
  const body = el("tbody");
  const head = el("tr", {}, columns.map((column) =>
    el("th", { scope: "col", class: column.numeric ? "number" : null, title: column.hint }, column.title)));
  const grid = el("table", {}, el("caption", { class: "unseen" }, label), el("thead", {}, head), body);
  const scroll = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, grid);
  const none = nothing(empty);
  const more = el("p", { class: "more" });
  const root = el("div", { class: "table" }, none, scroll, more);
  const lines = new Map();

  function line(row) {
    const cells = columns.map((column) =>
      el("td", { class: [column.numeric && "number", column.mono && "mono", column.wide && "wide"].filter(Boolean).join(" ") || null, data: { name: column.title } }));
    return { cells, node: el("tr", {}, cells), shown: [] };
  }

  function update(rows) {
    const shown = rows.slice(0, limit);
    none.hidden = shown.length > 0;
    scroll.hidden = shown.length === 0;
    more.hidden = rows.length <= limit;
    say(more, `${count(rows.length - limit)} more`);
    const known = new Set();
    for (const row of shown) {
      const name = key(row);
      if (known.has(name)) continue;
      known.add(name);
      let entry = lines.get(name);
      if (!entry) lines.set(name, (entry = line(row)));
      columns.forEach((column, index) => {
        const value = column.value(row) ?? "";
        if (value instanceof Node) {
          // A cell that has the same already is left alone, but for what its buttons do: they mean this row.
          const old = entry.cells[index].firstChild;
          if (!old || !value.isEqualNode(old)) fill(entry.cells[index], value);
        } else if (entry.shown[index] !== value) {
          const address = index === 0 && link ? link(row) : null;
          fill(entry.cells[index], address ? el("a", { href: address }, String(value)) : String(value));
          if (!column.numeric) entry.cells[index].title = String(value);
        }
        entry.shown[index] = value instanceof Node ? null : value;
      });
    }
    // Those that are gone leave first, so that those that stay need not move; what moves would lose the focus.
    const focused = document.activeElement;
    for (const [name, entry] of lines) {
      if (!known.has(name)) {
        entry.node.remove();
        lines.delete(name);
      }
    }
    let wanted = body.firstChild;
    for (const name of known) {
      const { node } = lines.get(name);
      if (node === wanted) wanted = node.nextSibling;
      else body.insertBefore(node, wanted);
    }
    if (focused !== document.activeElement && body.contains(focused)) focused.focus({ preventScroll: true });
  }
  update([]);
  return { root, update };
}

const NUMBERS = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

/** A count: 1,234. */
export function count(value) {
  return NUMBERS.format(value ?? 0);
}

/** A count where there is little room: 1.2K. */
export function short(value) {
  return Math.abs(value ?? 0) < 10_000 ? NUMBERS.format(Math.round((value ?? 0) * 10) / 10) : SHORT.format(value);
}

/** A rate: 0, 0.3, 12, 1,234. */
export function rate(value) {
  return !value ? "0" : value < 10 ? value.toFixed(1).replace(/\.0$/u, "") : NUMBERS.format(Math.round(value));
}

/** A number of bytes: 312 B, 4.1 KiB. */
export function bytes(value) {
  let rest = value ?? 0;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (rest < 1024) return `${unit === "B" ? rest : rest.toFixed(rest < 10 ? 1 : 0)} ${unit}`;
    rest /= 1024;
  }
  return `${rest.toFixed(1)} TiB`;
}

/** A length of time in seconds: 0.4 ms, 12 ms, 3.2 s, 4 min 05 s, 2 h 10 min, 3 d 4 h. */
export function lasting(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  const value = Math.max(0, seconds);
  if (value < 0.000_05) return "0 s";
  if (value < 0.01) return `${(value * 1000).toFixed(1)} ms`;
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 10) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** A moment, from seconds since 1970: 14:03:22 today, 3 Mar, 14:03:22 before. */
export function moment(at) {
  if (!at) return "–";
  const date = new Date(at * 1000);
  return (Math.abs(Date.now() - date) < 43_200_000 ? CLOCK : DAY).format(date);
}

/** How long ago a moment was. */
export function ago(at, now = Date.now() / 1000) {
  if (!at) return "–";
  const seconds = Math.floor(now - at);
  return seconds < 2 ? "just now" : `${seconds < 60 ? `${seconds} s` : lasting(seconds)} ago`;
}

/** Ask before something that can't be undone; resolves to whether it is wanted. Escape and the first button say no. */
export function confirm({ title, text, verb, tone = "danger" }) {
  return new Promise((resolve) => {
    const dialog = el("dialog", { class: "dialog", "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text" },
      el("form", { method: "dialog" },
        el("h2", { id: "confirm-title" }, title),
        el("p", { id: "confirm-text" }, text),
        el("div", { class: "actions" },
          el("button", { class: "button", value: "" }, "Cancel"),
          el("button", { class: `button ${tone}`, value: "yes" }, verb))));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

const TOAST_MS = 6000;

/** Say something for a few seconds; what went wrong stays until it is read. */
export function toast(text, tone = "") {
  const place = document.getElementById("toasts");
  for (const old of place.children) if (old.firstChild.textContent === String(text)) old.remove();
  const node = el("div", { class: `toast ${tone}` }, el("span", {}, text),
    button("", () => node.remove(), { tone: "quiet", symbol: "close", label: "Dismiss" }));
  place.append(node);
  while (place.children.length > 4) place.firstElementChild.remove();
  if (tone !== "bad") setTimeout(() => node.remove(), TOAST_MS);
}

/**
 * Run something again and again, each time after the one before has ended, whatever came of it; not while nobody looks
 * at the page.
 */
export function repeat(work, everyMs) {
  let timer = 0;
  let isOver = false;
  async function turn() {
    try {
      if (!document.hidden) await work();
    } finally {
      if (!isOver) timer = setTimeout(turn, everyMs);
    }
  }
  turn();
  return () => {
    isOver = true;
    clearTimeout(timer);
  };
}

/** A row of buttons of which one is chosen. */
export function choice(label, options, chosen, onChange) {
  const buttons = options.map(([value, text]) =>
    el("button", { type: "button", "aria-pressed": String(value === chosen), data: { value }, on: { click: () => choose(value) } }, text));
  function choose(value) {
    for (const one of buttons) one.setAttribute("aria-pressed", String(one.dataset.value === value));
    onChange(value);
  }
  return el("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}
