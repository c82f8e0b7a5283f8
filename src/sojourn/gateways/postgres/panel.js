/** PostgreSQL: which server is the primary and how far the others are, who waits in the pools, what befell them. */
import { ago, badge, button, bytes, card, confirm, count, el, fill, lasting, moment, nothing, repeat, table, toast } from "/static/kit.js";

export const title = "PostgreSQL";
const REFRESH_MS = 1000;
const NODE_TONES = { PRIMARY: "ok", REPLICA: "ok", UP: "ok", UNKNOWN: "warn", LAGGING: "warn", SUSPECT: "warn", DOWN: "bad", STALE: "bad", FENCED: "bad" };
const CLUSTER_TONES = { NORMAL: "ok", SUSPECT: "warn", BUFFERING: "warn", SWITCHING: "warn", DRAINING: "warn", GIVEN_UP: "bad" };
const OUTCOME_TONES = { ok: "", slow: "warn", failed: "bad", error: "bad" };
const INCIDENT_TONES = { failover: "warn", switchover: "info", restart: "warn", abandoned: "bad" };
const MET = {
  wait_and_send: ["waited and went on", "ok"],
  rebuild_and_send: ["waited and went on", "ok"],
  other_server: ["got its answer from another server", "ok"],
  replay_and_continue: ["went on in its transaction", "ok"],
  replay_verified: ["went on, if all was the same", "info"],
  repeat: ["was answered by the next server", "ok"],
  end_request: ["got the end of its answer", "ok"],
  answer_commit: ["was told: committed", "ok"],
  answer_rollback: ["was told: rolled back", "ok"],
  resolve_commit: ["waited for the outcome", "info"],
  fail_40001: ["was told to try again (40001)", "warn"],
  fail_08007: ["was told: outcome unknown (08007)", "bad"],
  drain_copy_and_fail: ["had its COPY fail", "bad"],
  rebuild_silently: ["noticed nothing", "ok"],
  warn_or_close: ["was warned, or closed", "bad"],
  warn: ["was warned", "warn"],
};
const words = (text) => String(text ?? "").toLowerCase().replaceAll("_", " ");
const plural = (number, one, more) => `${count(number)} ${number === 1 ? one : more}`;

export function mount(root, api) {
  const clusters = el("div", { class: "clusters" });
  const databases = table("Databases", [
    { title: "Database", value: (row) => row.name },
    { title: "State", value: (row) => (row.paused ? badge("paused", "warn") : row.disabled ? badge("disabled", "bad") : badge("open", "ok")), hint: "A paused database lends no servers: its clients wait" },
    { title: "At", value: (row) => (row.host ? `${row.host}:${row.port}` : "no primary"), mono: true },
    { title: "Clients", value: (row) => count(row.current_client_connections), numeric: true },
    { title: "Servers", value: (row) => (row.max_connections ? `${count(row.current_connections)} of ${count(row.max_connections)}` : count(row.current_connections)), numeric: true },
    { title: "Queries", value: (row) => count(row.totals?.query_count), numeric: true },
    { title: "Mean time", value: (row) => (row.totals?.query_count ? lasting(row.totals.query_time / row.totals.query_count / 1e6) : "–"), numeric: true, hint: "of a query, at the server" },
    { title: "", value: (row) => databaseActions(row) },
  ], { key: (row) => row.name, empty: "No database is configured" });
  const pools = table("Pools", [
    { title: "Database", value: (row) => row.database },
    { title: "User", value: (row) => row.user },
    { title: "Active clients", value: (row) => count(row.cl_active), numeric: true },
    { title: "Waiting", value: (row) => (row.cl_waiting ? badge(count(row.cl_waiting), "warn") : "0"), numeric: true },
    { title: "Longest wait", value: (row) => (row.cl_waiting ? lasting(row.maxwait + row.maxwait_us / 1e6) : "–"), numeric: true },
    { title: "Busy servers", value: (row) => count(row.sv_active), numeric: true },
    { title: "Free servers", value: (row) => count(row.sv_idle + row.sv_used), numeric: true },
    { title: "Shared per", value: (row) => row.pool_mode, hint: "For how long a client has a server: a transaction, a session or a statement" },
    { title: "Nodes", value: (row) => row.node.replaceAll(",", ", ") || "–" },
  ], { key: (row) => `${row.database} ${row.user}`, empty: "No client has come yet", limit: 100 });
  const servers = table("Servers", [
    { title: "Node", value: (row) => row.node || row.addr },
    { title: "State", value: (row) => badge(words(row.state), row.state === "active" ? "info" : "") },
    { title: "Database", value: (row) => row.database },
    { title: "User", value: (row) => row.user },
    { title: "Process", value: (row) => row.remote_pid || "–", numeric: true, hint: "The server's process, as in pg_stat_activity" },
    { title: "Open for", value: (row) => (row.connect_time ? lasting(Date.now() / 1000 - row.connect_time) : "–"), numeric: true },
  ], { key: (row) => `${row.id} ${row.ptr}`, empty: "No server is connected", limit: 50 });
  const failovers = table("Failovers", [
    { title: "When", value: (row) => moment(row.started) },
    { title: "What", value: (row) => incident(row), hint: "A switchover was ordered; a failover was not. A restart came back as it was" },
    { title: "From", value: (row) => row.old_primary || "–" },
    { title: "To", value: (row) => row.new_primary || "–" },
    { title: "Took", value: (row) => (row.ended ? lasting(row.ended - row.started) : `${lasting(Date.now() / 1000 - row.started)} so far`), numeric: true, hint: "From the first doubt to the last client served" },
    { title: "No primary for", value: (row) => (row.held_ms === null ? "–" : lasting(row.held_ms / 1000)), numeric: true },
    { title: "Clients held", value: (row) => count(row.clients_held), numeric: true, hint: "They waited and went on; none was disconnected" },
    { title: "Refused", value: (row) => (row.clients_refused ? badge(count(row.clients_refused), "bad") : "0"), numeric: true, hint: "They waited in vain and were told so; they stayed connected" },
    { title: "Cause", value: (row) => row.cause, wide: true },
  ], { key: (row) => `${row.cluster} ${row.id}`, empty: "No primary was lost or moved since the start", limit: 20 });
  const losses = table("What became of clients", [
    { title: "The client", value: (row) => badge(...(MET[row.action] ?? [words(row.action) || "was disconnected", "bad"])) },
    { title: "Because", value: (row) => row.reason, wide: true },
    { title: "Times", value: (row) => count(row.count), numeric: true },
    { title: "Last", value: (row) => ago(row.last), numeric: true },
  ], { key: (row) => row.situation + row.action, empty: "No server was lost under a client" });
  const statements = table("Statements", [
    { title: "When", value: (row) => moment(row.time) },
    { title: "Outcome", value: (row) => badge([words(row.outcome), row.sqlstate].filter(Boolean).join(" "), row.sqlstate && row.sqlstate !== "00000" ? "bad" : OUTCOME_TONES[words(row.outcome)] ?? "") },
    { title: "Took", value: (row) => (row.duration_us ? lasting(row.duration_us / 1e6) : "–"), numeric: true },
    { title: "Statement", value: (row) => row.statement || "–", mono: true },
    { title: "Database", value: (row) => row.database },
    { title: "User", value: (row) => row.user },
    { title: "Node", value: (row) => row.node },
  ], { key: (row) => `${row.time} ${row.client} ${row.statement}`, empty: "No statement was slow or failed", limit: 50 });
  let search = "";
  let typing = 0;

  function incident(row) {
    if (row.ended) return badge(row.state || row.kind, INCIDENT_TONES[row.state] ?? INCIDENT_TONES[row.kind]);
    return badge(`${row.kind}: ${words(row.state)}`, "bad");
  }

  function databaseActions(row) {
    if (!api.may("operate")) return "";
    return row.paused
      ? button("Resume", () => order(`/databases/${encodeURIComponent(row.name)}/resume`, null, `${row.name} goes on.`), { label: `Resume ${row.name}` })
      : button("Pause", () => order(`/databases/${encodeURIComponent(row.name)}/pause`, {
        title: `Pause ${row.name}?`, text: "Its clients stay connected and wait; those in a transaction finish it first. Resume ends it.", verb: "Pause" }, `${row.name} is paused.`), { label: `Pause ${row.name}` });
  }

  async function order(path, question, done, body) {
    if (question && !(await confirm(question))) return;
    try {
      await api.post(path, body);
      toast(done, "ok");
      await update();
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  function moveTo(cluster, node) {
    order(`/clusters/${encodeURIComponent(cluster)}/switchover`, {
      title: `Make ${node} the primary of ${cluster}?`, text: "Clients are held for a moment and go on at the new primary; none is disconnected.", verb: "Switch over", tone: "primary" },
    `${node} is the primary now.`, { node });
  }

  function showClusters(state) {
    const shown = JSON.stringify([state.clusters, state.nodes.map(({ seen, ...rest }) => rest)]);
    if (clusters.dataset.shown === shown) return;
    clusters.dataset.shown = shown;
    if (!state.clusters.length) fill(clusters, nothing("No cluster is configured", "gateways"));
    else fill(clusters, state.clusters.map((cluster) => clusterCard(cluster, state.nodes.filter((node) => node.cluster === cluster.cluster))));
  }

  function clusterCard(cluster, nodes) {
    const held = cluster.held_clients ? `, ${plural(cluster.held_clients, "client waits", "clients wait")}` : "";
    return card(cluster.cluster, {
      hint: `timeline ${cluster.timeline}, ${plural(cluster.failovers, "incident", "incidents")} since the start${held}`,
      actions: badge(words(cluster.state), CLUSTER_TONES[cluster.state] ?? "warn"),
    }, el("ul", { class: "nodes" }, nodes.map((node) => nodeItem(cluster, node))));
  }

  function nodeItem(cluster, node) {
    // The name stays until another primary is known; whether it is one still is the node's own state.
    const isPrimary = node.node === cluster.primary && node.state === "PRIMARY" && cluster.state !== "BUFFERING";
    const wasPrimary = node.node === cluster.primary && !isPrimary;
    const state = wasPrimary && node.state === "PRIMARY" ? "was primary" : words(node.state);
    return el("li", { class: `node ${isPrimary ? "primary" : ""}`, data: { state } },
      el("div", { class: "node-head" }, el("b", {}, node.node), badge(state, wasPrimary ? "bad" : NODE_TONES[node.state] ?? "warn")),
      el("p", { class: "mono hint" }, `${node.host}:${node.port}`),
      el("p", { class: "hint", title: node.evidence }, isPrimary ? `at ${node.lsn || "–"}` : lagOf(node)),
      el("p", { class: "hint" }, plural(node.servers, "connection", "connections")),
      cluster.state === "NORMAL" && api.may("admin") && node.state === "REPLICA" && button("Make primary", () => moveTo(cluster.cluster, node.node), { label: `Make ${node.node} the primary` }));
  }

  function lagOf(node) {
    if (node.lag_ms === null && node.lag_bytes === null) return node.evidence || "lag unknown";
    if (!node.lag_ms && !node.lag_bytes) return "up to date";
    return `behind by ${[node.lag_bytes !== null && bytes(node.lag_bytes), node.lag_ms !== null && lasting(node.lag_ms / 1000)].filter(Boolean).join(", ")}`;
  }

  async function update() {
    const [state, pooled, connected, logged] = await Promise.all([
      api.get("/state"), api.get("/pools"), api.get("/servers"), api.get("/statements", { search })]);
    showClusters(state);
    const totals = new Map(pooled.totals.map((row) => [row.database, row]));
    databases.update(pooled.databases.map((row) => ({ ...row, totals: totals.get(row.name) })));
    pools.update(pooled.pools);
    servers.update(connected.servers);
    const held = new Map(state.clusters.map((row) => [row.cluster, row.held_clients]));
    failovers.update(state.failovers.map((row) => (row.ended ? row : { ...row, clients_held: Math.max(row.clients_held, held.get(row.cluster) ?? 0) })));
    losses.update(state.losses);
    statements.update(logged.statements);
  }

  const find = el("input", { type: "search", placeholder: "Text, user, outcome", "aria-label": "Find statements", maxlength: 200, on: { input: () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      search = find.value.trim();
      update().catch(() => {});
    }, 200);
  } } });
  fill(root,
    clusters,
    card("Databases", { hint: "What clients connect to, and where it is now" }, databases.root),
    card("Pools", { hint: "One per database and user; those where clients wait first" }, pools.root),
    card("Failovers", { hint: "Primaries that were lost or moved, newest first" }, failovers.root, el("h3", { class: "inner-title" }, "What became of clients"), losses.root),
    card("Statements", { hint: "Slow and failed ones, newest first; values are masked", actions: find }, statements.root),
    card("Servers", { hint: "Connections that the pools have open, busy ones first" }, servers.root));
  return { unmount: repeat(() => update().catch(() => {}), REFRESH_MS) };
}
