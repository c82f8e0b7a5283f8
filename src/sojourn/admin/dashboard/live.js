/**
 * What the server tells by itself: the overview each second, sessions that come and go, events.
 *
 * One stream for the whole page; pages listen here. Everything that is kept is bounded.
 */
const SERIES_LENGTH = 60;
const EVENTS_KEPT = 200;
const SERIES = {
  sessions_open: (tick) => tick.sessions_open,
  opened_per_s: (tick) => tick.opened_per_s,
  packets_per_s: (tick) => tick.packets_in_per_s + tick.packets_out_per_s,
  failed_per_s: (tick) => tick.failed_per_s,
};

export class Live extends EventTarget {
  /**
   * Kinds of events: `overview`, `session`, `more`, `event`; `line` (whether the stream is up, and the Problem that it was
   * refused with), and `back`, when it is up again and things were missed.
   */
  constructor(api, overview) {
    super();
    this.api = api;
    this.overview = overview;
    this.events = [];
    this.isUp = false;
    this.wasUp = false;
    this.end = () => {};
  }

  /** Listen until `stop`. */
  begin() {
    this.end = this.api.stream("/stream", {
      open: () => this.#opened(),
      lost: (problem) => this.#line(false, problem),
      refused: (problem) => this.#line(false, problem),
      overview: (tick) => this.#tick(tick),
      session: ({ session }) => this.#tell("session", session),
      more: (more) => this.#tell("more", more),
      event: (event) => this.#event(event),
    });
  }

  stop() {
    this.end();
  }

  /** Listen to one kind; returns what ends it. */
  on(kind, listener) {
    const heard = ({ detail }) => listener(detail);
    this.addEventListener(kind, heard);
    return () => this.removeEventListener(kind, heard);
  }

  async #opened() {
    this.#line(true);
    // What was missed while the line was down: the series and the counts are read again, once.
    this.overview = await this.api.get("/overview").catch(() => this.overview);
    this.#tell("overview", this.overview);
    if (this.wasUp) this.#tell("back");
    this.wasUp = true;
  }

  #line(isUp, problem = null) {
    this.isUp = isUp;
    this.#tell("line", { isUp, problem });
  }

  #tick(tick) {
    const known = new Map(this.overview.gateways.map((one) => [one.name, one]));
    for (const next of tick.gateways) {
      const gateway = known.get(next.name);
      if (!gateway) continue;
      const series = gateway.series;
      Object.assign(gateway, next, { series });
      for (const [name, valueOf] of Object.entries(SERIES)) {
        series[name].push(valueOf(next));
        if (series[name].length > SERIES_LENGTH) series[name].shift();
      }
    }
    Object.assign(this.overview, { now: tick.now, uptime_s: tick.uptime_s, is_draining: tick.is_draining, problems: tick.problems });
    this.#tell("overview", this.overview);
  }

  #event(event) {
    this.events.unshift(event);
    if (this.events.length > EVENTS_KEPT) this.events.length = EVENTS_KEPT;
    this.#tell("event", event);
  }

  #tell(kind, detail) {
    this.dispatchEvent(new CustomEvent(kind, { detail }));
  }
}
