/**
 * Alarm panels: partitions and zones as they are, arming and bypassing, what happened, what is wrong, and who calls.
 *
 * A code that somebody types is in the one field for it and in the one request that needs it, and nowhere else.
 */
import { ago, badge, button, card, choice, count, el, facts, fill, icon, lasting, moment, nothing, repeat, say, svg, table, toast, VirtualList } from "/static/kit.js";

export const title = "Alarm panels";
const TICK_MS = 1000;
const LEARNING_MS = 2000;
const DIAGNOSIS_MS = 1000;
const SEARCH_MS = 200;
const PAGE = 50;
const KEPT = 1000;
const LEARN_S = 300;
const NAMES = new Intl.Collator("en", { numeric: true });
const CODE = /^(?:[0-9]{4}|[0-9]{6}|[0-9]{8})$/u;

const STATUS = {
  disarmed: ["Disarmed", "", "open"],
  arming: ["Arming", "warn", "clock"],
  armed_away: ["Armed away", "info", "closed"],
  armed_home: ["Armed stay", "info", "closed"],
  armed_night: ["Armed night", "info", "closed"],
  pending: ["Entry delay", "warn", "clock"],
  triggered: ["Alarm", "bad", "alarm"],
  unknown: ["Not known yet", "", "open"],
};
const SHIELDS = {
  open: "M12 3 5 6v5c0 4.6 2.9 8.2 7 10 4.1-1.8 7-5.4 7-10V6Z",
  closed: "M12 3 5 6v5c0 4.6 2.9 8.2 7 10 4.1-1.8 7-5.4 7-10V6ZM9 12l2.2 2.2L15.2 10",
  clock: "M12 3 5 6v5c0 4.6 2.9 8.2 7 10 4.1-1.8 7-5.4 7-10V6ZM12 8.2V12l2.3 1.8",
  alarm: "M12 3 5 6v5c0 4.6 2.9 8.2 7 10 4.1-1.8 7-5.4 7-10V6ZM12 8v4.4m0 2.8h.01",
};
const MODES = [["stay", "Stay"], ["away", "Away"], ["night", "Night"]];
const READY = { ready: ["Ready", "ok"], force: ["Ready, leaving open zones out", "warn"], not_ready: ["Not ready", "warn"] };
const PHASES = {
  handshake: "says who it is", replay: "tells what it kept", "reading configuration": "is being read", "reading status": "is being read",
};
/** What is wrong with a zone, the gravest first: its field, in words, and the tone. */
const WRONGS = [
  ["alarm", "Alarm", "bad"], ["tamper", "Tamper", "bad"], ["fault", "Fault", "warn"], ["low_battery", "Low battery", "warn"],
  ["delinquency", "Not used for long", "warn"], ["alarm_memory", "Was in alarm", "warn"],
];
const KIND_GROUPS = {
  "": ["Everything", ""],
  alarms: ["Alarms", "alarm,alarm_restored,alarm_memory,zone_alarm,zone_alarm_restored,zone_alarm_memory,siren_started,siren_ended,fire_pre_alert,fire_pre_alert_ended"],
  arming: ["Arming", "armed,disarmed,exit_delay_started,exit_delay_ended,entry_delay_started,entry_delay_ended"],
  zones: ["Zones", "zone_opened,zone_closed,zone_bypassed,zone_unbypassed"],
  troubles: ["Troubles", "trouble,trouble_restored,zone_tamper,zone_tamper_restored,zone_fault,zone_fault_restored,zone_low_battery,zone_low_battery_restored,zone_delinquent,zone_delinquent_restored,clock_wrong,clock_right"],
  orders: ["Orders from here", "command"],
  connection: ["Connection", "connected,disconnected,configuration_changed,programming_started,programming_ended"],
};
const KIND_TONES = [[/^(zone_)?alarm$|siren_started|fire_pre_alert$/u, "bad"], [/tamper$|fault$|low_battery$|delinquent$|^trouble$|memory$|^disconnected$|^clock_wrong$/u, "warn"], [/armed$/u, "info"], [/restored$|^connected$|_right$/u, "ok"]];
const SOURCES = { pull: "noticed when it was asked for", replay: "the panel told it after it was back" };

export function mount(root, api) {
  const rows = new Map();
  let chosen = "";
  let endStream = () => {};
  let isOver = false;
  let offsetMs = 0;
  const house = makeHouse(api, () => Date.now() + offsetMs);
  const list = makeList(rows, choose);
  const callers = makeCallers(api);
  const empty = card("No panel is configured", { hint: "Panels dial this server; it serves those that are in its configuration" },
    nothing("Add one as [[itv2.panels]]. Whose Integration ID you do not know, you find below: let the server learn who calls.", "search"));
  const place = el("div", { class: "houses" }, list.root, house.root);
  fill(root, place, empty, callers.root);

  function choose(name) {
    if (chosen === name) return;
    chosen = name;
    house.choose(name);
    list.mark(name);
    endStream();
    endStream = api.stream(`/live?panel=${encodeURIComponent(name)}`, { panel: hear, lost: () => house.lost(), open: () => house.found() });
  }

  function hear(news) {
    offsetMs = news.now_ms - Date.now();
    for (const row of news.rows) rows.set(row.panel.name, row);
    for (const name of news.gone) rows.delete(name);
    if (news.rows.length || news.gone.length) show();
    if (rows.has(chosen)) house.hear(news, rows.get(chosen));
  }

  function show() {
    const names = [...rows.keys()].sort(NAMES.compare);
    empty.hidden = names.length > 0;
    place.hidden = names.length === 0;
    place.classList.toggle("many", names.length > 1);
    list.show(names);
    if (names.length && !rows.has(chosen)) choose(names.find((name) => rows.get(name).is_in_alarm) ?? names[0]);
  }

  show();
  endStream = api.stream("/live", { panel: hear });
  const endTicks = repeat(() => house.tick(), TICK_MS);
  return {
    unmount() {
      if (isOver) return;
      isOver = true;
      endStream();
      endTicks();
      list.stop();
      house.stop();
      callers.stop();
    },
  };
}

/** Every panel in a list that stays short in the page however many there are. */
function makeList(rows, choose) {
  const wanted = { search: "", which: "" };
  let names = [];
  let chosen = "";
  let typing = 0;
  const tally = el("p", { class: "hint", role: "status" });
  const none = nothing("No panel fits", "search");
  const box = el("div", { class: "house-list" });
  const list = new VirtualList({
    label: "Panels",
    make: () => el("div", { class: "house-line" }, el("span", { class: "house-dot" }), el("span", { class: "strong" }), el("span", { class: "house-word" })),
    show: showLine,
    open: (name) => choose(name),
  });
  const search = el("input", { type: "search", placeholder: "Name, id or state", "aria-label": "Find panels", maxlength: 100, on: { input: () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      wanted.search = search.value.trim().toLowerCase();
      draw();
    }, SEARCH_MS);
  } } });
  const which = choice("Which panels", [["", "All"], ["attention", "Need a look"]], "", (value) => {
    wanted.which = value;
    draw();
  });

  function showLine(node, name) {
    const row = rows.get(name);
    if (!row) return;
    const [dot, shown, word] = node.children;
    const [text, tone] = rowWords(row);
    dot.className = `house-dot ${tone}`;
    say(shown, name);
    say(word, text);
    node.classList.toggle("is-chosen", name === chosen);
  }

  function draw() {
    const fitting = names.filter((name) => {
      const row = rows.get(name);
      return (!wanted.which || needsALook(row)) && (!wanted.search || `${name} ${row.panel.integration_id} ${rowWords(row)[0]}`.toLowerCase().includes(wanted.search));
    });
    const away = names.filter((name) => !rows.get(name).panel.is_connected).length;
    say(tally, [`${count(names.length)} panels`, away && `${count(away)} not connected`].filter(Boolean).join(", "));
    none.hidden = fitting.length > 0;
    list.root.hidden = fitting.length === 0;
    box.style.maxHeight = `${Math.max(2, fitting.length) * list.lineHeight + 1}px`;
    list.set(fitting);
  }

  fill(box, list.root, none);
  return {
    root: card("Panels", {}, tally, el("div", { class: "house-filters" }, search, which), box),
    show(next) {
      names = next;
      draw();
    },
    mark(name) {
      chosen = name;
      list.current = Math.max(0, list.items.indexOf(name));
      list.refresh();
    },
    stop() {
      clearTimeout(typing);
      list.stop();
    },
  };
}

function needsALook(row) {
  return row.is_in_alarm || row.has_trouble || !row.panel.is_connected;
}

function rowWords(row) {
  if (row.is_in_alarm) return ["Alarm", "bad"];
  if (!row.panel.is_connected) return ["not connected", "bad"];
  if (row.panel.phase !== "connected") return [PHASES[row.panel.phase] ?? row.panel.phase, "warn"];
  const states = [...new Set(row.statuses)];
  const words = states.length === 1 ? (STATUS[states[0]] ?? STATUS.unknown)[0] : states.some((one) => one.startsWith("armed")) ? "partly armed" : "mixed";
  if (row.has_trouble) return [`${words}, trouble`, "warn"];
  return [words, states.length === 1 && states[0].startsWith("armed") ? "info" : "ok"];
}

/** The chosen panel in full. */
function makeHouse(api, now) {
  let name = "";
  let panel = null;
  let row = null;
  let asked = 0;
  let lastAskedAt = 0;
  let waiting = 0;
  let isLineLost = false;
  const head = el("div", { class: "house-head" });
  const heading = el("h2");
  const connection = el("span");
  const trust = el("p", { class: "trust", role: "status" });
  const about = el("div");
  const diagram = el("a", { class: "button", hidden: true }, "Diagram");
  const anew = api.may("operate") && button("Read anew", () => readAnew(), { title: "Ask the panel for all statuses now" });
  fill(head, el("div", { class: "house-name" }, heading, connection), trust, el("div", { class: "actions" }, anew, diagram), about);
  const findings = el("ul", { class: "findings", "aria-label": "What is wrong" });
  const failed = table("Failed connections", [
    { title: "When", value: (one) => moment(one.at_ms / 1000) },
    { title: "From", value: (one) => one.peer, mono: true },
    { title: "What it means", value: (one) => one.sentence, wide: true },
  ], { key: (one) => `${one.at_ms} ${one.peer}`, limit: 10 });
  const failedFold = el("details", { class: "fold", hidden: true }, el("summary", {}, "Connections that failed lately"), failed.root);
  const doctor = card("Doctor", { hint: "What is wrong with this panel, and what to do about it" }, findings, failedFold);
  const partitions = el("div", { class: "partitions" });
  const partitionCards = new Map();
  const zones = makeZones(api, order);
  const history = makeHistory(api);
  const root = el("div", { class: "stack house" }, el("section", { class: "card", "aria-label": "Panel" }, head), partitions, doctor, zones.root, history.root);

  function hear(news, newRow) {
    row = newRow;
    if (news.panel) panel = news.panel;
    else if (panel) {
      for (const key of ["zones", "partitions"]) for (const one of news[key]) replace(panel[key], one);
    }
    if (!panel) return;
    draw();
    if (news.has_happened) history.refresh();
    diagnose();
  }

  function replace(list, one) {
    const index = list.findIndex((old) => old.number === one.number);
    if (index < 0) list.push(one);
    else list[index] = one;
    list.sort((left, right) => left.number - right.number);
  }

  function draw() {
    const summary = row.panel;
    say(heading, summary.name);
    const [words, tone] = summary.is_connected ? (summary.phase === "connected" ? ["connected", "ok"] : [PHASES[summary.phase] ?? summary.phase, "warn"]) : ["not connected", "bad"];
    same(connection, badge(words, tone));
    diagram.hidden = !row.session;
    if (row.session) diagram.setAttribute("href", `#/sessions/${encodeURIComponent(row.session)}`);
    if (anew) anew.disabled = !summary.is_connected;
    same(about, facts([
      ["Integration ID", el("code", {}, summary.integration_id), "Section [851][422]: how the panel says who it is"],
      ["Connected since", summary.connected_since_ms ? moment(summary.connected_since_ms / 1000) : "–"],
      ["Firmware", panel.firmware?.value ?? ""],
      ["Encryption", panel.encryption_type ? `Type ${panel.encryption_type.value}` : ""],
      ["Its clock", clockWords(panel.clock_drift_s)],
      ["Zones", zonesWords(row, summary)],
    ]));
    tick();
    for (const one of panel.partitions) {
      let shown = partitionCards.get(one.number);
      if (!shown) partitionCards.set(one.number, (shown = makePartition(api, one.number, order)));
      shown.show(one, panel, summary);
    }
    for (const [number, shown] of partitionCards) {
      if (panel.partitions.some((one) => one.number === number)) continue;
      shown.root.remove();
      partitionCards.delete(number);
    }
    const ordered = panel.partitions.map((one) => partitionCards.get(one.number).root);
    if (ordered.some((node, index) => partitions.children[index] !== node)) fill(partitions, ordered);
    zones.show(panel, summary);
    history.know(panel);
  }

  function tick() {
    if (!row) return;
    const summary = row.panel;
    const heard = summary.last_heard_ms ? `, last heard ${ago(summary.last_heard_ms / 1000, now() / 1000)}` : "";
    const isTrue = !summary.is_stale && !isLineLost;
    trust.className = `trust ${isTrue ? "ok" : "warn"}`;
    const words = isLineLost ? "No connection to the server: what you see is what was"
      : isTrue ? `Everything here is so now${heard}`
        : summary.is_connected ? `It is being read: not all of this is certain yet${heard}`
          : summary.last_heard_ms || panel?.partitions.length ? `Not certain: this is how it was when it was${heard.replace(",", "")}` : "It has never called: nothing is known of it";
    say(trust, words);
    for (const shown of partitionCards.values()) shown.tick(now());
  }

  function diagnose() {
    if (waiting) return;
    waiting = setTimeout(async () => {
      waiting = 0;
      lastAskedAt = Date.now();
      const mine = (asked += 1);
      try {
        const found = await api.get(`/panels/${encodeURIComponent(name)}/diagnosis`);
        if (mine !== asked) return;
        showFindings(found);
      } catch {
        // The next news asks again.
      }
    }, Math.max(0, lastAskedAt + DIAGNOSIS_MS - Date.now()));
  }

  function showFindings(found) {
    const lines = found.findings.map((one) => el("li", { class: `finding ${one.severity === "error" ? "bad" : "warn"}` }, icon("warn"),
      el("div", {}, el("b", {}, one.text), el("p", {}, one.advice)), one.since_ms ? el("time", {}, `since ${moment(one.since_ms / 1000)}`) : null));
    same(findings, lines.length ? lines : el("li", { class: "finding ok" }, icon("check"), el("div", {}, el("b", {}, "Nothing is wrong"), el("p", {}, "Connected, read in full, no alarm and no trouble."))));
    failed.update(found.failures);
    failedFold.hidden = found.failures.length === 0;
  }

  async function readAnew() {
    anew.disabled = true;
    try {
      const outcome = await api.post(`/panels/${encodeURIComponent(name)}/refresh`);
      toast(outcome.result === "accepted" ? "Everything was read anew." : `Not read: ${outcome.reason}`, outcome.result === "accepted" ? "ok" : "bad");
    } catch (error) {
      toast(error.message, "bad");
    } finally {
      anew.disabled = !row?.panel.is_connected;
    }
  }

  function order(partition, verb, body) {
    return api.post(`/panels/${encodeURIComponent(name)}/partitions/${partition}/${verb}`, body);
  }

  return {
    root,
    hear,
    tick,
    lost() {
      isLineLost = true;
      tick();
    },
    found() {
      isLineLost = false;
    },
    choose(next) {
      name = next;
      panel = null;
      row = null;
      asked += 1;
      partitionCards.clear();
      fill(partitions);
      fill(findings);
      zones.clear();
      history.choose(next);
    },
    stop() {
      clearTimeout(waiting);
      asked += 1;
      history.stop();
      zones.stop();
    },
  };
}

function clockWords(drift) {
  if (!drift) return "";
  const seconds = Math.abs(drift.value);
  return seconds < 2 ? "right" : `${lasting(seconds)} ${drift.value > 0 ? "ahead" : "behind"}`;
}

function zonesWords(row, summary) {
  return [`${count(summary.zones_count)}`, row.open_count && `${count(row.open_count)} open`, row.bypassed_count && `${count(row.bypassed_count)} bypassed`].filter(Boolean).join(", ");
}

/** Put other children into an element only where they differ: what is focused or being read stays. */
function same(node, ...children) {
  const wanted = fill(node.cloneNode(false), ...children);
  if (!node.isEqualNode(wanted)) node.replaceChildren(...wanted.childNodes);
}

function isOn(value) {
  return value?.value === true;
}

function nameOf(one, kind) {
  return one.label?.value || `${kind} ${one.number}`;
}

/** One partition: what it is doing, whether it can be armed, and the orders. */
function makePartition(api, number, order) {
  let partition = null;
  let panel = null;
  const name = el("h2", { id: `partition-${number}` });
  const shield = el("span", { class: "shield", "aria-hidden": "true" });
  const status = el("b", { class: "partition-status", role: "status" });
  const sentence = el("p", { class: "hint" });
  const badges = el("p", { class: "badges" });
  const by = el("p", { class: "hint" });
  const arms = MODES.map(([mode, word]) => button(word, () => arm(mode, word), { label: `Arm ${word.toLowerCase()}, partition ${number}` }));
  const disarmer = button("Disarm", () => disarm(), { tone: "primary", label: `Disarm, partition ${number}` });
  const orders = api.may("operate") && el("div", { class: "partition-orders" },
    el("div", { class: "arms", role: "group", "aria-label": "Arm" }, el("span", { class: "hint" }, "Arm"), arms), disarmer);
  const root = el("section", { class: "card partition", "aria-labelledby": name.id },
    el("header", { class: "card-head" }, name, el("p", { class: "hint" }, `Partition ${number}`)),
    el("div", { class: "partition-now" }, shield, el("div", {}, status, sentence)), badges, by, orders);

  function show(next, house, summary) {
    [partition, panel] = [next, house];
    const [words, tone, symbol] = STATUS[next.status?.value] ?? STATUS.unknown;
    say(name, nameOf(next, "Partition"));
    say(status, words);
    root.className = `card partition ${tone} ${next.status?.is_stale ? "is-stale" : ""}`;
    same(shield, svg("svg", { viewBox: "0 0 24 24" }, svg("path", { d: SHIELDS[symbol] })));
    const isArmed = next.mode && next.mode.value !== "disarm";
    const isBusy = isArmed || isOn(next.alarm) || isOn(next.entry_delay) || isOn(next.exit_delay);
    same(badges,
      !isArmed && next.ready && badge(...(READY[next.ready.value] ?? [next.ready.value, ""])),
      isOn(next.trouble) && badge("Trouble", "warn"), isOn(next.bypass) && badge("Zones bypassed", "warn"),
      isOn(next.alarm_memory) && !isOn(next.alarm) && badge("Was in alarm", "warn"), isOn(next.siren) && badge("Siren", "bad"),
      isOn(next.fire_pre_alert) && badge("Fire pre-alert", "bad"), isOn(next.programming) && badge("Being programmed", "warn"),
      isOn(next.chime) && badge("Chime on"), next.status?.is_stale && badge("uncertain", "warn"));
    const who = next.changed_by?.value;
    say(by, next.changed_by ? `${isArmed ? "Armed" : "Disarmed"} by ${who.label || (who.user ? `user ${who.user}` : "somebody")}${who.method && who.method !== "unknown" ? `, ${who.method}` : ""}, ${moment(next.changed_by.since_ms / 1000)}` : "");
    by.hidden = !next.changed_by;
    for (const one of arms) one.disabled = !summary.is_connected || isBusy;
    disarmer.disabled = !summary.is_connected || !isBusy;
    tick(Date.now());
  }

  function tick(nowMs) {
    if (!partition) return;
    say(sentence, sentenceOf(partition, panel, nowMs));
  }

  function arm(mode, word) {
    const open = openZones(partition, panel);
    askCode({
      title: `Arm ${nameOf(partition, "partition")}: ${word.toLowerCase()}`,
      text: open.length ? `Open now: ${open.join(", ")}.` : "Everything is closed.",
      verb: `Arm ${word.toLowerCase()}`, isOptional: true,
      order: (code) => order(number, "arm", { mode, code }),
      done: `The panel arms: ${word.toLowerCase()}.`,
    });
  }

  function disarm() {
    askCode({
      title: `Disarm ${nameOf(partition, "partition")}`, text: "This ends an alarm and its siren as well.", verb: "Disarm",
      order: (code) => order(number, "disarm", { code }), done: "The panel has disarmed.",
    });
  }
  return { root, show, tick };
}

function openZones(partition, panel) {
  return panel.zones.filter((zone) => isOn(zone.open) && !isOn(zone.bypassed) && (!zone.partitions || zone.partitions.value.includes(partition.number))).map((zone) => nameOf(zone, "zone"));
}

function sentenceOf(partition, panel, nowMs) {
  const left = (until) => (until?.value > nowMs ? `${Math.ceil((until.value - nowMs) / 1000)} s left` : "");
  switch (partition.status?.value) {
    case "triggered": {
      const zones = (partition.alarm_zones?.value ?? []).map((number) => nameOf(panel.zones.find((zone) => zone.number === number) ?? { number }, "zone"));
      return zones.length ? zones.join(", ") : "See the zones below";
    }
    case "arming": return ["Time to leave", left(partition.exit_delay_until_ms)].filter(Boolean).join(": ");
    case "pending": return ["Somebody came in and has to disarm", left(partition.entry_delay_until_ms)].filter(Boolean).join(": ");
    case "disarmed": {
      const open = openZones(partition, panel);
      return open.length ? `Open: ${open.slice(0, 4).join(", ")}${open.length > 4 ? ` and ${open.length - 4} more` : ""}` : "All zones are closed";
    }
    case "unknown": case undefined: return "The panel has not told yet";
    default: return `since ${moment(partition.status.since_ms / 1000)}`;
  }
}

/**
 * Ask for a code and give the order with it. A refusal is one line in the dialog, which stays open for another try.
 *
 * The field is emptied after each try and when the dialog closes; it is made so that browsers do not offer to keep it.
 */
function askCode({ title: heading, text, verb, order, done, isOptional = false }) {
  const input = el("input", { type: "password", id: "code", name: "code", inputmode: "numeric", autocomplete: "one-time-code", maxlength: 8, spellcheck: "false", "aria-describedby": "code-problem" });
  const problem = el("p", { class: "problem-line", id: "code-problem", role: "alert" });
  const send = el("button", { class: "button primary", type: "submit" }, verb);
  const form = el("form", { novalidate: true, class: "code-form", on: { submit: (submitted) => {
    submitted.preventDefault();
    give();
  } } },
    el("h2", { id: "code-title" }, heading),
    el("p", { id: "code-text" }, text),
    el("label", { for: "code" }, "Access code"),
    input,
    el("p", { class: "hint" }, isOptional ? "Empty: the code of the settings, or one-touch arming where the panel allows it." : "It goes to the panel and is kept nowhere."),
    problem,
    el("div", { class: "actions" }, button("Cancel", () => dialog.close()), send));
  const dialog = el("dialog", { class: "dialog", "aria-labelledby": "code-title", "aria-describedby": "code-text" }, form);
  dialog.addEventListener("close", () => {
    input.value = "";
    dialog.remove();
  });

  async function give() {
    const code = input.value;
    input.value = "";
    if (code ? !CODE.test(code) : !isOptional) {
      say(problem, "A code has 4, 6 or 8 digits.");
      input.focus();
      return;
    }
    say(problem, "");
    send.disabled = true;
    try {
      const outcome = await order(code || null);
      if (outcome.result === "accepted") {
        dialog.close();
        toast(done, "ok");
      } else if (outcome.result === "unknown") {
        dialog.close();
        toast(`Nobody knows whether it was done: ${outcome.reason}`, "bad");
      } else say(problem, `Not done: ${outcome.reason}.`);
    } catch (error) {
      say(problem, error.message);
    } finally {
      send.disabled = false;
      input.focus();
    }
  }
  document.body.append(dialog);
  dialog.showModal();
  input.focus();
}

/** The zones as tiles. */
function makeZones(api, order) {
  const wanted = { which: "", search: "" };
  const tiles = new Map();
  let panel = null;
  let summary = null;
  let typing = 0;
  const grid = el("ul", { class: "zones" });
  const none = nothing("No zone fits", "check");
  const which = choice("Which zones", [["", "All"], ["open", "Open"], ["attention", "Need a look"]], "", (value) => {
    wanted.which = value;
    draw();
  });
  const search = el("input", { type: "search", placeholder: "Name or number", "aria-label": "Find zones", maxlength: 64, on: { input: () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      wanted.search = search.value.trim().toLowerCase();
      draw();
    }, SEARCH_MS);
  } } });

  function fits(zone) {
    const isWanted = !wanted.which || (wanted.which === "open" ? isOn(zone.open) : isOn(zone.bypassed) || WRONGS.some(([field]) => isOn(zone[field])));
    return isWanted && (!wanted.search || `${zone.number} ${nameOf(zone, "zone")} ${zone.device_class}`.toLowerCase().includes(wanted.search));
  }

  function draw() {
    if (!panel) return;
    const shown = panel.zones.filter(fits);
    const nodes = shown.map((zone) => {
      let tile = tiles.get(zone.number);
      if (!tile) tiles.set(zone.number, (tile = makeZone(zone.number)));
      tile.show(zone);
      return tile.root;
    });
    const numbers = new Set(panel.zones.map((zone) => zone.number));
    for (const number of tiles.keys()) if (!numbers.has(number)) tiles.delete(number);
    if (nodes.length !== grid.children.length || nodes.some((node, index) => grid.children[index] !== node)) fill(grid, nodes);
    none.hidden = nodes.length > 0;
    grid.hidden = nodes.length === 0;
  }

  function makeZone(number) {
    let zone = null;
    const name = el("b", { class: "zone-name" });
    const kind = el("span", { class: "hint" });
    const state = el("span", { class: "badges" });
    const since = el("span", { class: "hint zone-since" });
    const bypasser = api.may("operate") && button("Bypass", () => bypass(zone), { tone: "quiet" });
    const root = el("li", { class: "zone" }, el("div", { class: "zone-what" }, name, kind), state, since, bypasser);
    return {
      root,
      show(next) {
        zone = next;
        const label = nameOf(next, "Zone");
        const isBypassed = isOn(next.bypassed);
        const wrongs = WRONGS.filter(([field]) => isOn(next[field]) && !(field === "alarm_memory" && isOn(next.alarm)));
        const isQuiet = next.open && !next.open.value && (wrongs.length > 0 || isBypassed);
        const tone = wrongs.some(([, , one]) => one === "bad") ? "bad" : wrongs.length ? "warn" : isOn(next.open) ? "info" : "";
        const isStale = next.open?.is_stale ?? true;
        root.className = `zone ${tone} ${isBypassed ? "is-bypassed" : ""} ${isStale ? "is-stale" : ""}`;
        say(name, label);
        name.title = label;
        say(kind, next.device_class === "opening" ? `Zone ${number}` : `Zone ${number}, ${next.device_class.replaceAll("_", " ")}`);
        same(state,
          !isQuiet && (next.open ? badge(next.open.value ? "Open" : "Closed", next.open.value ? "info" : "") : badge("Not known")),
          wrongs.map(([, words, one]) => badge(words, one)), isBypassed && badge("Bypassed", "warn"));
        say(since, next.open ? `${isStale ? "when last heard" : `since ${moment(next.open.since_ms / 1000)}`}` : "");
        if (bypasser) {
          const verb = isBypassed ? "Restore" : "Bypass";
          say(bypasser.firstElementChild, verb);
          bypasser.setAttribute("aria-label", `${verb} ${label}`);
          bypasser.disabled = !summary.is_connected;
        }
      },
    };
  }

  function bypass(zone) {
    const isBypassed = !isOn(zone.bypassed);
    const label = nameOf(zone, "zone");
    const partition = zone.partitions?.value[0] ?? panel.partitions[0]?.number ?? 1;
    askCode({
      title: `${isBypassed ? "Bypass" : "Restore"} ${label}`,
      text: isBypassed ? "The zone is left out until the partition is disarmed the next time. Keypads show programming meanwhile." : "The zone is watched again.",
      verb: isBypassed ? "Bypass" : "Restore",
      order: (code) => order(partition, "bypass", { zones: [zone.number], is_bypassed: isBypassed, code }),
      done: isBypassed ? `${label} is left out.` : `${label} is watched again.`,
    });
  }
  return {
    root: card("Zones", { hint: "What each sensor says", actions: [search, which] }, grid, none),
    show(nextPanel, nextSummary) {
      [panel, summary] = [nextPanel, nextSummary];
      draw();
    },
    clear() {
      panel = null;
      tiles.clear();
      fill(grid);
    },
    stop: () => clearTimeout(typing),
  };
}

/** What happened at the chosen panel, newest first. */
function makeHistory(api) {
  const wanted = { group: "", zone: 0, user: 0, until: "" };
  let name = "";
  let entries = [];
  let cursor = "";
  let asked = 0;
  let waiting = 0;
  let people = {};
  const shown = table("History", [
    { title: "When", value: (entry) => whenOf(entry) },
    { title: "What", value: (entry) => badge(kindWords(entry.kind), toneOf(entry.kind)) },
    { title: "Where", value: (entry) => [entry.zone_label || (entry.zone ? `zone ${entry.zone}` : ""), entry.partition_label || (entry.partition ? `partition ${entry.partition}` : "")].filter(Boolean).join(", ") || "the panel" },
    { title: "Who", value: (entry) => entry.asker || entry.user_label || people[entry.user]?.value || (entry.user ? `user ${entry.user}` : "–") },
    { title: "More", value: (entry) => detailWords(entry), wide: true },
  ], { key: (entry) => entry.id, empty: "Nothing that fits has happened", limit: KEPT });
  const groups = el("select", { "aria-label": "What happened", on: { change: () => change("group", groups.value) } },
    Object.entries(KIND_GROUPS).map(([value, [words]]) => el("option", { value }, words)));
  const zones = el("select", { "aria-label": "Zone", on: { change: () => change("zone", Number(zones.value)) } });
  const users = el("select", { "aria-label": "User", on: { change: () => change("user", Number(users.value)) } });
  const until = el("input", { type: "date", "aria-label": "Until the end of this day", title: "Until the end of this day", on: { change: () => change("until", until.value) } });
  const older = button("Older", () => more());
  const root = card("History", { hint: "Newest first, as the panel told it", actions: [groups, zones, users, until] }, shown.root, el("div", { class: "actions older" }, older));

  function change(field, value) {
    wanted[field] = value;
    load();
  }

  function query(more = {}) {
    const end = wanted.until ? new Date(`${wanted.until}T00:00:00`) : null;
    if (end) end.setDate(end.getDate() + 1);
    return { panels: name, kinds: KIND_GROUPS[wanted.group][1], zone: wanted.zone || "", user: wanted.user || "", until_ms: end ? end.getTime() : "", limit: PAGE, ...more };
  }

  async function load() {
    const mine = (asked += 1);
    try {
      const page = await api.get("/history", query());
      if (mine !== asked) return;
      [entries, cursor] = [page.entries, page.cursor];
      draw();
    } catch (error) {
      if (mine === asked) toast(error.message, "bad");
    }
  }

  /** Read the newest page again and put what is new in front; where more came than fits, begin anew. */
  async function refresh() {
    waiting = 0;
    const mine = asked;
    const page = await api.get("/history", query()).catch(() => null);
    if (!page || mine !== asked) return;
    const known = new Set(entries.map((entry) => entry.id));
    const fresh = page.entries.filter((entry) => !known.has(entry.id));
    if (!fresh.length) return;
    if (fresh.length === page.entries.length) [entries, cursor] = [page.entries, page.cursor];
    else entries = [...fresh, ...entries];
    draw();
  }

  async function more() {
    const mine = asked;
    older.disabled = true;
    try {
      const page = await api.get("/history", query({ cursor }));
      if (mine !== asked) return;
      entries.push(...page.entries);
      cursor = page.cursor;
      draw();
    } catch (error) {
      toast(error.message, "bad");
    } finally {
      older.disabled = false;
    }
  }

  function draw() {
    shown.update(entries);
    older.hidden = !cursor || entries.length >= KEPT;
  }

  return {
    root,
    refresh() {
      waiting ||= setTimeout(refresh, SEARCH_MS);
    },
    know(panel) {
      people = panel.users;
      options(zones, "All zones", panel.zones.map((zone) => [zone.number, nameOf(zone, "zone")]));
      options(users, "Everybody", Object.entries(panel.users).filter(([, label]) => label.value).map(([number, label]) => [number, label.value]));
      users.hidden = users.length < 2;
    },
    choose(next) {
      name = next;
      Object.assign(wanted, { zone: 0, user: 0 });
      [entries, cursor] = [[], ""];
      fill(zones);
      fill(users);
      draw();
      load();
    },
    stop() {
      clearTimeout(waiting);
      asked += 1;
    },
  };
}

function options(select, all, pairs) {
  const value = select.value;
  same(select, el("option", { value: "" }, all), pairs.map(([number, words]) => el("option", { value: number }, words)));
  select.value = value;
}

function whenOf(entry) {
  const words = `${entry.is_approximate ? "before " : ""}${moment(entry.at_ms / 1000)}`;
  const told = [SOURCES[entry.source], entry.panel_time && `panel's clock: ${entry.panel_time}`].filter(Boolean).join("; ");
  return told ? el("span", { title: told, class: "told-late" }, words) : words;
}

function kindWords(kind) {
  const words = kind.replace(/^zone_/u, "").replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function toneOf(kind) {
  return KIND_TONES.find(([pattern]) => pattern.test(kind))?.[1] ?? "";
}

function detailWords({ kind, detail }) {
  if (kind === "command") {
    const verb = detail.is_bypassed === false ? "restore zones" : detail.command?.replaceAll("_", " ");
    const what = [verb, detail.mode, detail.zones].filter(Boolean).join(" ");
    return `${what}: ${detail.result}${detail.reason ? `, ${detail.reason}` : ""}`;
  }
  return Object.entries(detail).filter(([name, value]) => !name.endsWith("_label") && value !== "" && value !== false && !(name === "mode" && typeof value === "number"))
    .map(([name, value]) => value === true ? name.replace(/^is_/u, "").replaceAll("_", " ") : name === "seconds" ? lasting(value) : ["why", "mode", "method", "access"].includes(name) ? String(value).replaceAll("_", " ") : `${name.replaceAll("_", " ")} ${value}`)
    .join(", ") || "–";
}

/** Who calls and is not configured, and whose connections fail. */
function makeCallers(api) {
  const left = el("p", { class: "hint", role: "status" });
  const begin = api.may("admin") && button("Learn for 5 minutes", () => learn(), { title: "Remember who calls; they get no answer" });
  const end = api.may("admin") && button("End", () => forget());
  const learnt = table("Unknown callers", [
    { title: "Integration ID", value: (one) => one.integration_id, mono: true },
    { title: "From", value: (one) => one.peer, mono: true },
    { title: "Encryption", value: (one) => (one.encryption_type ? `Type ${one.encryption_type}` : badge("none", "warn")) },
    { title: "Firmware", value: (one) => one.firmware },
    { title: "Called", value: (one) => ago(one.at_ms / 1000), numeric: true },
    { title: "To let it in", value: (one) => `[[itv2.panels]] integration_id = "${one.integration_id}"`, mono: true, wide: true },
  ], { key: (one) => one.integration_id, empty: "Nobody unknown has called since", limit: 32 });
  const shownLearnt = el("div", { hidden: true }, learnt.root);
  const failed = table("Connections that failed", [
    { title: "When", value: (one) => moment(one.at_ms / 1000) },
    { title: "Who", value: (one) => one.panel || "–" },
    { title: "From", value: (one) => one.peer, mono: true },
    { title: "What it means", value: (one) => one.sentence, wide: true },
  ], { key: (one) => `${one.at_ms} ${one.peer} ${one.panel}`, empty: "No connection has failed", limit: 100 });

  function show(learning) {
    const isOn = learning.left_s > 0;
    say(left, isOn ? `Learning for another ${lasting(learning.left_s)}` : "Which panels call that are not in the configuration?");
    if (begin) begin.hidden = isOn;
    if (end) end.hidden = !isOn;
    shownLearnt.hidden = !isOn;
    learnt.update(learning.panels);
  }

  async function learn() {
    try {
      show(await api.put("/learning", { for_s: LEARN_S }));
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  async function forget() {
    try {
      await api.delete("/learning");
      await update();
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  async function update() {
    const [learning, { failures }] = await Promise.all([api.get("/learning"), api.get("/failures")]);
    show(learning);
    failed.update(failures);
  }

  return {
    root: card("Unknown callers", { actions: [begin, end].filter(Boolean) }, left, shownLearnt,
      el("details", { class: "fold" }, el("summary", {}, "Connections that failed lately"), failed.root)),
    stop: repeat(() => update().catch(() => {}), LEARNING_MS),
  };
}
