/**
 * The admin API from a page: requests that carry the CSRF token, problems as errors in words, streams that come back.
 *
 * The session is a cookie that scripts can't read. Knows addresses of the API, and no page.
 */
export const BASE = "/api/v1";

const SCOPES = ["view", "operate", "admin"];
/** Longer than the server works on a request ([admin] request_timeout_s), so that its own words come first. */
const REQUEST_MS = 40_000;
/** A stream that is silent for so long has nobody at its other end: the server writes a comment every 15 s. */
const SILENCE_MS = 60_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;
/** What no waiting mends: who asks may not, or what is asked for is not there. */
const FINAL_STATUSES = [401, 403, 404];

/** A refusal by the server (RFC 9457), each wrong field or setting in a line of its own; status 0: it did not answer. */
export class Problem extends Error {
  constructor(status, body) {
    const title = body?.title ?? `The server answered ${status}`;
    const fields = (body?.errors ?? []).map(({ field, problem }) => `${field}: ${problem}`);
    const settings = (body?.problems ?? []).map(settingWords);
    super([title, [...fields, ...settings].join("\n") || body?.detail].filter(Boolean).join(": "));
    this.status = status;
    this.kind = body?.type ?? "";
  }
}

/** What is wrong with a setting, as the command line says it. */
function settingWords({ file, line, table, key, found, wanted }) {
  const where = line ? `${file}:${line}` : file;
  return `${where}: ${[table, key].filter(Boolean).join(".")}: found ${found}, wanted ${wanted}`;
}

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

  put(path, body = undefined) {
    return this.#send("PUT", path, body);
  }

  delete(path) {
    return this.#send("DELETE", path);
  }

  /** Get something that is no JSON. */
  async text(path, query = {}) {
    const response = await this.#fetch("GET", path + asked(query), { accept: "*/*" });
    return read(response.text());
  }

  async #send(method, path, body) {
    const request = { accept: "application/json", body };
    let response;
    try {
      response = await this.#fetch(method, path, request);
    } catch (error) {
      // Another tab has logged in since: the cookie is its, and so must the token be.
      if (!error.kind?.endsWith("no_csrf_token")) throw error;
      await this.whoami();
      response = await this.#fetch(method, path, request);
    }
    return response.status === 204 ? null : read(response.json());
  }

  async #fetch(method, path, { accept, body = undefined, signal = AbortSignal.timeout(REQUEST_MS) }) {
    const headers = { Accept: accept };
    if (method !== "GET") headers["X-CSRF-Token"] = this.#csrf;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const response = await read(fetch(BASE + path, {
      method,
      headers,
      signal,
      credentials: "same-origin",
      body: body === undefined ? undefined : JSON.stringify(body),
    }));
    if (response.ok) return response;
    const problem = new Problem(response.status, await response.json().catch(() => null));
    if (response.status === 401 && path !== "/login") this.onSignedOut();
    throw problem;
  }

  /**
   * Listen to a stream of server-sent events: as long as the page can be seen, again when the line was lost.
   *
   * @param {object} listeners by kind of event, called with its data. Of the line itself tell `open`, `lost`, which gets
   *   the Problem if it was one, and `refused` with one that no waiting mends.
   * @returns what ends it.
   */
  stream(path, { open = () => {}, lost = () => {}, refused = () => {}, ...listeners }) {
    let line = null;
    let timer = 0;
    let waitMs = FIRST_WAIT_MS;

    async function listen(api) {
      const mine = new AbortController();
      line = mine;
      let problem = null;
      try {
        const response = await api.#fetch("GET", path, { accept: "text/event-stream", signal: mine.signal });
        waitMs = FIRST_WAIT_MS;
        open();
        await readEvents(response.body, mine.signal, (kind, data) => listeners[kind]?.(JSON.parse(data)));
      } catch (error) {
        problem = error;
      }
      if (line !== mine) return;
      line = null;
      mine.abort();
      if (FINAL_STATUSES.includes(problem?.status)) {
        end();
        refused(problem);
        return;
      }
      lost(problem instanceof Problem ? problem : null);
      timer = setTimeout(listen, waitMs, api);
      waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 2);
    }

    function hangUp() {
      clearTimeout(timer);
      line?.abort();
      line = null;
    }

    const look = () => {
      hangUp();
      waitMs = FIRST_WAIT_MS;
      if (!document.hidden) listen(this);
    };

    function end() {
      document.removeEventListener("visibilitychange", look);
      hangUp();
    }

    document.addEventListener("visibilitychange", look);
    look();
    return end;
  }
}

/** Wait for something of the network; whatever goes wrong there is a Problem. */
async function read(promise) {
  try {
    return await promise;
  } catch {
    throw new Problem(0, { title: "The server does not answer" });
  }
}

/**
 * Tell of each server-sent event until the stream ends, is aborted, or is silent for too long.
 *
 * Source: WHATWG HTML, "Server-sent events"; of its fields those that the server writes.
 */
async function readEvents(body, signal, tell) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let silence = 0;
  let rest = "";
  try {
    while (!signal.aborted) {
      silence = setTimeout(() => reader.cancel().catch(() => {}), SILENCE_MS);
      const { value, done } = await reader.read();
      clearTimeout(silence);
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const fields = Object.fromEntries(block.split("\n").map((one) => one.split(/: (.*)/su)));
        if (!fields.event || signal.aborted) continue;
        try {
          tell(fields.event, fields.data);
        } catch (error) {
          reportError(error); // a mistake of the page, not of the line
        }
      }
    }
  } finally {
    clearTimeout(silence);
  }
}

function asked(query) {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}
