/** TACACS+: what was decided and why, who is locked out, which devices are there, and where records go. */
import { ago, badge, button, card, choice, confirm, count, el, fill, icon, lasting, moment, repeat, say, table, toast } from "/static/kit.js";

export const title = "TACACS+";
const REFRESH_MS = 2000;
const SHOWN = 50;
const OUTCOME_TONES = { pass: "ok", permit: "ok", success: "ok", fail: "bad", deny: "bad", error: "warn" };
const HEALTH_TONES = { up: "ok", trial: "warn", opening: "warn", down: "bad" };
const KIND_WORDS = { login: "Login", command: "Command", record: "Record" };

export function mount(root, api) {
  const wanted = { outcome: "", search: "" };
  let typing = 0;

  const decisions = table("Decisions", [
    { title: "When", value: (row) => moment(row.at) },
    { title: "Answer", value: (row) => badge(row.outcome, OUTCOME_TONES[row.outcome]) },
    { title: "What", value: (row) => KIND_WORDS[row.kind] ?? row.kind },
    { title: "User", value: (row) => row.user || "–" },
    { title: "Device", value: (row) => row.device },
    { title: "Asked", value: (row) => row.request || "the session", mono: true },
    { title: "Rule", value: (row) => row.rule || "–", hint: "The rule of [[tacacs.rules]] that decided; the first that matches does" },
    { title: "Why", value: (row) => row.reason },
    { title: "", value: (row) => actionsOf(row) },
  ], { key: (row) => `${row.at} ${row.session} ${row.kind}`, empty: "No decision of this kind yet", limit: SHOWN });

  const explanation = el("div", { class: "explanation", "aria-live": "polite" });
  const fields = Object.fromEntries([["user", "User"], ["device", "Device"], ["command", "Command"]].map(([name, label]) => {
    const input = el("input", { name, autocomplete: "off", spellcheck: "false", maxlength: 255, required: name !== "command", placeholder: name === "command" ? "show version" : null });
    return [name, { input, label: el("label", {}, label, input) }];
  }));
  const form = el("form", { class: "inline-form", on: { submit: (submitted) => {
    submitted.preventDefault();
    explain();
  } } }, Object.values(fields).map((field) => field.label), el("button", { class: "button primary", type: "submit" }, "Explain"));
  const explainer = card("Why?", { hint: "Asks the rules in force now: what would be decided, and which condition of each rule holds" }, form, explanation);

  const lockouts = table("Locked out", [
    { title: "User", value: (row) => row.user },
    { title: "What", value: (row) => (row.what === "enable" ? "ENABLE password" : "login") },
    { title: "For another", value: (row) => lasting(row.remaining_s), numeric: true },
    { title: "", value: (row) => api.may("operate") && button("End", () => unlock(row), { label: `End the lock of ${row.user}` }) },
  ], { key: (row) => `${row.user} ${row.what}`, empty: "Nobody is locked out" });

  const devices = table("Devices", [
    { title: "Device", value: (row) => row.name },
    { title: "Connected", value: (row) => (row.connections ? badge(`${count(row.connections)} ${row.connections === 1 ? "connection" : "connections"}`, "ok") : badge("no")) },
    { title: "Groups", value: (row) => row.groups.join(", ") || "–" },
    { title: "Networks", value: (row) => [...row.networks, ...row.certificate_names].join(", "), mono: true },
    { title: "Key last used", value: (row) => lastUsed(row.keys), numeric: true },
    { title: "Keys", value: (row) => keyBadge(row.keys), hint: "Shared secrets, by their place; the secrets themselves are never shown" },
  ], { key: (row) => row.name, empty: "No device is configured", limit: 200 });

  const sinks = table("Accounting sinks", [
    { title: "Sink", value: (row) => row.name },
    { title: "Kind", value: (row) => row.kind },
    { title: "Health", value: (row) => badge(row.health, HEALTH_TONES[row.health]) },
    { title: "Waiting", value: (row) => count(row.waiting), numeric: true },
    { title: "Stored", value: (row) => count(row.stored), numeric: true },
    { title: "Lost", value: (row) => count(row.failed), numeric: true },
    { title: "Last error", value: (row) => row.last_error || row.warning || "–", wide: true },
  ], { key: (row) => row.name, empty: "No sink is configured: records are answered with an error" });

  function actionsOf(row) {
    const isCommand = row.kind === "command";
    return el("span", { class: "row-actions" },
      isCommand && button("Explain", () => explainRow(row), { label: `Explain ${row.request} of ${row.user}` }),
      row.session && el("a", { class: "more-link", href: `#/sessions/${encodeURIComponent(row.session)}` }, "Diagram"));
  }

  function explainRow(row) {
    fields.user.input.value = row.user;
    fields.device.input.value = row.device;
    fields.command.input.value = row.request;
    explain();
    explainer.scrollIntoView({ block: "center" });
  }

  async function explain() {
    const asked = Object.fromEntries(Object.entries(fields).map(([name, { input }]) => [name, input.value.trim()]));
    try {
      const answer = await api.get("/explain", asked);
      fill(explanation,
        el("p", { class: `verdict ${answer.is_permitted ? "ok" : "bad"}` }, icon(answer.is_permitted ? "check" : "close"), answer.words),
        answer.steps.length > 0 && el("ol", { class: "steps" }, answer.steps.map((step) =>
          el("li", { class: step.is_match ? "is-match" : null }, badge(step.is_match ? "matches" : "does not match", step.is_match ? (answer.is_permitted ? "ok" : "bad") : ""), el("b", {}, step.rule), el("span", {}, step.words)))));
    } catch (error) {
      fill(explanation, el("p", { class: "problem-line" }, error.message));
    }
  }

  async function unlock(row) {
    if (!(await confirm({ title: `Let ${row.user} try again?`, text: "The lock ends now, and wrong passwords are counted anew.", verb: "End the lock", tone: "primary" }))) return;
    try {
      await api.post(`/lockouts/${encodeURIComponent(row.user)}/end`);
      toast(`${row.user} may try again.`, "ok");
      await update();
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  async function update() {
    const [decided, locked, known, stored] = await Promise.all([
      api.get("/decisions", { ...wanted, limit: SHOWN }), api.get("/lockouts"), api.get("/devices"), api.get("/sinks")]);
    decisions.update(decided.decisions);
    lockouts.update(locked.lockouts);
    devices.update(known.devices);
    sinks.update(stored.sinks);
    say(lockCount, locked.lockouts.length ? count(locked.lockouts.length) : "");
  }

  const lockCount = el("span");
  const search = el("input", { type: "search", placeholder: "User, device, command, rule", "aria-label": "Find decisions", maxlength: 200, on: { input: () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      wanted.search = search.value.trim();
      update().catch(() => {});
    }, 200);
  } } });
  const outcomes = choice("Which decisions", [["", "All"], ["denied", "Denied"]], "", (outcome) => {
    wanted.outcome = outcome;
    update().catch(() => {});
  });
  fill(root,
    card("Decisions", { hint: "The last ones, newest first", actions: [search, outcomes] }, decisions.root),
    el("div", { class: "columns wide-left" }, explainer, card("Locked out", { hint: "After too many wrong passwords" }, lockouts.root)),
    card("Devices", { hint: "Connected ones first" }, devices.root),
    card("Accounting", { hint: "Where records of what users did are stored; a device gets SUCCESS only when all have stored it" }, sinks.root));
  return { unmount: repeat(() => update().catch(() => {}), REFRESH_MS) };
}

function lastUsed(keys) {
  const last = Math.max(0, ...keys.map((key) => key.last_used ?? 0));
  return last ? ago(last) : "never";
}

function keyBadge(keys) {
  const warnings = keys.flatMap((key) => key.warnings.map((warning) => (keys.length > 1 ? `key ${key.index + 1}: ${warning}` : warning)));
  if (!warnings.length) return badge(keys.length === 1 ? "1 key" : `${keys.length} keys`, keys.length ? "ok" : "");
  const made = badge(warnings.length === 1 ? warnings[0] : `${warnings.length} warnings`, "warn");
  made.title = warnings.join("; ");
  return made;
}
