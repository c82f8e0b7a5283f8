/** All gateways with what the core knows of them, and one gateway with the page that it brought along. */
import { badge, bytes, card, count, el, figure, fill, moment, nothing, rate, repeat, say, short, sparkline, table, toast } from "./kit.js";

const REFRESH_MS = 3000;
const BREAKER_TONES = { closed: "ok", open: "bad", "half-open": "warn" };

/** Tables of the core; of one gateway, or of all. They are read while `isSeen` says so. */
function coreTables({ api, gatewayTitle }, gateway = "", isSeen = () => true) {
  const name = gateway ? [] : [{ title: "Gateway", value: (row) => gatewayTitle(row.gateway) }];
  const listeners = table("Listeners", [
    { title: "Address", value: (row) => row.address, mono: true },
    ...name,
    { title: "Encrypted", value: (row) => (row.tls ? badge("TLS", "ok") : badge("plain")) },
    { title: "Behind a proxy", value: (row) => (row.proxy_protocol ? "yes" : "no"), hint: "The PROXY protocol tells who is behind it" },
    { title: "Connections", value: (row) => count(row.connections), numeric: true },
  ], { key: (row) => `${row.gateway} ${row.address}`, empty: "Listens nowhere" });
  const peers = table("Peers", [
    { title: "Peer", value: (row) => [row.address, ...row.names].join(" "), mono: true },
    ...name,
    { title: "Connections", value: (row) => count(row.connections), numeric: true },
    { title: "Sessions", value: (row) => count(row.sessions), numeric: true },
    { title: "Received", value: (row) => counted(row.bytes_in), numeric: true, hint: "– where a gateway does not count it for each peer" },
    { title: "Sent", value: (row) => counted(row.bytes_out), numeric: true },
    { title: "Since", value: (row) => moment(row.since), numeric: true },
  ], { key: (row) => `${row.gateway} ${row.address}`, empty: "Nobody is connected", limit: 100 });
  const limits = table("Limits", [
    { title: "Limit", value: (row) => row.name.replaceAll("_", " ") },
    ...name,
    { title: "Used", value: (row) => meter(row) },
    { title: "At most", value: (row) => count(row.limit), numeric: true },
    { title: "Refused", value: (row) => (row.refused === null ? "–" : count(row.refused)), numeric: true },
  ], { key: (row) => `${row.gateway} ${row.name}`, empty: "No limits" });
  const breakers = table("Circuit breakers", [
    { title: "What is called", value: (row) => row.endpoint, mono: true },
    { title: "State", value: (row) => badge(row.state, BREAKER_TONES[row.state]), hint: "open: not called for a while, because calls failed" },
    { title: "Calls", value: (row) => count(row.calls), numeric: true },
    { title: "Failed", value: (row) => count(row.failures), numeric: true },
    { title: "Spared", value: (row) => count(row.refused), numeric: true, hint: "Calls that were not tried because the circuit was open" },
  ], { key: (row) => row.endpoint, empty: "Nothing is called that could fail" });
  const mine = (row) => !gateway || row.gateway === gateway;

  async function update() {
    const [listening, present, bounds, circuits] = await Promise.all([
      api.get("/listeners"), api.get("/peers", { gateway }), api.get("/limits"), gateway ? null : api.get("/breakers")]);
    listeners.update(listening.listeners.filter(mine));
    peers.update(present.peers);
    limits.update(bounds.limits.filter(mine));
    if (circuits) breakers.update(circuits.breakers);
  }
  return {
    stop: repeat(() => isSeen() && update().catch(() => {}), REFRESH_MS), // the line tells that nothing answers
    update,
    cards: [
      card("Listeners", { hint: "Where it can be reached" }, listeners.root),
      card("Peers", { hint: "Who is connected, most connections first" }, peers.root),
      card("Limits", { hint: "What it takes at most, and what it had to refuse" }, limits.root),
      !gateway && card("Circuit breakers", { hint: "What stands behind the gateways; a circuit opens when calls keep failing" }, breakers.root),
    ],
  };
}

function meter({ used, limit }) {
  if (used === null || used === undefined) return el("span", { class: "hint" }, "–");
  const share = limit ? Math.min(1, used / limit) : 0;
  const bar = el("meter", { min: 0, max: 1, low: 0.7, high: 0.9, optimum: 0, value: share, "aria-label": `${Math.round(share * 100)} %` });
  return el("span", { class: "meter" }, bar, el("span", {}, short(used)));
}

export function gatewaysPage(context) {
  const { live } = context;
  const tables = coreTables(context);
  const cards = el("div", { class: "gateway-strip" });
  const strips = new Map();
  const update = ({ gateways }) => {
    for (const row of gateways) {
      if (!strips.has(row.name)) {
        const figures = el("p", { class: "hint" });
        strips.set(row.name, figures);
        cards.append(el("a", { class: "card strip", href: `#/gateways/${encodeURIComponent(row.name)}` }, el("h2", {}, row.title), figures));
      }
      say(strips.get(row.name), `${count(row.sessions_open)} open, ${rate(row.opened_per_s)} new per second, ${count(row.sessions_failed)} failed`);
    }
  };
  const end = live.on("overview", update);
  update(live.overview);
  return {
    title: "Gateways",
    stop() {
      end();
      tables.stop();
    },
    root: el("div", { class: "stack" },
      el("header", { class: "page-head" }, el("h1", {}, "Gateways"), el("p", { class: "about" }, "one per protocol")),
      cards, tables.cards),
  };
}

export function gatewayPage(context, name) {
  const { api, live, gatewayTitle } = context;
  const figures = [
    ["open sessions", (row) => short(row.sessions_open), "sessions_open", ""],
    ["new per second", (row) => rate(row.opened_per_s), "opened_per_s", ""],
    ["messages per second", (row) => rate(row.packets_in_per_s + row.packets_out_per_s), "packets_per_s", "alt"],
    ["failed per second", (row) => rate(row.failed_per_s), "failed_per_s", "bad"],
  ].map(([words, valueOf, series, tone]) => {
    const shown = figure(words, "0");
    const line = sparkline(words, tone);
    return { shown, line, valueOf, series, root: el("div", { class: "card tile" }, shown, line) };
  });
  const head = el("h1", {}, gatewayTitle(name));
  const about = el("p", { class: "about" });
  const place = el("div", { class: "panel stack" });
  const more = el("details", { class: "fold" });
  const tables = coreTables(context, name, () => more.open);
  more.append(el("summary", {}, "Listeners, peers and limits"), el("div", { class: "stack" }, tables.cards));
  more.addEventListener("toggle", () => more.open && tables.update().catch((error) => toast(error.message, "bad")));
  let mounted = null;
  let isOver = false;

  function update({ gateways }) {
    const row = gateways.find((one) => one.name === name);
    if (!row) {
      say(about, "This server has no such gateway.");
      return;
    }
    say(head, row.title);
    say(about, `${count(row.sessions_opened)} ${row.sessions_opened === 1 ? "session" : "sessions"} since the start, ${bytes(row.bytes_in)} received, ${bytes(row.bytes_out)} sent`);
    for (const { shown, line, valueOf, series } of figures) {
      shown.set(valueOf(row));
      line.update(row.series[series]);
    }
  }

  async function mount() {
    const { panels } = await api.get("/panels");
    const panel = panels.find((one) => one.gateway === name);
    if (!panel) return;
    const module = await import(panel.module);
    if (isOver) return;
    mounted = module.mount(place, panelApi(api, name));
  }

  const end = live.on("overview", update);
  update(live.overview);
  mount().catch((error) => {
    fill(place, nothing(`The gateway's own page can't be shown: ${error.message}`, "warn"));
  });
  return {
    title: gatewayTitle(name),
    stop() {
      isOver = true;
      end();
      tables.stop();
      mounted?.unmount?.();
    },
    root: el("div", { class: "stack" },
      el("header", { class: "page-head" }, el("p", { class: "crumbs" }, el("a", { href: "#/gateways" }, "Gateways")), head, about),
      el("div", { class: "tiles" }, figures.map((one) => one.root)),
      place, more),
  };
}

/** What a panel gets: its own operations by their paths, and whether its user may order anything. */
function panelApi(api, gateway) {
  const base = `/panels/${encodeURIComponent(gateway)}`;
  return {
    gateway,
    may: (scope) => api.may(scope),
    get: (path, query) => api.get(base + path, query),
    post: (path, body) => api.post(base + path, body),
    put: (path, body) => api.put(base + path, body),
    delete: (path) => api.delete(base + path),
    stream: (path, listeners) => api.stream(base + path, listeners),
  };
}

/** Who is connected has sent and got something: nothing means that it is not counted. */
function counted(value) {
  return value ? bytes(value) : "–";
}
