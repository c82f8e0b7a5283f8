/** One session: who, since when, and its sequence diagram, which grows while the session lives. */
import { badge, button, bytes, confirm, count, el, facts, fill, lasting, moment, say, stateBadge, toast } from "./kit.js";
import { SequenceDiagram } from "./sequence.js";

const KIND_WORDS = { in: "received", out: "sent", state: "state", error: "error" };
const AGE_MS = 1000;

export function sessionPage({ api, live, gatewayTitle }, id) {
  const address = `/sessions/${encodeURIComponent(id)}`;
  const head = el("div", { class: "page-head" }, el("h1", {}, "Session"));
  const about = el("div", { class: "card session-facts" });
  const looked = el("aside", { class: "card looked-at", "aria-label": "What is looked at" });
  const body = el("div", { class: "stack fills" }, head);
  let session = null;
  let diagram = null;
  let endStream = () => {};
  let isOver = false;
  let isLooking = false;
  const lasted = el("span");

  function showLength() {
    say(lasted, lasting((session.ended ?? Date.now() / 1000) - session.started));
  }

  function showAbout() {
    showLength();
    fill(about, facts([
      ["Gateway", el("a", { href: `#/gateways/${encodeURIComponent(session.gateway)}` }, gatewayTitle(session.gateway))],
      ["Peer", session.peer],
      ["Began", moment(session.started)],
      [session.ended ? "Lasted" : "Open for", lasted],
      session.ended && ["Ended because", session.reason || "finished"],
      ["Id", el("code", {}, session.id)],
    ]));
  }

  function showHead() {
    const close = session.state === "open" && api.may("operate") && button("Close session", closeSession, { tone: "danger" });
    fill(head,
      el("p", { class: "crumbs" }, el("a", { href: "#/sessions" }, "Sessions")),
      el("h1", {}, session.about || session.id), stateBadge(session.state),
      el("div", { class: "actions" }, exports(), close));
  }

  function exports() {
    const name = `sojourn-${session.id.replace(/[^\w.-]/gu, "_")}`;
    const items = [
      ["SVG picture", () => save(`${name}.svg`, "image/svg+xml", diagram.toSvg(`Session ${session.id}`))],
      ["Mermaid text", async () => save(`${name}.mmd`, "text/plain", await api.text(`${address}/trace`, { format: "mermaid" }))],
      ["JSON lines", async () => save(`${name}.jsonl`, "application/jsonl", await api.text(`${address}/trace`, { format: "jsonl" }))],
    ];
    const menu = el("details", { class: "menu" }, el("summary", { class: "button" }, "Export"),
      el("div", { class: "menu-items" }, items.map(([text, run]) => button(text, async () => {
        menu.open = false;
        try {
          await run();
        } catch (error) {
          toast(error.message, "bad");
        }
      }, { tone: "quiet" }))));
    menu.addEventListener("keydown", (pressed) => {
      if (pressed.key === "Escape") menu.open = false;
    });
    return menu;
  }

  async function closeSession() {
    const isWanted = await confirm({
      title: "Close this session?",
      text: `${session.about || session.id}, ${session.peer}: it ends now, with its protocol's own goodbye.`,
      verb: "Close session",
    });
    if (!isWanted) return;
    try {
      await api.delete(address);
      toast("The session was closed.", "ok");
      take(await api.get(address));
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  function take(next) {
    const hasChanged = !session || next.state !== session.state || next.about !== session.about;
    session = { ...session, ...next };
    if (hasChanged) showHead();
    showAbout();
  }

  function look(entry) {
    isLooking = Boolean(entry);
    if (!entry) {
      fill(looked, el("h2", {}, "In short"), facts(inShort(diagram.entries)), el("p", { class: "hint" }, "Point at a message, or walk with the arrow keys, to see all that is kept of it. Secrets are never kept."));
      return;
    }
    fill(looked, el("h2", {}, entry.name), entry.text && el("p", { class: "summary" }, entry.text), facts([
      ["What", KIND_WORDS[entry.kind] ?? entry.kind],
      entry.source !== entry.target && ["From", entry.source],
      entry.source !== entry.target && ["To", entry.target],
      ["After", lasting(entry.at - session.started)],
      ["At", moment(entry.at)],
      entry.size_bytes && ["Size", bytes(entry.size_bytes)],
    ]));
  }

  async function begin() {
    const trace = await api.get(`${address}/trace`);
    if (isOver) return;
    diagram = new SequenceDiagram({ label: "Sequence diagram", started: trace.session.started, onLook: look });
    take(trace.session);
    const follow = button("Follow", () => diagram.follow(!diagram.isFollowing), { tone: "quiet toggle" });
    const tally = el("span", { class: "hint" });
    diagram.onFollow = (isOn) => follow.setAttribute("aria-pressed", String(isOn));
    const stage = el("section", { class: "card stage", "aria-label": "What happened" },
      el("header", { class: "card-head" }, el("h2", {}, "What happened"), tally, el("div", { class: "actions" }, follow)), diagram.root);
    fill(body, head, about, el("div", { class: "session-columns" }, stage, looked));
    const tell = () => say(tally, `${count(diagram.seen)} ${diagram.seen === 1 ? "entry" : "entries"}`);
    diagram.add(trace.entries);
    look(null);
    tell();
    follow.hidden = session.state !== "open";
    if (follow.hidden) return;
    diagram.follow(true);
    listen(tell, (words) => {
      follow.hidden = true;
      if (words) say(tally, words);
    });
  }

  // The stream tells from the beginning what the ring still has, so its first entries stand for all that was read before.
  function listen(tell, stop) {
    let isFirst = true;
    endStream = api.stream(`${address}/trace/stream`, {
      open: () => { isFirst = true; },
      entries: ({ entries, has_gap: hasGap }) => {
        if (isFirst) diagram.clear();
        isFirst = false;
        diagram.add(entries, hasGap);
        tell();
      },
      ended: (tick) => {
        endStream();
        stop();
        take(tick.session);
        if (!isLooking) look(null);
      },
      refused: (problem) => stop(problem.status === 404 ? "not kept any more" : problem.message),
    });
  }

  const timer = setInterval(() => {
    if (session?.state !== "open") return;
    showLength();
    if (!isLooking && diagram) look(null);
  }, AGE_MS);
  const end = live.on("session", (told) => told.id === id && session && take(told));
  begin().catch((error) => fill(body,
    el("header", { class: "page-head" }, el("p", { class: "crumbs" }, el("a", { href: "#/sessions" }, "Sessions")), el("h1", {}, error.status === 404 ? "This session is not known any more" : "This session can't be shown")),
    el("p", { class: "hint" }, error.status === 404 ? "Sessions that have ended are kept for a while, failed ones for longer: [recorder] in the settings says how long." : error.message)));
  return {
    title: `Session ${id}`,
    root: body,
    stop() {
      isOver = true;
      clearInterval(timer);
      end();
      endStream();
      diagram?.stop();
    },
  };
}

/** What a session comes down to: how much, how fast, what went wrong. */
function inShort(entries) {
  const of = (kind) => entries.filter((entry) => entry.kind === kind);
  const sum = (found) => found.reduce((total, entry) => total + entry.size_bytes, 0);
  const withPeer = (kind) => of(kind).filter((entry) => !entry.is_leg);
  const [received, sent, errors] = [withPeer("in"), withPeer("out"), of("error")];
  const silences = entries.slice(1).map((entry, index) => entry.at - entries[index].at);
  return [
    ["Received", `${count(received.length)}, ${bytes(sum(received))}`],
    ["Sent", `${count(sent.length)}, ${bytes(sum(sent))}`],
    ["Errors", errors.length ? badge(count(errors.length), "bad") : "none"],
    silences.length > 0 && ["Silence", `${lasting(Math.max(...silences))} at most`],
  ];
}

function save(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = el("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
