/**
 * The dashboard: who is there, the frame around the pages, and which page an address means.
 *
 * Addresses are what stands behind the #: `#/`, `#/sessions`, `#/sessions/ID`, `#/gateways`, `#/gateways/NAME`, `#/events`,
 * `#/config`. A page is a function that returns `{title, root, stop}`.
 */
import { Api, Problem } from "./api.js";
import { Live } from "./live.js";
import { button, el, fill, icon, moment, say, toast } from "./kit.js";
import { configPage } from "./page_config.js";
import { eventsPage } from "./page_events.js";
import { gatewayPage, gatewaysPage } from "./page_gateways.js";
import { loginPage } from "./page_login.js";
import { overviewPage } from "./page_overview.js";
import { sessionPage } from "./page_session.js";
import { sessionsPage } from "./page_sessions.js";

const PAGES = [
  [/^#?\/?$/u, overviewPage],
  [/^#\/sessions$/u, sessionsPage],
  [/^#\/sessions\/([^/?]+)$/u, sessionPage],
  [/^#\/gateways$/u, gatewaysPage],
  [/^#\/gateways\/([^/?]+)$/u, gatewayPage],
  [/^#\/events$/u, eventsPage],
  [/^#\/config$/u, configPage],
];
const PLACES = [
  ["#/", "Overview", "overview"],
  ["#/sessions", "Sessions", "sessions"],
  ["#/gateways", "Gateways", "gateways"],
  ["#/events", "Events", "events"],
  ["#/config", "Settings", "config"],
];
const THEMES = ["auto", "light", "dark"];
const THEME_KEY = "sojourn.theme";
/** Whether this browser was let in before: who was not is not asked for, so that a first visit is no failed request. */
const KNOWN_KEY = "sojourn.known";
/** A line that comes back sooner is not worth a word. */
const AWAY_MS = 1500;

const place = document.getElementById("app");
const api = new Api();
let live = null;
let shown = null;
let frame = null;

function chosenTheme() {
  const kept = localStorage.getItem(THEME_KEY);
  return THEMES.includes(kept) ? kept : "auto";
}

function useTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function themeButton() {
  let theme = chosenTheme();
  const made = button("", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    localStorage.setItem(THEME_KEY, theme);
    useTheme(theme);
    show();
  }, { tone: "quiet" });
  function show() {
    fill(made, icon(theme));
    made.setAttribute("aria-label", `Colours: ${theme}`);
    made.title = `Colours: ${theme === "auto" ? "as the system's" : theme}`;
  }
  show();
  return made;
}

/** Make what stands around every page: the way to the others, and whether the server is there. */
function makeFrame() {
  const links = PLACES.map(([address, name, symbol]) =>
    el("a", { href: address, class: "place" }, icon(symbol), el("span", {}, name)));
  const gateways = el("div", { class: "places-inner" });
  const line = el("p", { class: "line", role: "status" });
  const main = el("main", { id: "main", tabindex: "-1" });
  const leave = button("", async () => {
    await api.logout().catch(() => {});
    localStorage.removeItem(KNOWN_KEY);
    showLogin();
  }, { tone: "quiet", symbol: "leave", label: "Log out", title: "Log out" });
  const banner = el("p", { class: "banner", role: "status" });
  let isDraining = false;
  let away = "";
  let awayTimer = 0;
  function showBanner() {
    banner.classList.toggle("bad", Boolean(away));
    say(banner, away || (isDraining ? "This server is draining: it takes nothing new and ends when its sessions have." : ""));
  }
  fill(place,
    el("div", { class: "frame" },
      el("header", { class: "side" },
        el("a", { class: "brand", href: "#/", "aria-label": "Sojourn, overview" }, el("img", { src: "/static/icon.svg", alt: "", width: 28, height: 28 }), el("b", {}, "Sojourn")),
        el("nav", { "aria-label": "Pages" }, links.slice(0, 3), gateways, links.slice(3)),
        el("div", { class: "side-foot" }, line, el("div", { class: "side-buttons" }, themeButton(), leave))),
      el("div", { class: "page" }, banner, main)));
  return {
    main,
    showLine({ isUp, problem }) {
      line.className = `line ${isUp ? "ok" : "bad"}`;
      say(line, isUp ? "live" : "no connection");
      line.title = isUp ? "What you see is what is" : "What you see is what was; trying again";
      if (isUp) {
        clearTimeout(awayTimer);
        [away, awayTimer] = ["", 0];
        showBanner();
        return;
      }
      const words = awayWords(problem);
      awayTimer ||= setTimeout(() => {
        away = words;
        showBanner();
      }, AWAY_MS);
    },
    showOverview(overview) {
      const rows = overview.gateways;
      isDraining = overview.is_draining;
      showBanner();
      const names = rows.map((row) => row.name).join(" ");
      if (gateways.dataset.names === names) return;
      gateways.dataset.names = names;
      fill(gateways, rows.map((row) => el("a", { href: `#/gateways/${encodeURIComponent(row.name)}`, class: "place inner" }, row.title)));
      this.mark();
    },
    stop() {
      clearTimeout(awayTimer);
    },
    mark() {
      for (const link of place.querySelectorAll("a.place")) {
        const address = link.getAttribute("href");
        const isHere = location.hash === address || (address === "#/" ? /^#?\/?$/u.test(location.hash) : address === "#/sessions" && location.hash.startsWith("#/sessions/"));
        if (isHere) link.setAttribute("aria-current", "page");
        else link.removeAttribute("aria-current");
      }
    },
  };
}

/** What to know, and to do, while there is no line to the server. */
function awayWords(problem) {
  const since = `What you see is as of ${moment(Date.now() / 1000)}; this page comes back by itself.`;
  if (problem?.status) return `There is no live view: ${problem.message}. ${since}`;
  return `The server does not answer. ${since} If it does not, see on its machine whether it runs (sojourn sessions list) and what its log says.`;
}

/** Return the page that the address means and what it is of, or nothing. */
function pageOf(address) {
  for (const [pattern, page] of PAGES) {
    const found = pattern.exec(address);
    try {
      if (found) return [page, found[1] && decodeURIComponent(found[1])];
    } catch {
      return null; // an escape in the address that is none
    }
  }
  return null;
}

function leavePage() {
  shown?.stop?.();
  shown = null;
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
}

function show() {
  leavePage();
  const match = pageOf(location.hash);
  const context = { api, live, gatewayTitle: (name) => live.overview?.gateways.find((one) => one.name === name)?.title ?? name };
  frame.mark();
  if (!match) {
    document.title = "No such page · Sojourn";
    fill(frame.main, el("h1", {}, "There is no such page"), el("p", {}, el("a", { href: "#/" }, "To the overview")));
    return;
  }
  const [page, argument] = match;
  shown = page(context, argument);
  document.title = `${shown.title} · Sojourn`;
  fill(frame.main, shown.root);
  window.scrollTo(0, 0);
}

/** What had the focus may be gone with the page before: the keyboard goes on from here. */
function focusPage() {
  if (document.activeElement === document.body) frame?.main.focus({ preventScroll: true });
}

function leave() {
  leavePage();
  live?.stop();
  live = null;
  frame?.stop();
  frame = null;
}

function showLogin(text = "") {
  leave();
  document.title = "Log in · Sojourn";
  fill(place, loginPage({ api, text, onDone: () => start().then(focusPage) }));
}

/** Show the dashboard to whom the server knows, and the login page to everybody else. */
async function start() {
  leave();
  let overview;
  try {
    overview = await api.get("/overview");
  } catch (error) {
    showLogin(error.status === 401 ? "" : error.message);
    return;
  }
  localStorage.setItem(KNOWN_KEY, "yes");
  live = new Live(api, overview);
  frame = makeFrame();
  live.on("line", (line) => frame.showLine(line));
  live.on("overview", (told) => frame.showOverview(told));
  frame.showOverview(overview);
  live.begin();
  show();
}

/** Take the token of a login link out of the address before anything else happens: it must not stay in the history. */
async function enter() {
  useTheme(chosenTheme());
  if (location.pathname === "/login") {
    const token = location.hash.slice(1);
    history.replaceState(null, "", "/");
    if (token && !token.startsWith("/")) {
      try {
        await api.login(token);
      } catch (error) {
        showLogin(error.message);
        return;
      }
      await start();
      return;
    }
  }
  if (!localStorage.getItem(KNOWN_KEY)) {
    showLogin();
    return;
  }
  try {
    await api.whoami();
  } catch (error) {
    if (error.status === 401) localStorage.removeItem(KNOWN_KEY);
    showLogin(error.status === 401 ? "Your session has ended." : error.message);
    return;
  }
  await start();
}

api.onSignedOut = () => {
  if (!live) return;
  localStorage.removeItem(KNOWN_KEY);
  showLogin("Your session has ended.");
};
window.addEventListener("hashchange", () => {
  if (live) {
    show();
    focusPage();
  } else if (/^#[\w-]{16,}$/u.test(location.hash)) enter();
});
// The address says which page is shown, so a place inside of it can't be one.
document.querySelector(".skip").addEventListener("click", (clicked) => {
  clicked.preventDefault();
  document.getElementById("main").focus();
});
window.addEventListener("unhandledrejection", ({ reason }) => {
  if (reason instanceof Problem) toast(reason.message, "bad");
});
enter();
