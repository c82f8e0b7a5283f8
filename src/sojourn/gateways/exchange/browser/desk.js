/**
 * The desk: one page on top of sojourn.js, to see a session work: log in, watch prices, trade, pull the plug.
 *
 * The token is typed in and stays in a variable: it is in no address, no cookie and no storage. The cursor is in
 * sessionStorage, so a reload asks for the token and goes on where the page was.
 */
import { SojournSession } from "./sojourn.js";

const EVENTS_SHOWN = 200;
const WORDS = {
  connecting: "connecting …",
  live: "live",
  over: "ended",
};
const find = (id) => document.getElementById(id);
const orderForm = find("order");
let session = null;

find("login").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const token = find("token").value.trim();
  find("token").value = "";
  session = new SojournSession({ token: () => token, storageKey: "sojourn.desk" });
  listen(session);
  find("login").hidden = true;
  try {
    await session.open();
    for (const id of ["market", "trade", "log"]) find(id).hidden = false;
    orderForm.elements.symbol.focus();
    await session.startSimulator();
  } catch (error) {
    say(error.message, true);
  }
});

orderForm.addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const { symbol, side, quantity, price } = orderForm.elements;
  const order = { symbol: symbol.value, side: side.value, quantity: quantity.valueAsNumber };
  if (price.value) order.price = price.value;
  try {
    const placed = await session.order(order);
    say(`Order ${placed.order}: ${placed.status}`);
  } catch (error) {
    say(error.message, true);
  }
});

find("stop").addEventListener("click", () => session.stopSimulator().catch((error) => say(error.message, true)));
find("end").addEventListener("click", () => session.end().catch((error) => say(error.message, true)));

function listen(to) {
  to.addEventListener("state", ({ detail }) => showState(detail));
  to.addEventListener("rows", ({ detail }) => showRows(detail));
  to.addEventListener("portfolio", () => showPortfolio());
  to.addEventListener("simulator", ({ detail }) => { find("simulator").textContent = detail.state; });
  to.addEventListener("snapshot", ({ detail }) => {
    if (detail.isLoss) note("lost", `begun anew at ${detail.offset}`, "what was missed is not kept any more");
    showFacts();
    showOrders();
  });
  to.addEventListener("event", ({ detail }) => {
    const { symbol = "", side = "", status = "", filled = "", quantity = "" } = detail.data;
    note("", `${detail.offset} ${detail.type}`, `${side} ${filled}/${quantity} ${symbol} ${status}`);
    showFacts();
    showOrders();
  });
  to.addEventListener("warn", ({ detail }) => say(`The session ends in ${Math.round(detail.in_s)} s: ${detail.reason}`, true));
  to.addEventListener("degraded", ({ detail }) => say(`${detail.what}: not reachable; nothing is lost`, true));
  to.addEventListener("restored", ({ detail }) => say(`${detail.what}: back`));
  to.addEventListener("end", ({ detail }) => {
    say(`${detail.name}${detail.reason ? `: ${detail.reason}` : ""}`, true);
    find("login").hidden = false;
  });
}

function showState({ state, why, delayMs }) {
  const line = find("state");
  line.dataset.state = state;
  line.textContent = WORDS[state] ?? `${why}; back in ${(delayMs / 1000).toFixed(1)} s`;
  find("session").textContent = session.id.slice(-12) || "–";
  showFacts();
}

function showFacts() {
  const { connections, recovered, lost } = session.stats;
  find("offset").textContent = session.resume ? `${session.resume.events} (epoch ${session.resume.epoch})` : "–";
  find("reconnects").textContent = Math.max(0, connections - 1);
  find("recovered").textContent = recovered;
  find("lost").textContent = lost;
}

function showRows({ rows, full }) {
  const body = find("rows");
  if (full) {
    body.replaceChildren();
    orderForm.elements.symbol.replaceChildren();
  }
  for (const row of rows) {
    const line = body.querySelector(`[data-symbol="${CSS.escape(row.s)}"]`) ?? newLine(body, row.s);
    const [, bid, ask, last, volume] = line.cells;
    const change = Number(row.last) - Number(last.textContent || row.last);
    bid.textContent = row.bid ?? "–";
    ask.textContent = row.ask ?? "–";
    last.textContent = row.last;
    last.className = change > 0 ? "up" : change < 0 ? "down" : last.className;
    volume.textContent = row.volume ?? "0";
  }
}

function newLine(body, symbol) {
  const after = [...body.rows].find((one) => one.dataset.symbol > symbol);
  const line = body.insertRow(after ? after.sectionRowIndex : -1);
  line.dataset.symbol = symbol;
  for (let index = 0; index < 6; index += 1) line.insertCell();
  line.cells[0].textContent = symbol;
  const options = orderForm.elements.symbol;
  options.add(new Option(symbol, symbol), options.options[line.sectionRowIndex] ?? null);
  showPortfolio();
  return line;
}

function showPortfolio() {
  const { cash = "–", value = "–", positions = [] } = session.portfolio ?? {};
  find("cash").textContent = `Cash ${cash} · worth ${value}`;
  for (const line of find("rows").rows) {
    const held = positions.find((one) => one.symbol === line.dataset.symbol);
    line.cells[5].textContent = held?.quantity ?? 0;
  }
}

function showOrders() {
  const newest = [...session.orders.values()].sort((one, other) => other.order - one.order).slice(0, 20);
  find("orders").replaceChildren(...newest.map(orderLine));
}

function orderLine(order) {
  const price = order.price ?? order.average_price ?? "market";
  const item = textLine("", `${order.side} ${order.filled}/${order.quantity} ${order.symbol}`, `${price} ${order.status}`);
  if (order.status === "new" || order.status === "partially_filled") {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Cancel";
    button.ariaLabel = `Cancel order ${order.order}`;
    button.addEventListener("click", () => session.cancel(order.order).catch((error) => say(error.message, true)));
    item.append(button);
  }
  return item;
}

function note(kind, head, words) {
  const list = find("events");
  list.prepend(textLine(kind, head, words));
  while (list.children.length > EVENTS_SHOWN) list.lastElementChild.remove();
}

function textLine(kind, head, words) {
  const item = document.createElement("li");
  const [strong, soft] = [document.createElement("span"), document.createElement("span")];
  item.className = kind;
  strong.textContent = head;
  soft.textContent = words;
  soft.className = "soft";
  item.append(strong, soft);
  return item;
}

function say(text, isBad = false) {
  const line = find("answer");
  line.textContent = text;
  line.className = isBad ? "bad" : "";
  if (find("trade").hidden) find("state").textContent = text;
}
