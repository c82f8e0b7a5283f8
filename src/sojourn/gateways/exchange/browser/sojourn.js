/**
 * sojourn.js: a session of Sojourn's exchange gateway, live in a browser. One file, no dependencies.
 *
 *     import { SojournSession } from "/v1/sojourn.js";
 *     const session = new SojournSession({ token: () => myLogin.token(), storageKey: "desk" });
 *     session.addEventListener("event", ({ detail }) => console.log(detail.offset, detail.type, detail.data));
 *     await session.open();
 *     await session.startSimulator();
 *     await session.order({ symbol: "AAPL", side: "buy", quantity: 10, price: "175.25" });
 *
 * Connections end; the session does not. Events come in order and once each, over any number of connections; what was
 * asked and not answered is asked again under its id, which servers know. Prices and cash are decimal strings.
 *
 * Events (what they bring is in `detail`): "state" {state, why, delayMs} · "event" {epoch, offset, type, data} ·
 * "snapshot" {epoch, offset, isLoss} · "rows" {rows, full} · "portfolio" · "simulator" {state, simulator, detail} ·
 * "quality" · "warn" {reason, in_s} · "degraded" {what} · "restored" {what} · "end" {code, name, reason}.
 */

/** Every code that the server closes with: whether to come back, and what to do. */
export const CLOSE_CODES = Object.freeze({
  1000: { name: "bye", comesBack: false },
  1002: { name: "not_websocket", comesBack: false },
  1007: { name: "not_utf8", comesBack: false },
  1009: { name: "too_large", comesBack: false },
  1012: { name: "restart", comesBack: true },
  4000: { name: "heartbeat_timeout", comesBack: true },
  4001: { name: "auth", comesBack: true },
  4002: { name: "protocol", comesBack: false },
  4003: { name: "replaced", comesBack: false },
  4008: { name: "slow_consumer", comesBack: true },
  4009: { name: "session_ended", comesBack: false },
  4029: { name: "limit", comesBack: true },
});

const PROTOCOL = "session.v1.json";
const PROBLEM = "tag:sojourn,2026:problem:";
/** Before the first welcome: 0.2 to 1 s, then twice as long each time. */
const FIRST_TERMS = { min_s: 1, max_s: 30, jitter: 0.8 };
const WELCOME_S = 10;
const SAVE_MS = 250;
const TOKENS_REFUSED = 2;
const FINAL = new Set(["filled", "canceled", "rejected"]);
const ENDED_ORDERS = 50;
/** Errors that the same frame, with the same id, may not meet again. */
const AGAIN = new Set(["rate_limited", "unavailable", "simulator_unavailable", "outcome_unknown"]);

/** The server, or the way to it, says no: `code` is a word for programs. */
export class SojournError extends Error {
  /** @param {string} code @param {string} [detail] @param {{status?: number, retryAfterS?: number}} [more] */
  constructor(code, detail = "", { status = 0, retryAfterS = 0 } = {}) {
    super(detail ? `${code}: ${detail}` : code);
    this.code = code;
    this.detail = detail;
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

/**
 * @typedef {object} Options
 * @property {(wanted: {isRefused: boolean}) => string | Promise<string>} token gives a bearer token; asked again when
 *   one is refused. It goes into a header, never into a URL.
 * @property {string} [url] of the server; by default where the page came from
 * @property {string} [device] the same for each visit; by default one that is kept in localStorage
 * @property {string} [session] an id; by default the device's, made if there is none
 * @property {string[] | null} [symbols] whose rows are wanted; null for all
 * @property {string} [storageKey] keeps the cursor in sessionStorage, so that a reload resumes
 * @property {number} [timeoutMs] of a request
 * @property {() => number} [random] a number in [0, 1)
 */

/** One session. Its state is "new", "connecting", "live", "waiting" or "over". */
export class SojournSession extends EventTarget {
  #options; #base; #token = null; #refused = 0;
  #socket = null; #isGreeted = false; #isClosing = false; #awaitsSnapshot = true; #wantsOrders = false;
  #cursor = null; #rowsAsked = 0; #wantsRows = false; #ended = new Set();
  #terms = FIRST_TERMS; #failures = 0; #failuresBefore = 0; #returnAt = 0; #reason = "";
  #asks = new Map(); #outbox = []; #limits = null; #tokens = 0; #filledAt = 0; #pacing = 0;
  #retry = 0; #deadline = 0; #leaving = 0; #saving = 0; #opening = null; #heartbeatS = 0;
  #prefix = randomText(); #number = 0;

  /** @param {Options} options */
  constructor(options) {
    super();
    this.#options = { symbols: null, timeoutMs: 30_000, random: Math.random, ...options };
    this.#base = options.url ?? globalThis.location.origin;
    this.state = "new";
    /** @type {string} */ this.id = options.session ?? "";
    this.device = options.device ?? keptDevice();
    /** The market: the latest row of each symbol. @type {Map<string, object>} */
    this.rows = new Map();
    /** Orders by number, as their last events told them. @type {Map<number, object>} */
    this.orders = new Map();
    this.portfolio = null;
    this.simulator = { state: "none", simulator: "", detail: "" };
    this.quality = null;
    this.stats = { connections: 0, events: 0, recovered: 0, lost: 0, gaps: 0, repeated: 0 };
  }

  /** How far we have come, or null. @returns {{epoch: number, events: number, md: number, pf: number} | null} */
  get resume() { return this.#cursor && { ...this.#cursor }; }

  /** Connects; resolves when we are greeted, rejects when that is of no use. @returns {Promise<void>} */
  open() {
    if (!this.#opening) {
      this.#opening = deferred();
      this.#opening.promise.catch(() => {}); // who only listens to "end" need not catch
      globalThis.addEventListener?.("pagehide", this.#save);
      globalThis.addEventListener?.("online", this.#onOnline);
      this.#connect();
    }
    return this.#opening.promise;
  }

  /** Leaves; the session stays, and can be opened again by another object. */
  close() {
    this.#socket?.close(1000, "bye");
    this.#finish({ code: 1000, name: "bye", reason: "closed here" });
  }

  /** Ends the session and its simulator. */
  async end() { await this.#rest("DELETE", `/v1/sessions/${this.id}`); }

  // What may be asked

  /**
   * Places an order; without a price it is a market order. The same id is the same order.
   * @param {{symbol: string, side: "buy" | "sell", quantity: number, price?: string, tif?: string, id?: string}} order
   * @returns {Promise<{order: number, status: string, filled: number}>}
   */
  order({ id, price, ...order }) {
    const terms = price === undefined ? { type: "market" } : { type: "limit", price: String(price) };
    return this.#ask("order", { ...terms, ...order }, id);
  }

  /** Takes back what is left of an order. @param {number} order */
  cancel(order) { return this.#ask("cancel", { order }); }

  /** Gives an order another quantity, what is filled included, and another price. */
  replace(order, quantity, price) { return this.#ask("replace", { order, quantity, price }); }

  startSimulator() { return this.#ask("sim", { action: "start" }); }

  stopSimulator() { return this.#ask("sim", { action: "stop" }); }

  /** Asks for everything anew. */
  refresh() { return this.#ask("snapshot", {}); }

  /** See these symbols too. @param {string[]} symbols */
  async subscribe(symbols) {
    if (this.#options.symbols === null) return;
    await this.#wantRows("sub", symbols, [...new Set([...this.#options.symbols, ...symbols])]);
  }

  /** See these symbols no more. @param {string[]} symbols */
  async unsubscribe(symbols) {
    const seen = this.#options.symbols ?? [...this.rows.keys()];
    await this.#wantRows("unsub", symbols, seen.filter((one) => !symbols.includes(one)));
  }

  #wantRows(t, symbols, all) {
    this.#options.symbols = all;
    this.#rowsAsked += 1;
    this.#wantsRows = true;
    return this.#ask(t, { symbols });
  }

  #ask(t, fields, id = `${this.#prefix}-${(this.#number += 1)}`) {
    const { promise, resolve, reject } = deferred();
    if (this.state === "over") reject(new SojournError("over", "the session was left, or has ended"));
    else if (this.#asks.has(id)) reject(new SojournError("id_twice", "another request with this id waits"));
    else {
      const ask = { frame: { t, id, ...fields }, resolve, reject, sent: 0, latest: null };
      const late = () => this.#settle(id, ask.latest ?? new SojournError("no_answer", "the same id may be sent again"));
      ask.timer = setTimeout(late, this.#options.timeoutMs);
      this.#asks.set(id, ask);
      this.#say(ask);
    }
    return promise;
  }

  #settle(id, error, value) {
    const ask = this.#asks.get(id);
    if (!ask) return null;
    this.#asks.delete(id);
    clearTimeout(ask.timer);
    if (error) ask.reject(error);
    else ask.resolve(value);
    return ask;
  }

  #say(ask) {
    if (!this.#isGreeted || this.#isClosing) return;
    if (ask.sent) this.stats.repeated += 1;
    ask.sent += 1;
    this.#outbox.push(ask.frame);
    this.#flush();
  }

  /** Sends no more than the server takes; half of its burst is left for what the network bunches. */
  #flush() {
    const { frames_per_s: perS, frames_burst_count: burst } = this.#limits;
    const now = Date.now();
    if (perS) this.#tokens = Math.min(Math.max(1, burst / 2), this.#tokens + ((now - this.#filledAt) / 1000) * perS);
    this.#filledAt = now;
    while (this.#outbox.length && (!perS || this.#tokens >= 1)) {
      this.#tokens -= 1;
      this.#send(this.#outbox.shift());
    }
    clearTimeout(this.#pacing);
    if (this.#outbox.length) this.#pacing = setTimeout(() => this.#flush(), 1000 / perS);
  }

  #send(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  // Connections

  async #connect() {
    this.#turn("connecting");
    try {
      if (!this.id) this.id = (await this.#rest("POST", "/v1/sessions", { device: this.device })).id;
      this.#cursor ??= this.#stored();
      const ticket = await this.#rest("POST", `/v1/sessions/${this.id}/ticket`);
      if (this.state !== "over") this.#dial(ticket);
    } catch (error) {
      if (this.state === "over") return;
      const isLost = !error.status || error.status >= 500 || [408, 425, 429].includes(error.status);
      if (isLost) this.#comeBack({ why: error.message, afterS: error.retryAfterS });
      else this.#finish({ code: 0, name: error.code, reason: error.detail }, error);
    }
  }

  #dial(ticket) {
    const url = new URL(ticket.path, this.#base);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, [PROTOCOL, `ticket.${ticket.ticket}`]);
    const isOurs = () => this.#socket === socket;
    this.#socket = socket;
    this.#isGreeted = this.#isClosing = false;
    this.#reason = "";
    this.#expectWithin(WELCOME_S);
    socket.onopen = () => isOurs() && this.#hello();
    socket.onmessage = ({ data }) => isOurs() && this.#receive(data);
    socket.onclose = ({ code, reason }) => isOurs() && this.#closed(code, this.#reason || reason);
  }

  #hello() {
    const cursor = this.#cursor && { ...this.#cursor, md: this.#wantsRows ? 0 : this.#cursor.md };
    this.#rowsAsked = 0;
    for (const ask of this.#asks.values()) ask.isInHello = isAboutSymbols(ask);
    const hello = { t: "hello", id: "hello", device: this.device };
    if (cursor) hello.resume = cursor;
    if (this.#options.symbols) hello.symbols = this.#options.symbols;
    this.#send(hello);
  }

  #closed(code, reason) {
    this.#hangUp();
    const row = CLOSE_CODES[code]; // any other code: the connection broke
    if (row && !row.comesBack) this.#finish({ code, name: row.name, reason });
    else {
      if (code === 4001) [this.#token, this.#refused] = [null, 1];
      const isHasty = code === 4001 || code === 4029; // coming back at once would only be met by the same
      this.#comeBack({ why: row ? `${code} ${row.name}` : "the connection broke", isHasty });
    }
  }

  /** Ends a connection that is of no use any more; whatever it still brings is not ours. */
  #drop(code, why, isHasty = false) {
    const socket = this.#socket;
    this.#hangUp();
    socket?.close(code);
    this.#comeBack({ why, isHasty });
  }

  #hangUp() {
    this.#socket = null;
    this.#isGreeted = false;
    this.#outbox.length = 0;
    for (const timer of [this.#deadline, this.#leaving, this.#pacing]) clearTimeout(timer);
  }

  /** Waits as long as the server's terms and chance say, then connects. */
  #comeBack({ why, afterS = 0, isHasty = false }) {
    let delayMs = this.#returnAt - Date.now();
    if (!this.#returnAt) {
      if (isHasty) this.#failures = Math.max(this.#failures, this.#failuresBefore);
      const { min_s: minS, max_s: maxS, jitter } = this.#terms;
      const bound = Math.min(maxS, minS * 2 ** Math.min(this.#failures, 64));
      this.#failures += 1;
      delayMs = 1000 * (afterS + bound * (1 - jitter * this.#options.random()));
    }
    this.#returnAt = 0;
    delayMs = Math.max(0, delayMs);
    this.#turn("waiting", { why, delayMs });
    this.#retry = setTimeout(() => this.#connect(), delayMs);
  }

  #onOnline = () => {
    if (this.state !== "waiting") return;
    clearTimeout(this.#retry);
    this.#failures = 0;
    this.#comeBack({ why: "the network is back" });
  };

  #expectWithin(seconds) {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(() => this.#drop(4000, "the server was silent for too long"), seconds * 1000);
  }

  #finish(how, error = new SojournError(how.name, how.reason)) {
    if (this.state === "over") return;
    this.#hangUp();
    clearTimeout(this.#retry);
    clearTimeout(this.#saving);
    if (how.code === 4009 || how.code === 4003) this.#forget();
    else this.#save();
    globalThis.removeEventListener?.("pagehide", this.#save);
    globalThis.removeEventListener?.("online", this.#onOnline);
    this.#turn("over", { why: how.name });
    this.#opening?.reject(error);
    for (const id of [...this.#asks.keys()]) this.#settle(id, error);
    this.#emit("end", how);
  }

  // What the server says

  #receive(data) {
    try {
      this.#take(JSON.parse(data));
    } catch (error) {
      this.stats.gaps += 1;
      this.#drop(4002, error.message, true);
    }
  }

  #take(frame) {
    switch (frame.t) {
      case "ev": return this.#takeEvent(frame);
      case "md": return this.#takeRows(frame);
      case "pf": return this.#takePortfolio(frame);
      case "ok": return this.#takeAnswer(frame);
      case "err": return this.#takeError(frame);
      case "hb":
        this.#send({ t: "hb_ack", n: frame.n, o: this.#cursor?.events ?? 0 });
        return this.#expectWithin(this.#heartbeatS);
      case "welcome": return this.#takeWelcome(frame);
      case "snapshot": return this.#takeSnapshot(frame);
      case "sim": return this.#takeSimulator(frame);
      case "drain": return this.#takeDrain(frame);
      case "replaced": this.#reason = `by ${frame.device}`; return undefined;
      case "ended": this.#reason = frame.reason; return undefined;
      case "quality": this.quality = frame; return this.#emit("quality", frame);
      case "warn": case "degraded": case "restored": return this.#emit(frame.t, frame);
      default: return undefined; // a newer server's
    }
  }

  #takeWelcome(welcome) {
    this.#terms = welcome.reconnect;
    this.#limits = welcome.limits;
    this.#tokens = Math.max(1, welcome.limits.frames_burst_count / 2);
    this.#filledAt = Date.now();
    this.#heartbeatS = welcome.heartbeat.timeout_s;
    this.#expectWithin(this.#heartbeatS);
    this.#awaitsSnapshot = welcome.resumed === "none"; // then the cursor moves with the snapshot, not before
    [this.#failuresBefore, this.#failures] = [this.#failures, 0];
    if (this.#awaitsSnapshot) return;
    const cursor = this.#cursor;
    if (cursor?.epoch !== welcome.epoch || cursor.events !== welcome.events) throw new Error("a welcome that is not ours");
    this.stats.recovered += welcome.recovered;
    this.#greeted();
    if (this.#wantsOrders) this.refresh().catch(() => {});
    this.#wantsOrders = false;
  }

  #greeted() {
    if (this.#isGreeted) return;
    this.#isGreeted = true;
    this.stats.connections += 1;
    this.#turn("live");
    this.#opening.resolve();
    for (const [id, ask] of [...this.#asks]) {
      if (ask.isInHello) this.#settle(id);
      else this.#say(ask);
    }
  }

  #takeEvent({ o, y, d }) {
    const cursor = this.#cursor;
    if (this.#awaitsSnapshot || o !== cursor.events + 1) throw new Error(`event ${o} behind ${cursor?.events}`);
    cursor.events = o;
    this.stats.events += 1;
    if (y === "order") this.#noteOrder(d);
    else if (y === "orders") this.#takeOrders(d.orders);
    this.#saving ||= setTimeout(this.#save, SAVE_MS);
    this.#emit("event", { epoch: cursor.epoch, offset: o, type: y, data: d });
  }

  #takeSnapshot({ epoch, o, sim, simulator = "", orders = [] }) {
    const cursor = this.#cursor;
    const isLoss = cursor !== null && (cursor.epoch !== epoch || cursor.events !== o);
    this.#awaitsSnapshot = this.#wantsOrders = false;
    if (!cursor || isLoss) {
      this.stats.lost += isLoss;
      this.#cursor = { epoch, events: o, md: 0, pf: 0 };
      this.rows.clear();
      this.portfolio = null;
    }
    this.#takeOrders(orders);
    this.#emit("snapshot", { epoch, offset: o, isLoss });
    this.#takeSimulator({ state: sim, simulator });
    this.#save();
    this.#greeted();
  }

  #takeRows({ r, rows, full = 0 }) {
    if (full) {
      this.rows.clear();
      this.#wantsRows = this.#rowsAsked > 0;
    }
    for (const row of rows) this.rows.set(row.s, row);
    if (!this.#awaitsSnapshot) this.#cursor.md = r;
    this.#emit("rows", { rows, full: Boolean(full) });
  }

  #takePortfolio({ r, d }) {
    this.portfolio = d;
    if (!this.#awaitsSnapshot) this.#cursor.pf = r;
    this.#emit("portfolio", d);
  }

  #takeSimulator({ state, simulator = "", detail = "" }) {
    this.simulator = { state, simulator, detail };
    this.#emit("simulator", this.simulator);
  }

  #takeOrders(orders) {
    this.orders.clear();
    this.#ended.clear();
    for (const order of orders) this.#noteOrder(order);
  }

  #noteOrder(order) {
    this.orders.delete(order.order);
    this.orders.set(order.order, order);
    if (!FINAL.has(order.status)) return;
    this.#ended.add(order.order);
    if (this.#ended.size <= ENDED_ORDERS) return;
    const [oldest] = this.#ended;
    this.#ended.delete(oldest);
    this.orders.delete(oldest);
  }

  #takeAnswer({ ref, d }) {
    const ask = this.#settle(ref, null, d);
    if (!isAboutSymbols(ask)) return;
    this.#rowsAsked -= 1;
    this.#wantsRows = true; // until the full frame that follows
  }

  #takeError({ code, detail = "", ref, retry_after_s: afterS }) {
    if (ref === "hello") {
      this.#reason = `${code}: ${detail}`;
      return;
    }
    const error = new SojournError(code, detail, { retryAfterS: afterS ?? 0 });
    const named = ref === undefined ? [...this.#asks.values()] : [this.#asks.get(ref)].filter(Boolean);
    const isForAgain = ref === undefined ? code === "rate_limited" : AGAIN.has(code) && afterS !== undefined;
    if (!isForAgain) {
      if (named.length === 1) this.#settle(named[0].frame.id, error); // one that cannot be read comes without ref
      return;
    }
    const socket = this.#socket;
    for (const ask of named) {
      ask.latest = error;
      const sayAgain = () => this.#socket === socket && this.#asks.get(ask.frame.id) === ask && this.#say(ask);
      setTimeout(sayAgain, 1000 * (afterS ?? 1));
    }
  }

  /** Asks for nothing more here, hears what still comes, and goes when it is told to. */
  #takeDrain({ reconnect_after_ms: afterMs }) {
    this.#isClosing = true;
    this.#returnAt = Date.now() + afterMs;
    this.#leaving = setTimeout(() => this.#drop(1000, "the server sends its clients away"), afterMs);
  }

  #turn(state, more = {}) {
    this.state = state;
    this.#emit("state", { state, why: "", delayMs: 0, ...more });
  }

  #emit(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  // REST, and what a reload keeps

  async #rest(method, path, body) {
    this.#token ??= await this.#options.token({ isRefused: this.#refused > 0 });
    const headers = { Authorization: `Bearer ${this.#token}` };
    if (body) headers["Content-Type"] = "application/json";
    const signal = AbortSignal.timeout(this.#options.timeoutMs);
    const init = { method, headers, signal, credentials: "omit", cache: "no-store" };
    if (body) init.body = JSON.stringify(body);
    const response = await fetch(new URL(path, this.#base), init);
    if (response.status === 401 && this.#refused < TOKENS_REFUSED) {
      this.#refused += 1;
      this.#token = null;
      return this.#rest(method, path, body);
    }
    if (!response.ok) throw await problemOf(response);
    this.#refused = 0;
    return response.status === 204 ? null : response.json();
  }

  #stored() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(this.#options.storageKey) ?? "null");
      if (kept?.session !== this.id) return null;
      this.#wantsOrders = true;
      return { epoch: kept.epoch, events: kept.events, md: 0, pf: 0 };
    } catch {
      return null;
    }
  }

  #save = () => {
    clearTimeout(this.#saving);
    this.#saving = 0;
    if (!this.#options.storageKey || !this.#cursor) return;
    const { epoch, events } = this.#cursor;
    try {
      sessionStorage.setItem(this.#options.storageKey, JSON.stringify({ session: this.id, epoch, events }));
    } catch {
      // A full or forbidden storage: a reload begins with a snapshot.
    }
  };

  #forget() {
    try {
      sessionStorage.removeItem(this.#options.storageKey);
    } catch {
      // As above.
    }
  }
}

async function problemOf(response) {
  const problem = await response.json().catch(() => ({}));
  const code = String(problem.type ?? "refused").replace(PROBLEM, "");
  const words = [problem.title, problem.detail, ...(problem.errors ?? []).map((one) => `${one.field}: ${one.problem}`)];
  const retryAfterS = Number(response.headers.get("Retry-After")) || 0;
  return new SojournError(code, words.filter(Boolean).join("; "), { status: response.status, retryAfterS });
}

function isAboutSymbols(ask) { return ask?.frame.t === "sub" || ask?.frame.t === "unsub"; }

function keptDevice() {
  try {
    const kept = localStorage.getItem("sojourn.device") ?? `web-${randomText()}`;
    localStorage.setItem("sojourn.device", kept);
    return kept;
  } catch {
    return `web-${randomText()}`;
  }
}

function randomText() {
  return Array.from(crypto.getRandomValues(new Uint8Array(8)), (one) => one.toString(16).padStart(2, "0")).join("");
}

function deferred() {
  const made = {};
  made.promise = new Promise((resolve, reject) => Object.assign(made, { resolve, reject }));
  return made;
}
