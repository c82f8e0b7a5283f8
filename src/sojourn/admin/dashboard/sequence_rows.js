/**
 * What a sequence diagram has on each line: messages, notes, gaps in time, and repetitions folded into one line.
 *
 * Plain functions from entries to rows; knows no page. An entry is what the API tells of one: `{at, kind, name, text,
 * size_bytes, source, target}`, and `number`, its place in the session.
 */
/** Silence from which on it is drawn. */
export const GAP_S = 1;

const LONGEST_CYCLE = 4;
const LEAST_TURNS = 3;

/**
 * Return the rows of a diagram.
 *
 * A run of the same one to four messages, three times or more, is one turn and a row that says how often it came again;
 * errors and states are never folded away. `opened` has the keys of the folds that are shown in full.
 */
export function rowsOf(entries, opened = new Set()) {
  const marks = entries.map(mark);
  const rows = [];
  let before = null;
  const put = (entry) => {
    const gap = before === null ? 0 : entry.at - before.at;
    if (gap >= GAP_S) rows.push({ type: "gap", key: `gap-${entry.number}`, seconds: gap });
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

/** Return who takes part, in the order in which they appear. */
export function partiesOf(entries) {
  const arrows = entries.filter((entry) => entry.source !== entry.target);
  const first = arrows[0];
  // Who began stands at the left; where we did, still whoever is at the other end.
  const found = new Set(first?.kind === "out" ? [first.target, first.source] : []);
  for (const { source, target } of [...arrows, ...entries]) {
    if (source) found.add(source);
    if (target) found.add(target);
  }
  return [...found];
}

/** What two messages have in common to count as the same one: all but their numbers. */
function mark(entry) {
  if (entry.kind === "error" || entry.source === entry.target) return null;
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
