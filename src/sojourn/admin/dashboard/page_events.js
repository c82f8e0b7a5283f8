/** What happened on this server, newest first, as the log tells it. */
import { badge, choice, count, el, fill, moment, nothing, say, toast, VirtualList } from "./kit.js";

const KEPT = 2000;
const SEARCH_MS = 200;
const REFRESH_MS = 500;
/** How often at most events are read anew where more happens than is told one by one. */
const REREAD_MS = 3000;
export const LEVEL_TONES = { debug: "", info: "info", warning: "warn", error: "bad" };

/** Return an event's values in one line. */
export function eventWords(event) {
  return Object.entries(event.fields ?? {})
    .filter(([, value]) => value !== "" && value !== null)
    .map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(", ");
}

export function eventsPage({ api, live }) {
  const wanted = { level: "", search: "" };
  let rows = [];
  let isFresh = false;
  let isIncomplete = false;
  let readAt = 0;
  let asked = 0;
  const tally = el("p", { class: "about" });
  const found = el("p", { class: "unseen", role: "status" });
  const none = nothing("Nothing that fits has happened", "search");
  none.hidden = true;
  const list = new VirtualList({
    label: "Events",
    make: () => el("div", { class: "event-line" }, el("span", { class: "number" }), el("span"), el("span", { class: "strong" }), el("span")),
    show: showLine,
    key: (row) => row.number,
    open: (row) => { if (row.session) location.hash = `#/sessions/${encodeURIComponent(row.session)}`; },
  });

  async function choose() {
    await load();
    say(found, `${count(rows.length)} events found`);
  }

  async function load(isQuiet = false) {
    const mine = (asked += 1);
    [isIncomplete, readAt] = [false, performance.now()];
    try {
      const page = await api.get("/events", { ...wanted, limit: 1000 });
      if (mine !== asked) return;
      rows = page.events;
      show();
    } catch (error) {
      isIncomplete = true;
      if (!isQuiet) toast(error.message, "bad");
    }
  }

  function turn() {
    if (document.hidden || !list.mayMove) return;
    if (isIncomplete && performance.now() - readAt > REREAD_MS) load(true);
    else if (isFresh) show();
  }

  function show() {
    isFresh = false;
    list.set(rows);
    none.hidden = rows.length > 0;
    list.root.hidden = rows.length === 0;
    say(tally, `the last ${count(rows.length)}`);
  }

  function fits(event) {
    const order = Object.keys(LEVEL_TONES);
    const text = wanted.search.toLowerCase();
    return (!wanted.level || order.indexOf(event.level) >= order.indexOf(wanted.level))
      && (!text || `${event.kind} ${eventWords(event)}`.toLowerCase().includes(text));
  }

  const ends = [
    live.on("event", (event) => {
      if (!fits(event)) return;
      rows.unshift(event);
      if (rows.length > KEPT) rows.length = KEPT;
      isFresh = true;
    }),
    live.on("more", ({ events }) => { isIncomplete ||= events > 0; }),
    live.on("back", () => { isIncomplete = true; }),
  ];
  const timer = setInterval(turn, REFRESH_MS);
  let typing = 0;
  const search = el("input", { type: "search", placeholder: "Find in events", "aria-label": "Find events", maxlength: 200, on: { input: () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      wanted.search = search.value.trim();
      choose();
    }, SEARCH_MS);
  } } });
  const levels = choice("At least", [["", "All"], ["info", "Info"], ["warning", "Warnings"], ["error", "Errors"]], "", (level) => {
    wanted.level = level;
    choose();
  });
  load();
  return {
    title: "Events",
    stop() {
      clearInterval(timer);
      clearTimeout(typing);
      ends.forEach((end) => end());
      list.stop();
      asked += 1;
    },
    root: el("div", { class: "stack fills" },
      el("header", { class: "page-head" }, el("h1", {}, "Events"), tally, found),
      el("div", { class: "filters" }, search, levels),
      el("div", { class: "card list-card" },
        el("div", { class: "event-line list-head", "aria-hidden": "true" }, ["When", "Level", "What", "More"].map((word) => el("span", {}, word))),
        list.root, none)),
  };
}

function showLine(node, event) {
  const [when, level, kind, words] = node.children;
  say(when, moment(event.at));
  if (level.dataset.level !== event.level) {
    level.dataset.level = event.level;
    fill(level, badge(event.level, LEVEL_TONES[event.level]));
  }
  say(kind, event.count > 1 ? `${event.kind} × ${count(event.count)}` : event.kind);
  const text = eventWords(event);
  say(words, text);
  node.title = `${event.kind} ${text}`;
  node.classList.toggle("opens", Boolean(event.session));
}
