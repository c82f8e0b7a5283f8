/** The server at a glance: what is wrong first, then every gateway with its last minute, then what just happened. */
import { ago, badge, card, count, el, figure, fill, icon, lasting, moment, nothing, rate, say, short, sparkline, stateBadge } from "./kit.js";
import { eventWords, LEVEL_TONES } from "./page_events.js";

const RECENT = 8;

export function overviewPage({ api, live }) {
  const about = el("p", { class: "about" });
  const problems = el("div", { class: "problems" });
  const cards = el("div", { class: "gateway-cards" });
  const sessions = el("ul", { class: "feed" });
  const events = el("ul", { class: "feed" });
  const known = new Map();
  let recent = [];
  let hasNews = true;

  function update(overview) {
    say(about, `Version ${overview.version}, up for ${lasting(overview.uptime_s)}${overview.workers > 1 ? `, ${overview.workers} workers` : ""}`);
    showProblems(problems, overview);
    for (const gateway of overview.gateways) {
      if (!known.has(gateway.name)) {
        const made = gatewayCard(gateway);
        known.set(gateway.name, made);
        cards.append(made.root);
      }
      known.get(gateway.name).update(gateway);
    }
    showRecent();
    if (hasNews) showEvents();
  }

  function note(session) {
    recent = [session, ...recent.filter((one) => one.id !== session.id)].slice(0, RECENT);
  }

  // Both feeds stand still under a pointer or the focus: what one is about to open does not slip away.
  function showRecent() {
    if (isHeld(sessions)) return;
    if (!recent.length) fill(sessions, el("li", {}, nothing("No session yet", "sessions")));
    else fill(sessions, recent.map((session) => el("li", {},
      el("a", { class: "feed-line", href: `#/sessions/${encodeURIComponent(session.id)}` },
        stateBadge(session.state), el("span", { class: "feed-text" }, el("b", {}, session.about || session.id), ` ${session.peer}`),
        el("span", { class: "feed-when" }, ago(session.ended ?? session.started, live.overview?.now))))));
  }

  function showEvents() {
    if (isHeld(events)) return;
    hasNews = false;
    const loud = live.events.filter((event) => event.level !== "debug").slice(0, RECENT);
    if (!loud.length) fill(events, el("li", {}, nothing("Nothing has happened yet", "events")));
    else fill(events, loud.map((event) => el("li", {}, el("div", { class: "feed-line", title: eventWords(event) },
      badge(event.level, LEVEL_TONES[event.level]), el("span", { class: "feed-text" }, el("b", {}, event.kind), ` ${eventWords(event)}`),
      el("span", { class: "feed-when" }, moment(event.at))))));
  }

  const ends = [
    live.on("overview", update),
    live.on("session", note),
    live.on("event", () => { hasNews = true; }),
  ];
  api.get("/sessions", { limit: RECENT }).then((page) => {
    recent = [...recent, ...page.sessions.filter((one) => recent.every((other) => other.id !== one.id))].slice(0, RECENT);
    showRecent();
  }).catch(() => {}); // the line tells that nothing answers
  if (live.events.length < RECENT) {
    api.get("/events", { limit: 50 }).then((page) => {
      const numbers = new Set(live.events.map((event) => event.number));
      live.events.push(...page.events.filter((event) => !numbers.has(event.number)));
      showEvents();
    }).catch(() => {});
  }
  update(live.overview);
  return {
    title: "Overview",
    stop: () => ends.forEach((end) => end()),
    root: el("div", { class: "stack" },
      el("header", { class: "page-head" }, el("h1", {}, "Overview"), about),
      problems, cards,
      el("div", { class: "columns two" },
        card("Latest sessions", { actions: el("a", { class: "more-link", href: "#/sessions" }, "All sessions") }, sessions),
        card("Latest events", { actions: el("a", { class: "more-link", href: "#/events" }, "All events") }, events))),
  };
}

function isHeld(feed) {
  return feed.matches(":hover, :focus-within");
}

function showProblems(place, { problems, now }) {
  const shown = JSON.stringify(problems);
  if (place.dataset.shown !== shown) {
    place.dataset.shown = shown;
    if (!problems.length) {
      fill(place, el("p", { class: "all-well" }, icon("check"), "All is well: every part answers, nothing is refused."));
      return;
    }
    fill(place, el("h2", { class: "unseen" }, "Problems"), el("ul", {}, problems.map((problem) => {
      const inside = [icon("warn"), el("span", { class: "problem-text" }, problem.text),
        el("span", { class: "problem-when", data: { since: problem.since ?? "" } }), problem.gateway && badge(problem.gateway)];
      const tone = problem.severity === "error" ? "bad" : "warn";
      return el("li", { class: `problem ${tone}` }, problem.link ? el("a", { href: problem.link }, inside) : el("div", {}, inside));
    })));
  }
  for (const when of place.querySelectorAll(".problem-when")) {
    if (when.dataset.since) say(when, `for ${lasting(now - Number(when.dataset.since))}`);
  }
}

/** A gateway in figures: how many, how fast, how many failed, each with its last minute. */
function gatewayCard({ name, title }) {
  const open = figure("open sessions", "0");
  const lines = [
    ["new / s", "opened_per_s", "", (row) => row.opened_per_s],
    ["messages / s", "packets_per_s", "alt", (row) => row.packets_in_per_s + row.packets_out_per_s],
    ["failed / s", "failed_per_s", "bad", (row) => row.failed_per_s],
  ].map(([words, series, tone, valueOf]) => {
    const line = sparkline(words, tone);
    const value = el("b", {}, "0");
    return { series, valueOf, line, value, root: el("div", { class: "measure" }, el("span", {}, words), value, line) };
  });
  const openLine = sparkline("open sessions", "");
  const foot = el("p", { class: "hint" });
  return {
    root: el("a", { class: "card gateway-card", href: `#/gateways/${encodeURIComponent(name)}` },
      el("header", { class: "card-head" }, el("h2", {}, title), icon("right")),
      el("div", { class: "gateway-open" }, open, openLine),
      el("div", { class: "measures" }, lines.map((line) => line.root)), foot),
    update(row) {
      open.set(short(row.sessions_open));
      openLine.update(row.series.sessions_open);
      for (const { series, valueOf, line, value } of lines) {
        say(value, rate(valueOf(row)));
        line.update(row.series[series]);
      }
      say(foot, `${count(row.sessions_opened)} sessions since the start, ${count(row.sessions_failed)} failed`);
    },
  };
}
