// The report's interactive part: samples as points, coloured by true class or by a run's predictions; one run's tables.
// Plotly draws. What is counted was counted in Python (analysis/report/explorer.py); here values are looked up and shown.
"use strict";

(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const plot = byId("plot"), curves = byId("curves");
  const ALL = -1;
  const SYMBOLS = ["circle", "diamond", "square", "cross"]; // of classes whose colour has come before: there are sixteen
  const FEW = 4000; // points drawn without WebGL: each is an element of its own then
  const state = { set: 0, run: 0, rule: 0, cls: ALL, colour: "truth", place: "points" };
  let now = null; // the arrays of the chosen set and run
  let groups = []; // what is drawn: rows of one colour
  let current = null; // the sample shown beside the plot
  let kept = false; // whether it stays when the pointer moves on

  const gl = (() => {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl") || canvas.getContext("experimental-webgl"));
  })();

  // ------------------------------------------------------------------------------------------ values

  const unpacked = new Map();

  /** Bytes of an array of the page; unpacked once. */
  function bytes(name) {
    if (!unpacked.has(name)) {
      const packed = Uint8Array.from(atob(byId(name).textContent), (char) => char.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      unpacked.set(name, new Response(stream).arrayBuffer());
    }
    return unpacked.get(name);
  }
  const array = async (name, Type) => (name ? new Type(await bytes(name)) : null);

  /** Rows of bits, as numpy's packbits makes them: whether sample `row` has class `k`. */
  const bit = (bits, width, row, k) => (bits[row * width + (k >> 3)] >> (7 - (k & 7))) & 1;

  const set = () => data.sets[state.set];
  const run = () => set().runs[state.run];
  const rule = () => run()?.rules[state.rule];

  async function load() {
    const one = set(), of = run(), by = rule();
    const [ids, labels, points, lonlat, slots, decisions, scores, shapes, tested] = await Promise.all([
      bytes(one.ids),
      array(one.labels, Uint8Array),
      array(one.points, Float32Array),
      array(one.lonlat, Float32Array),
      array(one.pictures?.slots, Int32Array),
      array(by?.decisions, Uint8Array),
      array(of?.scores, Uint8Array),
      array(of?.curves, Float32Array),
      array(of?.tested, Uint8Array),
    ]);
    const width = Math.ceil(one.classes.length / 8);
    const names = now?.set === one ? now.ids : new TextDecoder().decode(ids).split("\n");
    const coast = await array(data.coast, Float32Array);
    return { set: one, width, ids: names, labels, points, lonlat, slots, decisions, scores, curves: shapes, tested, coast };
  }
  const has = (row, k) => bit(now.labels, now.width, row, k);
  const predicted = (row, k) => bit(now.decisions, now.width, row, k);
  /** Whether the chosen run was tested on a sample; `tested` is null where it was on all of them. */
  const isTested = (row) => Boolean(now.decisions) && (!now.tested || now.tested[row] === 1);

  // ------------------------------------------------------------------------------------------ groups

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  /** Rows by a number each, as groups; `about` names and colours them, in the order to draw them in. */
  function grouped(numbers, about) {
    const rows = about.map(() => []);
    for (let row = 0; row < numbers.length; row++) if (numbers[row] >= 0) rows[numbers[row]].push(row);
    return about.map((group, number) => ({ ...group, rows: Int32Array.from(rows[number]) }));
  }

  const UNTESTED = () => ({ name: "not in this run's test split", colour: style("--rest"), dim: true, optional: true });
  const outcomes = (all) => byRarity(all.filter((group) => !group.optional || group.rows.length));

  function makeGroups() {
    const one = set(), count = one.count, k = state.cls, number = new Int32Array(count);
    const outcome = state.colour === "outcome" && now.decisions;
    if (outcome && k !== ALL) {
      // 0 TN, 1 TP, 2 FN, 3 FP
      for (let row = 0; row < count; row++) number[row] = !isTested(row) ? 4 : has(row, k) ? (predicted(row, k) ? 1 : 2) : predicted(row, k) ? 3 : 0;
      return outcomes(grouped(number, [
        { name: "true negative (TN)", colour: style("--rest"), dim: true },
        { name: "true positive (TP)", colour: style("--has"), tag: "tp" },
        { name: "false negative (FN)", colour: style("--fn"), tag: "fn", symbol: "triangle-up" },
        { name: "false positive (FP)", colour: style("--fp"), tag: "fp", symbol: "diamond" },
        UNTESTED(),
      ]));
    }
    if (outcome) {
      for (let row = 0; row < count; row++) {
        let missing = 0, extra = 0;
        for (let byte = row * now.width; byte < (row + 1) * now.width; byte++) {
          missing |= now.labels[byte] & ~now.decisions[byte];
          extra |= now.decisions[byte] & ~now.labels[byte];
        }
        number[row] = !isTested(row) ? (one.multilabel ? 4 : 2) : one.multilabel ? (missing ? 1 : 0) + (extra ? 2 : 0) : missing ? 1 : 0;
      }
      const right = { name: one.multilabel ? "all classes correct" : "correct", colour: style("--has") };
      if (!one.multilabel) return outcomes(grouped(number, [right, { name: "wrong", colour: style("--fn"), symbol: "triangle-up" }, UNTESTED()]));
      return outcomes(grouped(number, [
        right,
        { name: "false negatives only", colour: style("--fn"), symbol: "triangle-up" },
        { name: "false positives only", colour: style("--fp"), symbol: "diamond" },
        { name: "false negatives and false positives", colour: style("--soft"), symbol: "x" },
        UNTESTED(),
      ]));
    }
    if (k !== ALL) {
      for (let row = 0; row < count; row++) number[row] = has(row, k);
      return byRarity(grouped(number, [
        { name: "all other samples", colour: style("--rest"), dim: true },
        { name: one.classes[k], colour: style("--has") },
      ]));
    }
    // a sample of several classes goes by its rarest, so that rare classes are seen
    const counts = one.classes.map((_, cls) => { let n = 0; for (let row = 0; row < count; row++) n += has(row, cls); return n; });
    const rarest = one.classes.map((_, cls) => cls).sort((a, b) => counts[a] - counts[b]);
    for (let row = 0; row < count; row++) number[row] = rarest.find((cls) => has(row, cls)) ?? one.classes.length;
    const about = one.classes.map((name, cls) => ({ name, colour: one.colours[cls], cls, symbol: SYMBOLS[one.colours.slice(0, cls).filter((colour) => colour === one.colours[cls]).length % SYMBOLS.length] }));
    return byRarity(grouped(number, [...about, { name: "no class", colour: style("--rest"), dim: true }])).filter((group) => group.rows.length);
  }

  /** Whether a group's colour is one of the dark shades (analysis/figures.py), which need an edge on a dark page. */
  const outlined = (group) => group.cls % 16 >= 8 && style("color-scheme") === "dark";

  /** Many first, few on top of them and larger: three specks among thousands would not be seen. */
  function byRarity(all) {
    const total = set().count, base = Math.min(9, Math.max(2.4, 330 / Math.sqrt(total)));
    for (const group of all) group.size = Math.max(base, group.dim ? 0 : Math.min(9, 60 / Math.sqrt(Math.max(1, group.rows.length))));
    return all.sort((a, b) => b.rows.length - a.rows.length);
  }

  // -------------------------------------------------------------------------------------------- plot

  const places = () => now[state.place];

  function trace(group) {
    const xy = places(), step = gl ? 1 : Math.ceil(set().count / FEW);
    const rows = step === 1 ? group.rows : group.rows.filter((_, i) => i % step === 0);
    const x = new Float32Array(rows.length), y = new Float32Array(rows.length);
    rows.forEach((row, i) => { x[i] = xy[2 * row]; y[i] = xy[2 * row + 1]; });
    group.drawn = rows;
    return {
      type: gl ? "scattergl" : "scatter", mode: "markers", x, y, name: group.name, hoverinfo: "none",
      marker: { size: group.size, color: group.colour, symbol: group.symbol ?? "circle", opacity: group.dim ? 0.7 : 0.85, line: { width: outlined(group) ? 1 : 0, color: style("--soft") } },
    };
  }

  function coastline() {
    const xy = now.coast, x = new Array(xy.length / 2), y = new Array(xy.length / 2);
    for (let i = 0; i < x.length; i++) { // null lifts the pen
      x[i] = Number.isNaN(xy[2 * i]) ? null : xy[2 * i];
      y[i] = Number.isNaN(xy[2 * i]) ? null : xy[2 * i + 1];
    }
    return { type: gl ? "scattergl" : "scatter", mode: "lines", x, y, hoverinfo: "skip", line: { color: style("--soft"), width: 1 } };
  }

  /** The whole of the points with a margin, in the shape of the plot. */
  function whole() {
    const xy = places();
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    for (let i = 0; i < xy.length; i++) {
      if (xy[i] < low[i % 2]) low[i % 2] = xy[i];
      if (xy[i] > high[i % 2]) high[i % 2] = xy[i];
    }
    const least = state.place === "lonlat" ? 1 : 1e-6; // degrees: one place alone is no map
    return low.map((from, axis) => {
      const margin = Math.max(0.04 * (high[axis] - from), least / 2);
      return [from - margin, high[axis] + margin];
    });
  }

  function draw() {
    const xy = places();
    byId("no-plot").hidden = Boolean(xy);
    plot.hidden = !xy;
    groups = makeGroups();
    drawKeys();
    if (!xy) {
      byId("no-plot").textContent = set().note;
      return;
    }
    const map = state.place === "lonlat", [x, y] = whole();
    const axis = { showgrid: map, gridcolor: style("--line"), zeroline: false, showticklabels: map, ticksuffix: "°", tickfont: { color: style("--soft"), size: 11 } };
    const middle = (y[0] + y[1]) / 2;
    const layout = {
      margin: map ? { l: 48, r: 6, t: 6, b: 28 } : { l: 6, r: 6, t: 6, b: 6 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest", dragmode: "pan",
      uirevision: `${state.set} ${state.place}`, // another class or run must not undo the reader's zoom
      xaxis: { ...axis, range: x },
      // degrees of longitude shrink towards the poles: equirectangular, true in the middle of the map
      yaxis: { ...axis, range: y, scaleanchor: "x", scaleratio: map ? 1 / Math.max(0.1, Math.cos((middle * Math.PI) / 180)) : 1 },
      shapes: ring(),
      modebar: { color: style("--soft"), activecolor: style("--accent"), bgcolor: "rgba(0,0,0,0)" },
    };
    const traces = groups.map(trace);
    if (map && now.coast) traces.push(coastline());
    return Plotly.react(plot, traces, layout, {
      displaylogo: false, responsive: true, scrollZoom: true, doubleClick: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "resetScale2d", "toImage"],
    });
  }

  /** A ring around the sample that is kept, of one size at every zoom. */
  function ring() {
    if (current === null || !kept || !places()) return [];
    const around = { xsizemode: "pixel", ysizemode: "pixel", xanchor: places()[2 * current], yanchor: places()[2 * current + 1] };
    return [{ type: "circle", ...around, x0: -9, x1: 9, y0: -9, y1: 9, line: { color: style("--ink"), width: 2.5 } }];
  }

  function drawKeys() {
    const items = [...groups].reverse().map((group) => {
      const item = document.createElement("li"), swatch = document.createElement("span");
      swatch.className = `swatch ${group.symbol ?? "circle"}${outlined(group) ? " outlined" : ""}`;
      swatch.style.background = group.colour;
      const target = group.cls === undefined ? item : document.createElement("button");
      if (target !== item) {
        target.type = "button";
        target.title = "Show this class against the rest";
        target.addEventListener("click", () => choose({ cls: group.cls }));
        item.append(target);
      }
      target.append(swatch, `${group.name} (${group.rows.length.toLocaleString("en")})`);
      return item;
    });
    byId("keys").replaceChildren(...items);
  }

  function zoom(factor, centre) {
    const update = {};
    for (const [name, at] of [["xaxis", 0], ["yaxis", 1]]) {
      const [from, to] = plot._fullLayout[name].range, half = ((to - from) / 2) * factor;
      const middle = centre ? centre[at] : (from + to) / 2;
      update[`${name}.range`] = [middle - half, middle + half];
    }
    return Plotly.relayout(plot, update);
  }

  function showAll() {
    const [x, y] = whole();
    return Plotly.relayout(plot, { "xaxis.range": x, "yaxis.range": y });
  }

  // ------------------------------------------------------------------------------------------ sample

  const element = (tag, text, className) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  function show(row) {
    current = row;
    const one = set(), panel = byId("sample");
    if (row === null) {
      panel.replaceChildren(element("p", "Hover over a sample, or move between samples with the arrow keys, to see it here.", "hint"));
      return;
    }
    const parts = [];
    const slot = now.slots ? now.slots[row] : -1;
    if (slot >= 0) {
      const picture = element("span", undefined, `picture ${one.pictures.sprite}`);
      picture.style.setProperty("--x", slot % one.pictures.columns);
      picture.style.setProperty("--y", Math.floor(slot / one.pictures.columns));
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", "Thumbnail of the sample");
      parts.push(picture);
    } else {
      parts.push(element("p", one.pictures ? `No thumbnail: ${one.pictures.count.toLocaleString("en")} of ${one.count.toLocaleString("en")} samples have one.` : "No thumbnails: see 'Not shown here' below.", "hint"));
    }
    parts.push(element("h4", now.ids[row]));
    const classes = one.classes.map((name, k) => ({ name, k, has: has(row, k), predicted: isTested(row) && predicted(row, k), score: now.scores ? now.scores[row * one.classes.length + k] / 255 : null }));
    const true_ = classes.filter((cls) => cls.has);
    parts.push(element("span", one.multilabel ? "True classes" : "True class", "hint"), list(true_.map((cls) => cls.name)));
    if (isTested(row)) {
      const words = (cls) => (cls.has ? (cls.predicted ? ["tp", "TP"] : ["fn", "FN"]) : ["fp", "FP"]);
      parts.push(element("span", `${run().label}, ${rule().words}`, "hint"));
      const items = classes.filter((cls) => cls.has || cls.predicted).map((cls) => {
        const [tag, word] = words(cls), item = element("li", ` ${cls.name}`);
        item.prepend(element("span", word, `tag ${tag}`));
        return item;
      });
      parts.push(list(items));
    } else if (run()) {
      parts.push(element("p", `${run().label} was not tested on this sample.`, "hint"));
    }
    if (now.scores && isTested(row)) {
      parts.push(element("span", "Scores", "hint"));
      for (const cls of classes.sort((a, b) => b.score - a.score || a.k - b.k).slice(0, 6)) {
        const line = element("div", cls.name, "score"), bar = element("i");
        bar.style.setProperty("--share", cls.score);
        line.append(element("b", `${(100 * cls.score).toFixed(0)} %`), bar);
        parts.push(line);
      }
    }
    if (now.lonlat) parts.push(element("p", place(now.lonlat[2 * row], now.lonlat[2 * row + 1]), "hint"));
    panel.replaceChildren(...parts);
  }

  const place = (lon, lat) => `${Math.abs(lat).toFixed(3)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(lon).toFixed(3)}° ${lon < 0 ? "W" : "E"}`;

  function list(items) {
    const made = element("ul");
    made.append(...(items.length ? items : ["none"]).map((item) => (typeof item === "string" ? element("li", item) : item)));
    return made;
  }

  /** Keep a sample: shown until another is chosen, ringed in the plot, brought into view. */
  function keep(row, bring) {
    kept = row !== null;
    show(row);
    if (!places()) return;
    const x = row === null ? 0 : places()[2 * row], y = row === null ? 0 : places()[2 * row + 1];
    const outside = row !== null && [["xaxis", x], ["yaxis", y]].some(([axis, at]) => {
      const [from, to] = plot._fullLayout[axis].range;
      return at < from || at > to;
    });
    return Plotly.relayout(plot, { shapes: ring() }).then(() => (bring && outside ? zoom(1, [x, y]) : null));
  }

  /** The nearest sample in a direction, among those that are coloured. */
  function step(dx, dy) {
    const xy = places(), some = groups.some((group) => !group.dim && group.rows.length);
    const { xaxis, yaxis } = plot._fullLayout;
    const width = xaxis.range[1] - xaxis.range[0], height = yaxis.range[1] - yaxis.range[0];
    const aspect = plot.clientHeight / plot.clientWidth;
    const from = current === null ? [(xaxis.range[0] + xaxis.range[1]) / 2, (yaxis.range[0] + yaxis.range[1]) / 2] : [xy[2 * current], xy[2 * current + 1]];
    let best = null, least = Infinity;
    for (const group of groups) {
      if (group.dim && some) continue;
      for (const row of group.rows) {
        const x = (xy[2 * row] - from[0]) / width, y = ((xy[2 * row + 1] - from[1]) / height) * aspect;
        const along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
        if (current !== null && (row === current || along < across || along <= 0)) continue; // within 45° of the direction
        const distance = x * x + y * y;
        if (distance < least) [best, least] = [row, distance];
      }
    }
    if (best !== null) keep(best, true);
  }

  // ------------------------------------------------------------------------------------------- curves

  function drawCurves() {
    const card = curves.closest("section");
    card.hidden = !run();
    if (!run()) return;
    const one = set(), k = state.cls, thresholds = 101, size = 3 * thresholds;
    const x = Float32Array.from({ length: thresholds }, (_, i) => i / 100);
    const line = (number) => {
      if (k !== ALL) return now.curves.slice(k * size + number * thresholds, k * size + (number + 1) * thresholds);
      const mean = new Float32Array(thresholds);
      one.classes.forEach((_, cls) => { for (let i = 0; i < thresholds; i++) mean[i] += now.curves[cls * size + number * thresholds + i] / one.classes.length; });
      return mean;
    };
    const marks = [];
    if (one.multilabel && k !== ALL) for (const by of run().rules) marks.push([by.thresholds[k], by.words]);
    const text = { color: style("--ink"), size: 12 };
    const traces = [["Precision", "--fp", "dot"], ["Recall", "--fn", "dash"], ["F2", "--has", "solid"]].map(([name, colour, dash], number) => (
      { x, y: line(number), name, mode: "lines", line: { color: style(colour), dash, width: 2.2 }, hovertemplate: `${name} %{y:.3f} at %{x:.2f}<extra></extra>` }
    ));
    byId("curves-title").textContent = `Precision, recall and F2 by threshold: ${k === ALL ? "mean over all classes" : one.classes[k]}, ${run().label}`;
    byId("curves-note").textContent = (k === ALL ? "All classes at the same threshold. Select a class to see its own curves. " : "")
      + (one.multilabel ? marks.map(([at, words]) => `${words}: ${at.toFixed(3)}`).join("; ") : "A class counts as predicted where its score reaches the threshold; the run itself predicts the argmax.")
      + ` Computed on all test samples of the run.`;
    return Plotly.react(curves, traces, {
      margin: { l: 44, r: 12, t: 8, b: 42 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: text,
      xaxis: { title: { text: "Threshold" }, range: [0, 1], gridcolor: style("--line"), zeroline: false, fixedrange: true },
      yaxis: { range: [0, 1.02], gridcolor: style("--line"), zeroline: false, fixedrange: true },
      legend: { orientation: "h", x: 0, y: 1.12 }, hovermode: "closest",
      shapes: marks.map(([at]) => ({ type: "line", x0: at, x1: at, y0: 0, y1: 1, line: { color: style("--soft"), width: 1.2, dash: "dot" } })),
    }, { displayModeBar: false, responsive: true });
  }

  // ------------------------------------------------------------------------------------------- choices

  function options(select, words, chosen) {
    select.replaceChildren(...words.map((word, value) => new Option(word, value, false, value === chosen)));
    select.value = chosen;
    select.disabled = words.length < 2;
  }

  function fillControls() {
    const one = set();
    options(byId("set"), data.sets.map((each) => each.title + (each.simulated ? " (simulated)" : "")), state.set);
    options(byId("run"), one.runs.length ? one.runs.map((each) => each.label) : ["no run yet"], state.run);
    options(byId("rule"), run() ? run().rules.map((each) => each.words) : ["–"], state.rule);
    const classes = byId("class");
    classes.replaceChildren(new Option("All classes", ALL), ...one.classes.map((name, k) => new Option(name, k)));
    classes.value = state.cls;
    const radio = (name, value) => document.querySelector(`input[name="${name}"][value="${value}"]`);
    radio("colour", "outcome").disabled = !rule()?.decisions;
    radio("place", "lonlat").disabled = !one.lonlat;
    radio("place", "points").disabled = !one.points && Boolean(one.lonlat);
    radio("colour", state.colour).checked = true;
    radio("place", state.place).checked = true;
    const shown = one.count === one.total ? `${one.total.toLocaleString("en")} test samples` : `${one.count.toLocaleString("en")} of ${one.total.toLocaleString("en")} test samples`;
    const what = one.multilabel && state.cls === ALL && state.colour === "truth" ? " Multi-label samples are coloured by their rarest class." : "";
    const less = gl || one.count <= FEW ? "" : ` This browser has no WebGL: one in ${Math.ceil(one.count / FEW)} is drawn.`;
    byId("what").textContent = `${shown}${one.simulated ? ", simulated" : ""}.${what}${less}`;
  }

  function showPanels() {
    for (const panel of document.querySelectorAll(".panel")) panel.hidden = panel.id !== `panel-${rule()?.panel}`;
    for (const row of document.querySelectorAll(".panel tbody tr")) row.classList.toggle("chosen", Number(row.dataset.class) === state.cls);
  }

  let turn = 0;

  /** Change what is chosen, make it possible, and show it. */
  async function choose(change) {
    const before = { ...state }, mine = ++turn;
    Object.assign(state, change);
    const one = set();
    if (state.set !== before.set) {
      const same = data.sets[before.set].classes.join("\n") === one.classes.join("\n");
      state.cls = same ? state.cls : ALL;
      state.run = Math.max(0, one.runs.findIndex((each) => each.label === data.sets[before.set].runs[before.run]?.label));
      current = null;
      kept = false;
    }
    state.rule = Math.min(state.rule, Math.max(0, (run()?.rules.length ?? 1) - 1));
    if (!one[state.place]) state.place = one.lonlat && !one.points ? "lonlat" : "points";
    if (!rule()?.decisions) state.colour = "truth";
    const loaded = await load();
    if (mine !== turn) return; // a later choice was faster
    now = loaded;
    fillControls();
    showPanels();
    show(current);
    await Promise.all([draw(), drawCurves()]);
    document.body.dataset.shown = turn; // for tests: what was chosen is drawn
  }

  function listen() {
    for (const name of ["set", "run", "rule"]) byId(name).addEventListener("change", (event) => choose({ [name]: Number(event.target.value) }));
    byId("class").addEventListener("change", (event) => choose({ cls: Number(event.target.value) }));
    for (const name of ["colour", "place"]) {
      for (const input of document.getElementsByName(name)) input.addEventListener("change", () => choose({ [name]: input.value }));
    }
    byId("find").addEventListener("change", (event) => {
      const wanted = event.target.value.trim().toLowerCase();
      if (!wanted) return;
      let row = now.ids.findIndex((id) => id.toLowerCase() === wanted);
      if (row < 0) row = now.ids.findIndex((id) => id.toLowerCase().includes(wanted));
      event.target.setCustomValidity(row < 0 ? "No sample with this id is shown" : "");
      event.target.reportValidity();
      if (row >= 0) keep(row, true);
    });
    const at = (event) => groups[event.points[0].curveNumber]?.drawn[event.points[0].pointNumber];
    plot.on("plotly_hover", (event) => { if (!kept && at(event) !== undefined) show(at(event)); });
    plot.on("plotly_click", (event) => { plot.focus({ preventScroll: true }); if (at(event) !== undefined) keep(at(event), false); });
    plot.on("plotly_doubleclick", showAll);
    // The wheel scrolls the page until the reader has clicked into the plot: a page that gets stuck is worse.
    plot.addEventListener("wheel", (event) => { if (!plot.contains(document.activeElement)) event.stopPropagation(); }, { capture: true });
    plot.addEventListener("mousedown", () => plot.focus({ preventScroll: true }), { capture: true });
    plot.addEventListener("keydown", (event) => {
      const keys = {
        ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, 1), ArrowDown: () => step(0, -1),
        "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1 / 0.7), 0: showAll, Escape: () => keep(null, false),
      };
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    for (const panel of document.querySelectorAll(".panel")) {
      for (const table of panel.querySelectorAll("table")) {
        [...table.tBodies[0].rows].forEach((row, k) => { row.dataset.class = k; }); // before anyone sorts them
      }
      panel.addEventListener("click", (event) => {
        const row = event.target.closest("tbody tr"), link = event.target.closest("[data-sample]");
        if (row) choose({ cls: Number(row.dataset.class) === state.cls ? ALL : Number(row.dataset.class) });
        if (!link) return;
        event.preventDefault();
        const found = now.ids.indexOf(link.dataset.sample);
        if (found < 0) return;
        byId("explore").scrollIntoView();
        plot.focus({ preventScroll: true });
        keep(found, true);
      });
      for (const link of panel.querySelectorAll("[data-sample]")) link.href = "#explore";
    }
    document.addEventListener("theme", () => choose({}));
  }

  if (!data.sets.length) return;
  // a first, empty plot: its events can be listened to before anything is drawn
  Plotly.newPlot(plot, [], {}, { displaylogo: false, responsive: true, scrollZoom: true, doubleClick: false }).then(() => {
    listen();
    if (!set().points && set().lonlat) state.place = "lonlat";
    return choose({});
  });
})();
