/**
 * A list that may be as long as it likes: only the lines that can be seen are in the page.
 *
 * The lines are made once and filled anew as they scroll by, so a list of 10,000 costs what a list of 40 does. Knows
 * nothing of what it shows.
 */
const EXTRA = 6;
let lists = 0;

export class VirtualList {
  /**
   * @param {object} how
   * @param {string} how.label what the list is, for those who listen
   * @param {() => HTMLElement} how.make makes an empty line
   * @param {(node: HTMLElement, item: object) => void} how.show fills a line with an item
   * @param {(item: object) => void} how.open what Enter and a click do
   * @param {(item: object) => any} [how.key] what an item is found again by where `set` brings a newer one
   * @param {() => void} [how.onEnd] called when the end comes near
   */
  constructor({ label, make, show, open, key = (item) => item, onEnd = () => {} }) {
    Object.assign(this, { make, show, open, key, onEnd });
    this.name = `list-${(lists += 1)}`;
    this.items = [];
    this.lines = [];
    this.current = 0;
    this.space = document.createElement("div");
    this.space.className = "virtual-space";
    this.space.setAttribute("role", "presentation");
    this.root = document.createElement("div");
    this.root.className = "virtual";
    this.root.tabIndex = 0;
    this.root.setAttribute("role", "listbox");
    this.root.setAttribute("aria-label", label);
    this.root.append(this.space);
    this.root.addEventListener("scroll", () => this.refresh(), { passive: true });
    this.root.addEventListener("keydown", (pressed) => this.#key(pressed));
    this.root.addEventListener("click", (clicked) => this.#click(clicked));
    this.watcher = new ResizeObserver(() => this.refresh());
    this.watcher.observe(this.root);
  }

  /** The height of a line in pixels, as the style sheet says for this width. */
  get lineHeight() {
    return Number.parseFloat(getComputedStyle(this.root).getPropertyValue("--line-height")) || 40;
  }

  get isAtTop() {
    return this.root.scrollTop < this.lineHeight / 2;
  }

  /** Whether lines may move: nobody has scrolled away, points at one, or walks through them by keyboard. */
  get mayMove() {
    return this.isAtTop && !this.root.matches(":hover") && (this.current === 0 || document.activeElement !== this.root);
  }

  /** Show other items, in place; the line that the keyboard is at stays with its item. */
  set(items) {
    const at = this.current && this.items[this.current];
    this.items = items;
    const found = at ? items.findIndex((item) => this.key(item) === this.key(at)) : -1;
    this.current = found >= 0 ? found : Math.min(this.current, Math.max(0, items.length - 1));
    this.refresh();
  }

  /** Draw before the next frame, however often it is asked for. */
  refresh() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.#draw();
    });
  }

  stop() {
    this.watcher.disconnect();
    cancelAnimationFrame(this.frame);
  }

  #draw() {
    const height = this.lineHeight;
    const total = `${this.items.length * height}px`;
    if (this.space.style.height !== total) this.space.style.height = total;
    const first = Math.max(0, Math.floor(this.root.scrollTop / height) - EXTRA);
    const fits = Math.ceil(this.root.clientHeight / height) + 2 * EXTRA;
    const last = Math.min(this.items.length, first + fits);
    while (this.lines.length < Math.min(fits, this.items.length)) {
      const line = this.make();
      line.setAttribute("role", "option");
      line.classList.add("virtual-line");
      this.lines.push(line);
      this.space.append(line);
    }
    // A line keeps its place modulo their number: scrolling by one fills one anew.
    const used = new Set();
    for (let index = first; index < last; index += 1) {
      const line = this.lines[index % this.lines.length];
      used.add(line);
      const top = `translateY(${index * height}px)`;
      if (line.style.transform !== top) line.style.transform = top;
      line.hidden = false;
      if (line.dataset.index !== String(index)) {
        line.dataset.index = index;
        line.id = `${this.name}-${index}`;
        line.setAttribute("aria-posinset", index + 1);
      }
      mark(line, "aria-setsize", this.items.length);
      mark(line, "aria-selected", index === this.current);
      this.show(line, this.items[index]);
    }
    for (const line of this.lines) if (!used.has(line)) line.hidden = true;
    // Only a line that is in the page can be pointed at.
    if (this.current >= first && this.current < last) mark(this.root, "aria-activedescendant", `${this.name}-${this.current}`);
    else this.root.removeAttribute("aria-activedescendant");
    if (last >= this.items.length - fits) this.onEnd();
  }

  #click(clicked) {
    const line = clicked.target.closest(".virtual-line");
    if (!line || clicked.target.closest("a")) return;
    this.current = Number(line.dataset.index);
    this.open(this.items[this.current]);
  }

  #key(pressed) {
    const page = Math.max(1, Math.floor(this.root.clientHeight / this.lineHeight) - 1);
    const last = this.items.length - 1;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -last, End: last };
    if (pressed.key === "Enter" && this.items[this.current]) this.open(this.items[this.current]);
    else if (pressed.key in steps) this.#move(Math.max(0, Math.min(last, this.current + steps[pressed.key])));
    else return;
    pressed.preventDefault();
  }

  #move(index) {
    this.current = index;
    const height = this.lineHeight;
    const { scrollTop, clientHeight } = this.root;
    if (index * height < scrollTop) this.root.scrollTop = index * height;
    else if ((index + 1) * height > scrollTop + clientHeight) this.root.scrollTop = (index + 1) * height - clientHeight;
    this.refresh();
  }
}

function mark(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}
