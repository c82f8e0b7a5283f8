/**
 * A sequence diagram that grows while one looks: parties as lifelines, messages as arrows, states and errors as notes
 * on their lifeline, silence as a gap, repetitions folded until they are opened.
 *
 * Drawn as SVG by the rows of sequence_rows.js, of which only those near what can be seen are in the page; a row that
 * stays is not drawn again. Knows no address and no gateway.
 */
import { el, fill, lasting, svg } from "./kit.js";
import { hereOf, markOf, partiesOf, rowsOf } from "./sequence_rows.js";

const ENTRIES_LIMIT = 2000;
const HEIGHTS = { arrow: 36, worded: 50, note: 40, gap: 30, fold: 36 };
const HEAD_HEIGHT = 52;
const NARROW = 560;
const LEAST_COLUMN = 150;
const NARROW_COLUMN = 96;
/** Where more than two take part it scrolls anyway: the words of an arrow have room then. */
const LEAST_OF_MANY = 150;
const TWO = 2;
const LONGEST_WORDS = 320;
const WIDEST_COLUMN = 520;
const EDGE = 10;
const TOP = 8;
/** How far beyond what can be seen rows are drawn, in pixels: as far as one scrolls before the next frame. */
const BEYOND = 800;
const BY_HAND_MS = 600;
const FONTS = {
  name: "600 13px system-ui, sans-serif",
  text: "12px ui-monospace, 'DejaVu Sans Mono', monospace",
  note: "500 12.5px system-ui, sans-serif",
};

export class SequenceDiagram {
  /**
   * @param {object} how
   * @param {string} how.label what the diagram is of
   * @param {number} how.started seconds since 1970, from which the times count
   * @param {(entry: object | null) => void} [how.onLook] is told which entry is looked at
   */
  constructor({ label, started, onLook = () => {} }) {
    this.started = started;
    this.onLook = onLook;
    this.entries = [];
    this.opened = new Set();
    this.isFollowing = false;
    this.onFollow = () => {};
    this.rows = [];
    this.drawn = new Map();
    this.seen = 0;
    /** The key of the row that the keyboard is at. */
    this.at = null;
    this.head = svg("svg", { class: "seq-head", "aria-hidden": "true" });
    this.lifelines = svg("g", { class: "seq-lifelines" });
    this.lines = svg("g");
    this.body = svg("svg", { class: "seq-body", role: "list", "aria-label": label }, this.lifelines, this.lines);
    this.root = el("div", { class: "seq", role: "region", "aria-label": label, tabindex: "0", on: {
      scroll: () => this.#scrolled(),
      wheel: () => this.#touched(),
      touchmove: () => this.#touched(),
      pointerdown: () => this.#touched(),
      keydown: (pressed) => this.#key(pressed),
    } }, el("div", { class: "seq-top" }, this.head), this.body);
    this.tip = el("div", { class: "seq-tip", role: "tooltip", hidden: true });
    this.root.append(this.tip);
    this.watcher = new ResizeObserver(() => this.refresh());
    this.watcher.observe(this.root);
  }

  /** Add entries at the end. `hasGap`: between the last one and these were others, which nobody has kept. */
  add(entries, hasGap = false) {
    for (const [index, given] of entries.entries()) {
      const entry = { ...given, source: given.source || "server", target: given.target || given.source || "server", number: (this.seen += 1), isAfterLoss: hasGap && index === 0 };
      entry.mark = markOf(entry);
      this.entries.push(entry);
    }
    if (this.entries.length > ENTRIES_LIMIT) this.entries.splice(0, this.entries.length - ENTRIES_LIMIT);
    this.isChanged = true;
    this.refresh();
  }

  /** Begin anew. */
  clear() {
    this.entries = [];
    this.seen = 0;
    this.#forget();
    this.isChanged = true;
    this.refresh();
  }

  follow(isWanted) {
    this.isFollowing = isWanted;
    this.onFollow(isWanted);
    if (isWanted) this.root.scrollTop = this.root.scrollHeight;
  }

  stop() {
    this.watcher.disconnect();
    cancelAnimationFrame(this.frame);
  }

  /** Draw before the next frame, however often it is asked for. */
  refresh() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.#draw();
    });
  }

  #forget() {
    this.drawn.clear();
    this.lines.replaceChildren();
  }

  #draw() {
    const parties = partiesOf(this.entries);
    const place = placeOf(parties, this.root.clientWidth);
    const shape = `${place.width} ${parties.join("\n")}`;
    if (shape !== this.shape) {
      this.shape = shape;
      this.place = place;
      this.#forget();
      this.#drawParties(parties, place);
    }
    if (this.isChanged) this.#layOut();
    if (this.isFollowing) this.root.scrollTop = this.root.scrollHeight;
    this.#drawRows();
  }

  /** Find out where each row stands. Whoever reads further up keeps what they read where it is. */
  #layOut() {
    this.isChanged = false;
    const { scrollTop } = this.root;
    const read = this.rows.find((row) => row.y >= scrollTop);
    this.rows = rowsOf(this.entries, this.opened);
    let y = TOP;
    for (const row of this.rows) {
      row.y = y;
      y += heightOf(row);
    }
    const height = y + 2 * TOP;
    this.body.setAttribute("viewBox", `0 0 ${this.place.width} ${height}`);
    this.body.setAttribute("width", this.place.width);
    this.body.setAttribute("height", height);
    for (const line of this.lifelines.children) line.setAttribute("y2", height);
    const now = read && this.rows.find((row) => row.key === read.key);
    if (now && !this.isFollowing && now.y !== read.y) this.root.scrollTop = scrollTop + now.y - read.y;
  }

  #drawRows() {
    const from = this.root.scrollTop - BEYOND;
    const to = this.root.scrollTop + this.root.clientHeight + BEYOND;
    const focused = this.drawn.size && document.activeElement?.dataset?.key;
    const near = this.rows.filter((row) => (row.y > from && row.y < to) || row.key === focused);
    const keys = new Set(near.map((row) => row.key));
    for (const [key, { node }] of this.drawn) {
      if (keys.has(key)) continue;
      node.remove();
      this.drawn.delete(key);
    }
    let before = null;
    for (const row of near) {
      const node = this.#drawn(row);
      const wanted = before ? before.nextSibling : this.lines.firstChild;
      if (node !== wanted) this.lines.insertBefore(node, wanted);
      before = node;
    }
  }

  /** Return a row's node, made anew where it says something else than before. */
  #drawn(row) {
    const said = row.type === "fold" ? `${row.isOpen} ${row.turns}` : row.words ?? "";
    let old = this.drawn.get(row.key);
    if (!old || old.said !== said) {
      const node = drawRow(row, this.place, this.started);
      const hadFocus = old !== undefined && old.node === document.activeElement;
      old?.node.replaceWith(node);
      if (hadFocus) node.focus({ preventScroll: true });
      if (row.key === this.at) node.setAttribute("tabindex", "0");
      old = { node, said, y: -1 };
      this.drawn.set(row.key, old);
      this.#listen(node, row);
    }
    if (old.y !== row.y) old.node.setAttribute("transform", `translate(0 ${row.y})`);
    old.y = row.y;
    return old.node;
  }

  #drawParties(parties, place) {
    this.head.setAttribute("viewBox", `0 0 ${place.width} ${HEAD_HEIGHT}`);
    this.head.setAttribute("width", place.width);
    this.head.setAttribute("height", HEAD_HEIGHT);
    const ours = this.entries.length ? hereOf(this.entries[0]) : "";
    fill(this.head, parties.map((party, index) => drawParty(party, place, index, party === ours)));
    fill(this.lifelines, parties.map((_, index) => svg("line", { x1: place.x[index], x2: place.x[index], y1: 0, y2: 0 })));
  }

  #listen(node, row) {
    if (row.type === "gap") return;
    if (row.type === "fold") {
      node.addEventListener("click", () => this.#toggle(row.key));
      node.addEventListener("focus", () => this.#hideTip());
      return;
    }
    node.addEventListener("pointerenter", () => this.#look(node, row.entry));
    node.addEventListener("pointerleave", () => this.#hideTip());
    node.addEventListener("focus", () => this.#look(node, row.entry));
    node.addEventListener("blur", () => this.#hideTip());
    node.addEventListener("click", () => this.#look(node, row.entry));
  }

  #toggle(key) {
    if (!this.opened.delete(key)) this.opened.add(key);
    this.follow(false);
    this.isChanged = true;
    this.refresh();
  }

  #look(node, entry) {
    this.onLook(entry);
    for (const other of this.lines.querySelectorAll(".is-looked-at")) other.classList.remove("is-looked-at");
    node.classList.add("is-looked-at");
    if (!entry.text) {
      this.tip.hidden = true;
      return;
    }
    fill(this.tip, el("b", {}, entry.name), el("span", {}, entry.text));
    this.tip.hidden = false;
    const box = node.getBoundingClientRect();
    const frame = this.root.getBoundingClientRect();
    const isBelow = box.bottom + this.tip.offsetHeight + 8 < frame.bottom;
    const top = isBelow ? box.bottom - frame.top + 2 : box.top - frame.top - this.tip.offsetHeight - 2;
    this.tip.style.top = `${top + this.root.scrollTop}px`;
    this.tip.style.left = `${this.root.scrollLeft + Math.max(8, (frame.width - this.tip.offsetWidth) / 2)}px`;
  }

  #hideTip() {
    this.tip.hidden = true;
  }

  // The diagram scrolls by itself, too; only who scrolls by hand wants to stay where they are.
  #touched() {
    this.touchedAt = performance.now();
  }

  #scrolled() {
    const isByHand = performance.now() - (this.touchedAt ?? -Infinity) < BY_HAND_MS;
    const isAtEnd = this.root.scrollTop + this.root.clientHeight >= this.root.scrollHeight - 24;
    if (this.isFollowing && isByHand && !isAtEnd) this.follow(false);
    this.refresh();
  }

  #key(pressed) {
    const rows = this.rows.filter((row) => row.type !== "gap");
    const focused = document.activeElement.dataset.key;
    if (pressed.key === "Escape") this.#hideTip();
    if ((pressed.key === "Enter" || pressed.key === " ") && rows.some((row) => row.key === focused && row.type === "fold")) {
      pressed.preventDefault();
      this.#toggle(focused);
      return;
    }
    const step = { ArrowDown: 1, ArrowUp: -1, Home: -rows.length, End: rows.length }[pressed.key];
    if (step === undefined || !rows.length) return;
    pressed.preventDefault();
    this.follow(false);
    const at = rows.findIndex((row) => row.key === this.at);
    const first = Math.max(0, rows.findIndex((row) => row.y >= this.root.scrollTop));
    this.#goTo(rows[Math.max(0, Math.min(rows.length - 1, at >= 0 ? at + step : Math.abs(step) === 1 ? first : step))]);
  }

  #goTo(row) {
    this.drawn.get(this.at)?.node.setAttribute("tabindex", "-1");
    this.at = row.key;
    const bottom = row.y + heightOf(row) + HEAD_HEIGHT;
    if (row.y < this.root.scrollTop) this.root.scrollTop = row.y;
    else if (bottom > this.root.scrollTop + this.root.clientHeight) this.root.scrollTop = bottom - this.root.clientHeight;
    this.#drawRows();
    const { node } = this.drawn.get(row.key);
    node.setAttribute("tabindex", "0");
    node.focus({ preventScroll: true });
  }

  /** Return the whole diagram as an SVG file of its own, light, with all that is folded as it stands. */
  toSvg(title) {
    const width = Number(this.body.getAttribute("width"));
    const height = Number(this.body.getAttribute("height")) + HEAD_HEIGHT;
    const rows = this.rows.map((row) => {
      const node = drawRow(row, this.place, this.started);
      node.setAttribute("transform", `translate(0 ${row.y})`);
      return node;
    });
    const body = svg("g", { transform: `translate(0 ${HEAD_HEIGHT})` }, this.lifelines.cloneNode(true), rows);
    const whole = svg("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height },
      svg("title", {}, title), svg("style", {}, EXPORTED_STYLE),
      svg("rect", { width, height, fill: "#fff" }), this.head.cloneNode(true), body);
    return new XMLSerializer().serializeToString(whole);
  }
}

const EXPORTED_STYLE = `
text{font:500 12.5px system-ui,sans-serif;fill:#1b2226}.seq-time{fill:#5f6b72;font-size:11px}.seq-name{font-weight:600;font-size:13px}
.seq-text{font:12px ui-monospace,monospace;fill:#5f6b72}.seq-lifelines line{stroke:#c9cfd2;stroke-dasharray:3 4}
.seq-party rect{fill:#eef3f7;stroke:#c9d6e0}.seq-party.ours rect{stroke:#0b5fa5}.seq-party text{font-weight:600;font-size:13px}
.seq-line{stroke:#0b5fa5;stroke-width:1.6;fill:none}.seq-tip-of-arrow{fill:#0b5fa5}.out .seq-line{stroke:#0f766e}.out .seq-tip-of-arrow{fill:#0f766e}
.leg.in .seq-line{stroke-dasharray:5 4}.error .seq-line{stroke:#b3261e}.error .seq-tip-of-arrow{fill:#b3261e}.seq-note rect{fill:#f4f2ea;stroke:#ddd8c4}
.error rect{fill:#fdeceb;stroke:#e9b4b0}.error text.seq-name{fill:#8f1d17}.seq-gap line{stroke:#c9cfd2;stroke-dasharray:2 4}.seq-gap text,.seq-fold text{fill:#5f6b72}
.seq-hit{fill:none}.seq-fold rect.seq-fold-box{fill:#f6f7f8;stroke:#dcdfdc}`;

function heightOf(row) {
  return HEIGHTS[row.type === "arrow" && row.entry.text ? "worded" : row.type];
}

/** Where the lifelines stand, and what is left of them for times. */
function placeOf(parties, available) {
  const isNarrow = available < NARROW;
  const gutter = isNarrow ? 68 : 92;
  const columns = Math.max(1, parties.length);
  const least = gutter + (isNarrow ? (columns > TWO ? LEAST_OF_MANY : NARROW_COLUMN) : LEAST_COLUMN) * columns;
  const width = Math.max(least, Math.min(available, gutter + WIDEST_COLUMN * columns));
  const column = (width - gutter - EDGE) / columns;
  const edge = columns > 1 ? Math.min(column / 2, 84) : column / 2;
  const step = columns > 1 ? (width - gutter - EDGE - 2 * edge) / (columns - 1) : 0;
  return { width, gutter, isNarrow, parties, x: parties.map((_, index) => gutter + edge + index * step), boxWidth: Math.min(2 * edge - 12, 190) };
}

function drawParty(party, place, index, isOurs) {
  const x = place.x[index];
  const text = fitted(party, FONTS.name, place.boxWidth - 16);
  return svg("g", { class: `seq-party${isOurs ? " ours" : ""}` }, svg("title", {}, party),
    svg("rect", { x: x - place.boxWidth / 2, y: 8, width: place.boxWidth, height: 34, rx: 8 }),
    svg("text", { x, y: 30, "text-anchor": "middle" }, text));
}

function drawRow(row, place, started) {
  if (row.type === "gap") return drawGap(row, place);
  if (row.type === "fold") return drawFold(row, place);
  const { entry } = row;
  const since = entry.at - started;
  const where = entry.source === entry.target ? `at ${entry.source}` : `from ${entry.source} to ${entry.target}`;
  const node = svg("g", {
    class: `seq-row ${row.type === "note" ? "seq-note" : "seq-arrow"} ${entry.kind}${entry.is_leg ? " leg" : ""}`,
    role: "listitem",
    tabindex: "-1",
    data: { key: row.key },
    "aria-label": `after ${lasting(since)}, ${where}: ${entry.kind === "error" ? "error, " : ""}${entry.name} ${entry.text}`.trim(),
  }, svg("rect", { class: "seq-hit", x: 0, y: 0, width: place.width, height: heightOf(row) }),
    svg("text", { class: "seq-time", x: place.gutter - 14, y: row.type === "note" ? 24 : 27, "text-anchor": "end" }, stamp(since, place.isNarrow)));
  return row.type === "note" ? drawNote(node, entry, place) : drawArrow(node, entry, place);
}

function drawArrow(node, entry, place) {
  const from = place.x[place.parties.indexOf(entry.source)];
  const to = place.x[place.parties.indexOf(entry.target)];
  const way = Math.sign(to - from);
  const middle = (from + to) / 2;
  const room = Math.abs(to - from) - 28;
  node.append(
    wordsAt(middle, 17, "seq-name", entry.name, FONTS.name, room, place),
    svg("line", { class: "seq-line", x1: from, x2: to - way * 7, y1: 24, y2: 24 }),
    svg("path", { class: "seq-tip-of-arrow", d: `M${to} 24l${-9 * way} -4.5v9Z` }),
  );
  if (entry.text) node.append(wordsAt(middle, 39, "seq-text", entry.text, FONTS.text, room, place));
  return node;
}

/** Words at the middle of an arrow. Nothing else is on its row, so that long ones may be wider than a short arrow. */
function wordsAt(middle, y, name, words, font, room, place) {
  const text = fitted(words, font, Math.min(Math.max(room, LONGEST_WORDS), place.width - place.gutter - 2 * EDGE));
  const half = measure(text, font) / 2;
  const x = Math.max(place.gutter + half, Math.min(middle, place.width - EDGE - half));
  return svg("text", { class: name, x, y, "text-anchor": "middle" }, text);
}

function drawNote(node, entry, place) {
  const x = place.x[place.parties.indexOf(entry.source)];
  const words = [entry.kind === "error" ? `✕ ${entry.name}` : entry.name, entry.text].filter(Boolean).join("  ");
  const text = fitted(words, FONTS.note, place.width - place.gutter - 32);
  const width = measure(text, FONTS.note) + 24;
  const left = Math.max(place.gutter, Math.min(x - width / 2, place.width - width - 8));
  node.append(
    svg("rect", { class: "seq-note-box", x: left, y: 6, width, height: 28, rx: 7 }),
    svg("text", { class: "seq-name", x: left + width / 2, y: 24.5, "text-anchor": "middle" }, text),
  );
  return node;
}

function drawGap(row, place) {
  const middle = (place.gutter + place.width) / 2;
  const text = fitted(row.words, FONTS.note, place.width - place.gutter - 60);
  const half = measure(text, FONTS.note) / 2 + 14;
  return svg("g", { class: "seq-gap", role: "listitem", "aria-label": row.key.startsWith("gap") ? `nothing for ${row.words}` : row.words },
    svg("line", { x1: place.gutter, x2: middle - half, y1: 15, y2: 15 }),
    svg("line", { x1: middle + half, x2: place.width - 8, y1: 15, y2: 15 }),
    svg("text", { x: middle, y: 19, "text-anchor": "middle" }, text));
}

function drawFold(row, place) {
  const every = row.everyS >= 0.001 ? `, every ${lasting(row.everyS)}` : "";
  const words = row.isOpen ? `▾ fold ${row.turns} repetitions` : `▸ ${row.turns} × the same${every}`;
  const text = fitted(words, FONTS.note, place.width - place.gutter - 40);
  const width = measure(text, FONTS.note) + 28;
  const middle = (place.gutter + place.width) / 2;
  return svg("g", { class: "seq-row seq-fold", role: "listitem", tabindex: "-1", data: { key: row.key },
    "aria-label": row.isOpen ? `${row.turns} repetitions, shown; Enter folds them` : `${row.turns} repetitions, folded${every}; Enter shows them` },
    svg("rect", { class: "seq-fold-box", x: middle - width / 2, y: 5, width, height: 26, rx: 13 }),
    svg("text", { x: middle, y: 22.5, "text-anchor": "middle" }, text));
}

/** The time since the session's start, as precise as it matters and as there is room. */
function stamp(seconds, isNarrow) {
  if (seconds < 1) return `+${(seconds * 1000).toFixed(seconds < 0.01 ? 2 : seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 1000) return `+${seconds.toFixed(seconds < 10 || !isNarrow ? 3 : 1)}`;
  const two = (number) => String(number).padStart(2, "0");
  return `+${Math.floor(seconds / 60)}:${two(Math.floor(seconds % 60))}`;
}

const paper = document.createElement("canvas").getContext("2d");

function measure(text, font) {
  paper.font = font;
  return paper.measureText(text).width;
}

/** Return as much of a text as fits, with a mark where it was cut. */
function fitted(text, font, room) {
  if (measure(text, font) <= room) return text;
  let [low, high] = [0, text.length];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (measure(`${text.slice(0, middle)}…`, font) <= room) low = middle;
    else high = middle - 1;
  }
  return `${text.slice(0, low).trimEnd()}…`;
}
