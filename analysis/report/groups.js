// The groups of samples that the explorer draws: rows of one color, named, with a symbol and a size.
"use strict";

const ALL = -1; // in place of a class's number
const SYMBOLS = ["circle", "diamond", "square", "cross"]; // of classes whose color has come before: there are sixteen
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Rows by a number each, as groups; `about` names and colors them, in the order to draw them in. */
function grouped(numbers, about) {
  const rows = about.map(() => []);
  for (let row = 0; row < numbers.length; row++) if (numbers[row] >= 0) rows[numbers[row]].push(row);
  return about.map((group, number) => ({ ...group, rows: Int32Array.from(rows[number]) }));
}

const UNTESTED = () => ({ name: "not in this run's test split", colour: style("--rest"), dim: true, optional: true });

/** What the plot shows of a set: its samples by true class, one class against the rest, or by what a run made of them.
 *  `of` looks up a sample: whether it `has` a class and, with a run, was `predicted` to have it and `isTested` at all. */
function makeGroups(one, state, of) {
  const count = one.count, k = state.cls, number = new Int32Array(count), { has, predicted, isTested } = of;
  const outcome = state.colour === "outcome" && predicted;
  const byRarity = (all) => sized(all, count);
  const outcomes = (all) => byRarity(all.filter((group) => !group.optional || group.rows.length));
  if (outcome && k !== ALL) {
    // 0 TN, 1 TP, 2 FN, 3 FP
    for (let row = 0; row < count; row++) number[row] = !isTested(row) ? 4 : has(row, k) ? (predicted(row, k) ? 1 : 2) : predicted(row, k) ? 3 : 0;
    return outcomes(grouped(number, [
      { name: "true negative (TN)", colour: style("--rest"), dim: true },
      { name: "true positive (TP)", colour: style("--has"), tag: "tp" },
      { name: "false negative (FN)", colour: style("--fn"), tag: "fn", symbol: "triangle" },
      { name: "false positive (FP)", colour: style("--fp"), tag: "fp", symbol: "diamond" },
      UNTESTED(),
    ]));
  }
  if (outcome) {
    for (let row = 0; row < count; row++) {
      let missing = 0, extra = 0;
      for (let cls = 0; cls < one.classes.length; cls++) {
        missing |= has(row, cls) & ~predicted(row, cls);
        extra |= predicted(row, cls) & ~has(row, cls);
      }
      number[row] = !isTested(row) ? (one.multilabel ? 4 : 2) : one.multilabel ? (missing ? 1 : 0) + (extra ? 2 : 0) : missing ? 1 : 0;
    }
    const right = { name: one.multilabel ? "all classes correct" : "correct", colour: style("--has") };
    if (!one.multilabel) return outcomes(grouped(number, [right, { name: "wrong", colour: style("--fn"), symbol: "triangle" }, UNTESTED()]));
    return outcomes(grouped(number, [
      right,
      { name: "false negatives only", colour: style("--fn"), symbol: "triangle" },
      { name: "false positives only", colour: style("--fp"), symbol: "diamond" },
      { name: "false negatives and false positives", colour: style("--soft"), symbol: "x" },
      UNTESTED(),
    ]));
  }
  if (k !== ALL) {
    for (let row = 0; row < count; row++) number[row] = has(row, k);
    return byRarity(grouped(number, [
      { name: "all other samples", colour: style("--rest"), dim: true },
      { name: one.classes[k], colour: one.colours[k], cls: k, symbol: symbolOf(one, k) },
    ]));
  }
  // a sample of several classes goes by its rarest, so that rare classes are seen
  const counts = one.classes.map((_, cls) => { let n = 0; for (let row = 0; row < count; row++) n += has(row, cls); return n; });
  const rarest = one.classes.map((_, cls) => cls).sort((a, b) => counts[a] - counts[b]);
  for (let row = 0; row < count; row++) number[row] = rarest.find((cls) => has(row, cls)) ?? one.classes.length;
  const about = one.classes.map((name, cls) => ({ name, colour: one.colours[cls], cls, symbol: symbolOf(one, cls) }));
  return byRarity(grouped(number, [...about, { name: "no class", colour: style("--rest"), dim: true }])).filter((group) => group.rows.length);
}

const symbolOf = (set, cls) => SYMBOLS[set.colours.slice(0, cls).filter((colour) => colour === set.colours[cls]).length % SYMBOLS.length];

/** Whether a group's color is one of the dark shades (analysis/figures.py), which need an edge on a dark page. */
const outlined = (group) => group.cls % 16 >= 8 && style("color-scheme") === "dark";

/** Many first, few on top of them and larger: three specks among thousands would not be seen. */
function sized(all, total) {
  const base = Math.min(9, Math.max(2.4, 330 / Math.sqrt(total)));
  for (const group of all) {
    group.size = Math.max(base, group.dim ? 0 : Math.min(9, 60 / Math.sqrt(Math.max(1, group.rows.length))));
    group.edge = outlined(group) ? style("--soft") : null;
  }
  return all.sort((a, b) => b.rows.length - a.rows.length);
}
