/**
 * What a sequence diagram has on each line: messages, notes, gaps in time, and repetitions folded into one line.
 *
 * Plain functions from entries to rows; knows no page. An entry is what the API tells of one: `{at, kind, name, text,
 * size_bytes, source, target, is_leg}`, with `number`, its place in the session, `mark` as `markOf` makes it, and
 * `isAfterLoss` where some before it were not kept.
 */
import { count, lasting } from "./kit.js";

/** Silence from which on it is drawn. */
export const GAP_S = 1;

const LONGEST_CYCLE = 8;
const LEAST_TURNS = 3;

/**
 * Return the rows of a diagram, each with a key that it keeps.
 *
 * A run of the same one to eight messages, three times or more, is one turn and a row that says how often it came again;
 * errors and states are never folded away. `opened` has the keys of the folds that are shown in full.
 */
export function rowsOf(entries, opened = new Set()) {
  const marks = entries.map((entry) => entry.mark);
  const rows = [];
  const earlier = (entries[0]?.number ?? 1) - 1;
  if (earlier) rows.push({ type: "gap", key: "earlier", words: `${count(earlier)} earlier ${earlier === 1 ? "entry" : "entries"}` });
  let before = null;
  const put = (entry) => {
    const gap = before === null ? 0 : entry.at - before.at;
    if (entry.isAfterLoss) rows.push({ type: "gap", key: `loss-${entry.number}`, words: "more than is kept has happened here" });
    else if (gap >= GAP_S) rows.push({ type: "gap", key: `gap-${entry.number}`, words: lasting(gap) });
    rows.push({ type: entry.source === entry.target ? "note" : "arrow", key: `entry-${entry.number}`, entry });
    before = entry;
  };
  let index = 0;
  while (index < entries.length) {
    const [length, turns] = cycle(marks, index);
    if (!turns) {
      put(entries[index]);
      index += 1;
      continue;
    }
    const end = index + length * turns;
    const key = `fold-${entries[index].number}`;
    const isOpen = opened.has(key);
    for (let at = index; at < index + length; at += 1) put(entries[at]);
    const hidden = entries.slice(index + length, end);
    const lastsS = hidden.at(-1).at - entries[index].at;
    rows.push({ type: "fold", key, isOpen, turns: turns - 1, count: hidden.length, everyS: lastsS / (turns - 1), hidden });
    if (isOpen) hidden.forEach(put);
    before = hidden.at(-1);
    index = end;
  }
  return rows;
}

/** Return who takes part, from left to right: the peers as they came, the gateway, and those behind it as met. */
export function partiesOf(entries) {
  const [peers, ours, behind] = [new Set(), new Set(), new Set()];
  for (const entry of entries) {
    const here = hereOf(entry);
    const there = here === entry.source ? entry.target : entry.source;
    ours.add(here);
    if (there !== here) (entry.is_leg ? behind : peers).add(there);
  }
  return [...new Set([...peers, ...ours, ...behind])];
}

/** Return which end of an entry is the gateway. */
export function hereOf(entry) {
  return entry.kind === "out" ? entry.source : entry.target;
}

/** What two messages have in common to count as the same one: all but their numbers. Null for what is never folded. */
export function markOf(entry) {
  if (entry.kind === "error" || entry.source === entry.target || entry.isAfterLoss) return null;
  return [entry.kind, entry.source, entry.target, entry.name, entry.text.replace(/[0-9a-f]*\d[0-9a-f.]*/giu, "#")].join("\u0000");
}

/** Return the length of the cycle that begins here and how often it comes; 0 times for none. */
function cycle(marks, start) {
  let best = [0, 0];
  for (let length = 1; length <= LONGEST_CYCLE; length += 1) {
    if (marks[start + length - 1] === null || start + length > marks.length) break;
    let end = start + length;
    while (end < marks.length && marks[end] !== null && marks[end] === marks[end - length]) end += 1;
    const turns = Math.floor((end - start) / length);
    if (turns >= LEAST_TURNS && turns * length > best[0] * best[1]) best = [length, turns];
  }
  return best;
}
