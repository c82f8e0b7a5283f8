/**
 * The admin API from a page: requests that carry the CSRF token, problems as errors in words, streams that come back.
 *
 * The session is a cookie that scripts can't read. Knows addresses of the API, and no page.
 */
export const BASE = "/api/v1";

/** A refusal by the server: RFC 9457. */
export class Problem extends Error {
  constructor(status, body) {
    const detail = body?.errors?.map((one) => `${one.field ?? one.key ?? ""}: ${one.detail ?? one.wanted ?? ""}`).join("; ") || body?.detail;
    super([body?.title ?? `The server answered ${status}`, detail].filter(Boolean).join(": "));
    this.status = status;
    this.body = body;
  }
}

const SCOPES = ["view", "operate", "admin"];

export class Api {
  #csrf = "";

  constructor() {
    this.scope = "view";
    this.name = "";
    this.onSignedOut = () => {};
  }

  /** Say whether this browser session may do what needs a scope. */
  may(scope) {
    return SCOPES.indexOf(this.scope) >= SCOPES.indexOf(scope);
  }

  /** Find out who we are; throws a Problem of 401 for nobody. */
  async whoami() {
    this.#take(await this.get("/session"));
  }

  async login(token) {
    this.#take(await this.#send("POST", "/login", { token }));
  }

  async logout() {
    await this.#send("POST", "/logout");
  }

  #take(answer) {
    this.#csrf = answer.csrf_token ?? "";
    this.scope = answer.scope ?? "view";
    this.name = answer.name ?? "";
  }

  get(path, query = {}) {
    return this.#send("GET", path + asked(query));
  }

  post(path, body = undefined) {
    return this.#send("POST", path, body);
  }

  delete(path) {
    return this.#send("DELETE", path);
  }

  /** Get something that is no JSON. */
  async text(path, query = {}) {
    const response = await this.#fetch("GET", path + asked(query), undefined, "*/*");
    return response.text();
  }

  async #send(method, path, body) {
    const response = await this.#fetch(method, path, body, "application/json");
    return response.status === 204 ? null : response.json();
  }

  async #fetch(method, path, body, accept) {
    const headers = { Accept: accept };
    if (method !== "GET") headers["X-CSRF-Token"] = this.#csrf;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(BASE + path, {
        method,
        headers,
        credentials: "same-origin",
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch {
      throw new Problem(0, { title: "The server does not answer" });
    }
    if (response.ok) return response;
    const problem = new Problem(response.status, await response.json().catch(() => null));
    if (response.status === 401 && path !== "/login") this.onSignedOut();
    throw problem;
  }

  /**
   * Listen to a stream of server-sent events.
   *
   * @param {object} listeners by kind of event, called with its data; `open` and `lost` tell of the line itself.
   * @returns what ends it.
   */
  stream(path, { open = () => {}, lost = () => {}, ...listeners }) {
    let source = null;
    let timer = 0;
    let waitMs = FIRST_WAIT_MS;
    const begin = () => {
      source = new EventSource(BASE + path);
      source.addEventListener("open", () => {
        waitMs = FIRST_WAIT_MS;
        open();
      });
      for (const [kind, listener] of Object.entries(listeners)) {
        source.addEventListener(kind, (told) => listener(JSON.parse(told.data)));
      }
      // The browser comes back by itself only after some errors; so it is always us, with a longer wait each time.
      source.addEventListener("error", () => {
        source.close();
        lost();
        timer = setTimeout(begin, waitMs);
        waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 2);
      });
    };
    begin();
    return () => {
      clearTimeout(timer);
      source.close();
    };
  }
}

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

function asked(query) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}
