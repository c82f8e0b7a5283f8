/** Who are you? A login link opens the dashboard by itself; this page is for those who come without one. */
import { el, say } from "./kit.js";

export function loginPage({ api, text = "", onDone }) {
  const problem = el("p", { class: "problem-line", role: "alert" }, text);
  const token = el("input", { id: "token", name: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "token-hint" });
  const submit = el("button", { class: "button primary", type: "submit" }, "Log in");
  const form = el("form", { class: "login-form" },
    el("label", { for: "token" }, "Login code"), token,
    el("p", { class: "hint", id: "token-hint" }, "What stands behind the # of a login link. It works once."),
    problem, submit);
  form.addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    submit.disabled = true;
    const given = token.value.trim().replace(/^.*#/u, "");
    token.value = "";
    try {
      await api.login(given);
      await onDone();
    } catch (error) {
      say(problem, error.message);
      submit.disabled = false;
      token.focus();
    }
  });
  return el("main", { class: "login", id: "main", tabindex: "-1" },
    el("div", { class: "login-card" },
      el("img", { src: "/static/icon.svg", alt: "", width: 48, height: 48 }),
      el("h1", {}, "Sojourn"),
      el("p", { class: "lead" }, "Every conversation of this server, drawn as it happens."),
      el("div", { class: "login-how" },
        el("p", {}, "On the server's machine, this prints a link that logs you in:"),
        el("pre", { tabindex: "0" }, "sojourn login-link")),
      form));
}
