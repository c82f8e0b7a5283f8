/** The exchange: who trades, what they see now, the simulators behind them, and the pods that share the work. */
import { ago, badge, button, card, chart, confirm, count, el, facts, fill, moment, nothing, repeat, say, table, toast } from "/static/kit.js";

export const title = "Exchange";
const REFRESH_MS = 2000;
const MARKET_MS = 500;
const POINTS = 600;
const STATE_TONES = { running: "ok", starting: "warn", requested: "warn", stopping: "warn", failed: "bad", ok: "ok", degraded: "warn", down: "bad" };
const BACKEND_WORDS = { database: "Database", bus: "Between pods", auth: "Tokens", simulators: "Simulators" };
const ORDER_TONES = { filled: "ok", partially_filled: "info", new: "info", rejected: "bad", canceled: "" };

export function mount(root, api) {
  let chosen = "";
  let symbol = "";
  const prices = new Map();
  let users = new Map();

  const sessions = table("Sessions", [
    { title: "User", value: (row) => el("button", { type: "button", class: "link-button", "aria-pressed": String(row.id === chosen), on: { click: () => choose(row.id) } }, row.subject) },
    { title: "Links", value: (row) => (row.links ? count(row.links) : badge("away")), numeric: true, hint: "WebSockets on this pod; a session outlives them" },
    { title: "Simulator", value: (row) => badge(row.simulator, STATE_TONES[row.simulator]), hint: "The session's own market" },
  ], { key: (row) => row.id, empty: "Nobody has a session on this pod", limit: 100 });

  const market = el("div", { class: "market" });
  const marketTitle = el("p", { class: "hint" });
  const rows = table("Prices", [
    { title: "Symbol", value: (row) => el("button", { type: "button", class: "link-button", "aria-pressed": String(row.s === symbol), on: { click: () => show(row.s) } }, row.s) },
    { title: "Bid", value: (row) => money(row.bid), numeric: true, hint: "The best price that somebody would pay" },
    { title: "Ask", value: (row) => money(row.ask), numeric: true, hint: "The best price that somebody would sell for" },
    { title: "Last", value: (row) => money(row.last), numeric: true, hint: "The price of the last trade" },
    { title: "Change", value: (row) => change(prices.get(row.s)), numeric: true, hint: "Of the last price since this page shows it" },
    { title: "Volume", value: (row) => count(row.volume ?? 0), numeric: true },
  ], { key: (row) => row.s, empty: "The market has not opened" });
  const line = chart("Last price");
  const orders = table("Orders", [
    { title: "Order", value: (row) => `${row.side ?? ""} ${count(row.quantity)} ${row.symbol ?? ""}`.trim() || `${row.order}` },
    { title: "Price", value: (row) => money(row.average_price ?? row.price), numeric: true, hint: "Of what is filled on average, else what was asked for" },
    { title: "Filled", value: (row) => `${count(row.filled ?? 0)} of ${count(row.quantity ?? 0)}`, numeric: true },
    { title: "State", value: (row) => el("span", {}, badge(words(row.status), ORDER_TONES[row.status]), row.reason && ` ${words(row.reason)}`) },
  ], { key: (row) => row.order, empty: "No order yet", limit: 20 });
  const wallet = el("div", { class: "wallet" });
  const chartTitle = el("h3", {}, "Price");
  const chartHint = el("p", { class: "hint" });

  const simulators = table("Simulators", [
    { title: "Simulator", value: (row) => el("span", { title: row.id }, `…${row.id.slice(-12)}`), mono: true },
    { title: "Whose", value: (row) => users.get(row.session) ?? `…${row.session.slice(-8)}`, hint: "The user, where the session is on this pod" },
    { title: "State", value: (row) => badge(row.is_unreachable ? "unreachable" : row.state, row.is_unreachable ? "bad" : STATE_TONES[row.state]) },
    { title: "Since", value: (row) => ago(Date.parse(row.changed_at) / 1000), numeric: true },
    { title: "Why", value: (row) => row.failure || "–" },
    { title: "", value: (row) => api.may("operate") && row.state === "running" && button("Stop", () => stop(row), { label: `Stop ${row.id}` }) },
  ], { key: (row) => row.id, empty: "No simulator was started", limit: 50 });
  const pods = table("Pods", [
    { title: "Pod", value: (row) => row.name },
    { title: "State", value: (row) => (row.is_draining ? badge("draining", "warn") : badge("ready", "ok")) },
    { title: "Sessions", value: (row) => count(row.sessions_count), numeric: true },
    { title: "Links", value: (row) => count(row.links_count), numeric: true },
    { title: "Address", value: (row) => row.address, mono: true },
  ], { key: (row) => row.name, empty: "No pod is known" });
  const pool = el("div");

  function choose(id) {
    if (chosen === id) return;
    chosen = id;
    prices.clear();
    symbol = "";
    look().catch(() => {});
  }

  function show(name) {
    symbol = name;
    draw();
  }

  function draw() {
    const points = prices.get(symbol) ?? [];
    say(chartTitle, symbol ? `${symbol}, last price` : "Price");
    say(chartHint, points.length ? `since ${moment(points[0][0])}` : "");
    line.update(points);
  }

  async function look() {
    if (!chosen) return;
    let seen;
    try {
      seen = await api.get(`/sessions/${encodeURIComponent(chosen)}/market`);
    } catch (error) {
      if (error.status !== 404) return;
      chosen = "";
      showMarket(null);
      return;
    }
    const now = Date.now() / 1000;
    for (const row of seen.rows) {
      const points = prices.get(row.s) ?? [];
      points.push([now, Number(row.last)]);
      if (points.length > POINTS) points.shift();
      prices.set(row.s, points);
    }
    symbol ||= seen.rows[0]?.s ?? "";
    showMarket(seen);
  }

  function showMarket(seen) {
    const isThere = Boolean(seen?.rows.length);
    if (market.dataset.isThere !== String(isThere)) {
      market.dataset.isThere = String(isThere);
      if (isThere) fill(market, el("div", { class: "market-side" }, rows.root, wallet), el("div", { class: "market-main" }, el("div", { class: "market-head" }, chartTitle, chartHint), line.root), el("div", { class: "market-wide" }, el("h3", { class: "inner-title" }, "Orders"), orders.root));
      else fill(market, nothing("No market is open. Choose a session whose simulator runs, or wait for one.", "sessions"));
    }
    say(marketTitle, seen ? `as ${seen.subject} sees it` : "");
    if (!isThere) return;
    rows.update(seen.rows);
    orders.update(seen.orders);
    const holdings = seen.portfolio?.positions?.filter((one) => one.quantity) ?? [];
    fill(wallet, facts([
      ["Cash", money(seen.portfolio?.cash)],
      ["Worth", money(seen.portfolio?.value)],
      ["Holds", holdings.map((one) => `${count(one.quantity)} ${one.symbol}`).join(", ") || "nothing"],
    ]));
    draw();
  }

  async function stop(row) {
    if (!(await confirm({ title: "Stop this simulator?", text: `${row.id}: its market closes; the session stays, and its user may start another.`, verb: "Stop" }))) return;
    try {
      await api.post(`/simulators/${encodeURIComponent(row.id)}/stop`);
      toast("The simulator stops.", "ok");
      await update();
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  async function update() {
    const [present, all, others, mine] = await Promise.all([
      api.get("/sessions"), api.get("/simulators", { limit: 50 }).catch(() => null), api.get("/pods").catch(() => null), api.get("/pod")]);
    if (!present.sessions.some((one) => one.id === chosen)) chosen = "";
    if (!chosen) choose(present.sessions.find((one) => one.simulator === "running")?.id ?? "");
    users = new Map(present.sessions.map((one) => [one.id, one.subject]));
    sessions.update(present.sessions);
    if (all) simulators.update(all.simulators);
    if (others) pods.update(others.pods);
    fill(pool, facts([
      ...mine.backends.map(({ name, state }) => [BACKEND_WORDS[name] ?? name, badge(state, STATE_TONES[state])]),
      ["Simulators run", mine.driver === "process" ? "as processes" : mine.driver],
      ...Object.entries(mine.phases).map(([phase, number]) => [`Now ${words(phase)}`, count(number)]),
      ["Waiting unused", count(mine.unused)],
    ]));
  }

  for (const one of [sessions, rows, orders]) one.root.classList.add("dense");
  rows.root.classList.add("prices");
  showMarket(null);
  fill(root,
    el("div", { class: "columns narrow-left" },
      el("div", { class: "stack" },
        card("Sessions", { hint: "on this pod; choose one to see its market" }, sessions.root),
        card("Health and pool", { hint: "What this pod needs, and the simulators that it sees" }, pool)),
      card("Market", { actions: marketTitle }, market)),
    el("div", { class: "columns two" }, card("Simulators", { hint: "of all pods, newest first" }, simulators.root), card("Pods", { hint: "that are alive" }, pods.root)));
  const ends = [repeat(() => update().catch(() => {}), REFRESH_MS), repeat(() => look().catch(() => {}), MARKET_MS)];
  return {
    unmount() {
      ends.forEach((end) => end());
      line.stop();
    },
  };
}

function words(text) {
  return String(text ?? "").replaceAll("_", " ");
}

/** How far a price has moved, with an arrow: nobody needs the colour. */
function change(points) {
  if (!points?.length) return "–";
  const share = points.at(-1)[1] / points[0][1] - 1;
  if (Math.abs(share) < 0.000_05) return "0.00 %";
  return el("span", { class: share > 0 ? "up" : "down" }, `${share > 0 ? "▲" : "▼"} ${Math.abs(share * 100).toFixed(2)} %`);
}

function money(text) {
  if (text === undefined || text === null || text === "") return "–";
  const value = Number(text);
  return Number.isNaN(value) ? String(text) : value.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 4 });
}
