/** The settings in force, secrets masked, and the two orders about the whole server: reload and drain. */
import { button, card, confirm, el, fill, moment, nothing, table, toast } from "./kit.js";

const AUDIT_SHOWN = 50;

export function configPage({ api }) {
  const text = el("div", { class: "toml" });
  const orders = table("Orders", [
    { title: "When", value: (row) => moment(row.at) },
    { title: "Order", value: (row) => row.what },
    { title: "By", value: (row) => row.who },
    { title: "Outcome", value: (row) => row.outcome, wide: true },
  ], { key: (row) => `${row.at} ${row.what} ${row.who}`, empty: "No order was given since the start", limit: AUDIT_SHOWN });
  const isAdmin = api.may("admin");
  let sections = [];

  async function load() {
    const [config, audit] = await Promise.all([api.get("/config"), isAdmin ? api.get("/audit") : { entries: [] }]);
    sections = sectionsOf(config.toml);
    showSections("");
    orders.update(audit.entries);
  }

  function showSections(search) {
    const wanted = search.toLowerCase();
    const found = sections.map(({ name, lines }) => ({ name, lines: lines.filter((line) => !wanted || `${name} ${line}`.toLowerCase().includes(wanted)) })).filter(({ lines }) => lines.length);
    if (!found.length) fill(text, nothing("No setting fits", "search"));
    else fill(text, found.map(({ name, lines }) => el("section", { class: "toml-table" },
      el("h3", {}, name || "top"), el("dl", {}, lines.map(settingLine)))));
  }

  async function order(path, question, done) {
    if (!(await confirm(question))) return;
    try {
      await api.post(path);
      toast(done, "ok");
      await load();
    } catch (error) {
      toast(error.message, "bad");
    }
  }

  const search = el("input", { type: "search", placeholder: "Find a setting", "aria-label": "Find a setting", on: { input: () => showSections(search.value.trim()) } });
  const reload = () => order("/reload", { title: "Reload the settings?", text: "The file is read again. Sessions that are open keep the settings that they began with. If the file has a problem, nothing changes.", verb: "Reload", tone: "primary" }, "The settings were reloaded.");
  const drain = () => order("/drain", { title: "Drain this server?", text: "It takes nothing new, lets what is there finish, then stops. This page goes with it.", verb: "Drain and stop" }, "The server is draining.");
  if (api.may("operate")) load().catch((error) => fill(text, nothing(error.message, "warn")));
  else fill(text, nothing("You may look at sessions only. Settings are shown to who was let in with the scope operate or admin.", "config"));
  return {
    title: "Settings",
    root: el("div", { class: "stack" },
      el("header", { class: "page-head" }, el("h1", {}, "Settings"), el("p", { class: "about" }, "in force now; secrets are masked"),
        el("div", { class: "actions" }, isAdmin && [button("Reload", reload), button("Drain", drain, { tone: "danger" })])),
      el("div", { class: "filters" }, search), text,
      isAdmin && card("Orders", { hint: "Who ordered what, by page, command line or token" }, orders.root)),
  };
}

function sectionsOf(toml) {
  const sections = [{ name: "", lines: [] }];
  let depth = 0;
  for (const line of toml.split("\n")) {
    const head = depth ? null : /^\[+([^\]]+)\]+\s*$/u.exec(line);
    const { lines } = sections.at(-1);
    if (head) sections.push({ name: head[1], lines: [] });
    else if (depth) lines.push(`${lines.pop()}\n${line}`);
    else if (line.trim() && !line.startsWith("#")) lines.push(line);
    depth = Math.max(0, depth + (head ? 0 : opened(line)));
  }
  return sections;
}

/** How many arrays and tables a line opens and leaves open; brackets inside of texts are none. */
function opened(line) {
  const bare = line.replace(/"(?:[^"\\]|\\.)*"|'[^']*'/gu, "").replace(/#.*/u, "");
  return [...bare].reduce((depth, sign) => depth + ("[{".includes(sign) ? 1 : "]}".includes(sign) ? -1 : 0), 0);
}

/** One setting; a long array has a line for each of its values, a secret is masked. */
function settingLine(line) {
  const [, name, value] = /^([^=]+?)\s*=\s*(.*)$/su.exec(line) ?? [null, "", line];
  return el("div", {}, el("dt", {}, name), el("dd", { class: value.includes("***") ? "masked" : null }, value));
}
