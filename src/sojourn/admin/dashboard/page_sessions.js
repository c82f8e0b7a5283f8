/** Every session, those that are open first: find one by its id, its peer or what it is about. Stays smooth with 10,000. */
import { button, choice, count, el, fill, lasting, moment, nothing, say, stateBadge, toast, VirtualList } from "./kit.js";

const PAGE = 500;
const KEPT = 20_000;
/** Whoever stays at the top sees new ones come; the list does not grow for ever by it. */
const KEPT_AT_TOP = 2000;
const SEARCH_MS = 200;
const REFRESH_MS = 1000;
/** How often at most the list is read anew where more happens than is told one by one. */
const REREAD_MS = 3000;

export function sessionsPage({ api, live, gatewayTitle }) {
  const wanted = { gateway: "", state: "", search: "" };
  const known = new Map();
  let rows = [];
  let cursor = "";
  let waiting = [];
  let asked = 0;
  let isLoading = false;
  let missed = 0;
  let isStale = false;
  let readAt = 0;
  const tally = el("p", { class: "about" });
  const found = el("p", { class: "unseen", role: "status" });
  const fresh = button("", () => showWaiting(), { tone: "primary fresh" });
  fresh.hidden = true;
  const none = nothing("No session fits. Widen the search, or wait for one.", "search");
  none.hidden = true;
  const list = new VirtualList({
    label: "Sessions",
    make: makeLine,
    show: (node, row) => showLine(node, row, gatewayTitle),
    open: (row) => { location.hash = `#/sessions/${encodeURIComponent(row.id)}`; },
    key: (row) => row.id,
    onEnd: () => more(),
  });

  /** Read the list from its beginning. What is there stays until the answer has come. */
  async function load(isQuiet = false) {
    asked += 1;
    [cursor, waiting, missed, isStale, readAt, isLoading] = ["", [], 0, false, performance.now(), false];
    await read(isQuiet, () => {
      rows = [];
      known.clear();
      for (const row of waiting) known.set(row.id, row); // what was told while the answer was under way
      list.root.scrollTop = 0;
    });
  }

  /** Choose other sessions: from here on nothing of those before is worth anything. */
  async function choose() {
    await load();
    say(found, `${tally.textContent} found`);
  }

  async function more() {
    if (!isLoading && rows.length && cursor && rows.length < KEPT) await read(false);
  }

  async function read(isQuiet, begin = () => {}) {
    const mine = asked;
    isLoading = true;
    try {
      const page = await api.get("/sessions", { ...wanted, limit: PAGE, cursor });
      if (mine !== asked) return;
      begin();
      cursor = page.next_cursor;
      for (const row of page.sessions) {
        if (known.has(row.id)) continue;
        known.set(row.id, row);
        rows.push(row);
      }
    } catch (error) {
      if (mine !== asked) return;
      if (!isQuiet) toast(error.message, "bad");
      isStale = true;
    }
    isLoading = false;
    show();
  }

  function show() {
    list.set(rows);
    none.hidden = rows.length > 0 || isLoading;
    list.root.hidden = !none.hidden;
    say(tally, cursor ? `the first ${count(rows.length)}, more as you scroll` : `${count(rows.length)} ${rows.length === 1 ? "session" : "sessions"}`);
    const held = waiting.length + missed;
    fresh.hidden = list.mayMove || (!held && !isStale);
    say(fresh, held ? `${count(held)} new` : "Show what has changed");
  }

  function fits(row) {
    const text = wanted.search.toLowerCase();
    return (!wanted.gateway || row.gateway === wanted.gateway)
      && (!wanted.state || row.state === wanted.state)
      && (!text || `${row.id} ${row.peer} ${row.about}`.toLowerCase().includes(text));
  }

  // A session that changes does so in place; new ones wait until the reader is at the top, so nothing moves under the eye.
  function note(session) {
    const old = known.get(session.id);
    if (old) {
      Object.assign(old, session);
      isStale ||= !fits(old);
    } else if (fits(session)) {
      known.set(session.id, session);
      waiting.push(session);
      if (waiting.length > PAGE) {
        known.delete(waiting.shift().id);
        missed += 1;
      }
    }
  }

  function showWaiting() {
    if (missed || isStale) {
      load();
      return;
    }
    rows = [...waiting.reverse(), ...rows];
    waiting = [];
    list.root.scrollTop = 0;
    show();
  }

  const timer = setInterval(() => {
    const mayMove = !document.hidden && !isLoading && list.mayMove;
    if (mayMove && (missed || isStale || rows.length > KEPT_AT_TOP)) {
      if (performance.now() - readAt > REREAD_MS) load(true);
    } else if (mayMove && waiting.length) showWaiting();
    else show();
  }, REFRESH_MS);
  const ends = [
    live.on("session", note),
    live.on("more", ({ opened, ended }) => {
      // How many of them fit, nobody has said.
      if (wanted.gateway || wanted.state || wanted.search) isStale = true;
      else missed += opened;
      isStale ||= ended > 0;
    }),
    live.on("back", () => { isStale = true; }),
  ];

  let typing = 0;
  const search = el("input", { type: "search", placeholder: "Find by peer, id or what it is about", "aria-label": "Find sessions", maxlength: 200, on: {
    input: () => {
      clearTimeout(typing);
      typing = setTimeout(() => {
        wanted.search = search.value.trim();
        choose();
      }, SEARCH_MS);
    },
  } });
  const gateways = el("select", { "aria-label": "Gateway", on: { change: () => {
    wanted.gateway = gateways.value;
    choose();
  } } }, el("option", { value: "" }, "All gateways"),
    live.overview.gateways.map((gateway) => el("option", { value: gateway.name }, gateway.title)));
  const states = choice("State", [["", "All"], ["open", "Open"], ["failed", "Failed"], ["finished", "Finished"]], "", (state) => {
    wanted.state = state;
    choose();
  });
  load();
  return {
    title: "Sessions",
    stop() {
      clearInterval(timer);
      clearTimeout(typing);
      ends.forEach((end) => end());
      list.stop();
      asked += 1;
    },
    root: el("div", { class: "stack fills" },
      el("header", { class: "page-head" }, el("h1", {}, "Sessions"), tally, found),
      el("div", { class: "filters" }, search, gateways, states),
      el("div", { class: "card list-card" },
        el("div", { class: "session-line list-head", "aria-hidden": "true" },
          ["State", "Session", "Gateway", "Peer", "Started", "Length"].map((word) => el("span", {}, word))),
        fresh, list.root, none)),
  };
}

function makeLine() {
  return el("div", { class: "session-line" }, el("span"), el("span", { class: "strong" }), el("span"), el("span"), el("span", { class: "number" }), el("span", { class: "number" }));
}

function showLine(node, row, gatewayTitle) {
  const [state, name, gateway, peer, started, length] = node.children;
  if (state.dataset.state !== row.state) {
    state.dataset.state = row.state;
    fill(state, stateBadge(row.state));
  }
  say(name, row.about || row.id);
  name.title = `${row.about} (${row.id})`;
  say(gateway, gatewayTitle(row.gateway));
  say(peer, row.peer);
  peer.title = row.peer;
  say(started, moment(row.started));
  say(length, lasting((row.ended ?? Date.now() / 1000) - row.started));
}
