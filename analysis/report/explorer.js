// The report's interactive part: samples as points, colored by true class or by a run's predictions; one run's tables.
// What is counted was counted in Python (analysis/report/explorer.py); here values are looked up and shown.
"use strict";

requestAnimationFrame(() => setTimeout(() => { // after the first paint: the answers can be read before
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  if (!data.sets.length) return;
  const plot = byId("plot");
  const state = { ...data.open, cls: ALL, colour: "truth", place: "points" };
  let now = null; // the arrays of the chosen set and run
  let groups = []; // what is drawn: rows of one color
  let current = null; // the sample shown beside the plot
  let kept = false; // whether it stays when the pointer moves on
  let picked = null; // rows of the last lasso

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
    const [ids, labels, points, lonlat, slots, near, decisions, scores, shapes, tested] = await Promise.all([
      bytes(one.ids),
      array(one.labels, Uint8Array),
      array(one.points, Float32Array),
      array(one.lonlat, Float32Array),
      array(one.pictures?.slots, Int32Array),
      array(one.neighbours, Uint32Array),
      array(by?.decisions, Uint8Array),
      array(of?.scores, Uint8Array),
      array(of?.curves, Float32Array),
      array(of?.tested, Uint8Array),
    ]);
    const width = Math.ceil(one.classes.length / 8);
    const names = now?.set === one ? now.ids : new TextDecoder().decode(ids).split("\n");
    const coast = await array(data.coast, Float32Array);
    return { set: one, width, ids: names, labels, points, lonlat, slots, near, decisions, scores, curves: shapes, tested, coast };
  }
  const has = (row, k) => bit(now.labels, now.width, row, k);
  const predicted = (row, k) => bit(now.decisions, now.width, row, k);
  /** Whether the chosen run was tested on a sample; `tested` is null where it was on all of them. */
  const isTested = (row) => Boolean(now.decisions) && (!now.tested || now.tested[row] === 1);

  // -------------------------------------------------------------------------------------------- plot

  const places = () => now[state.place];

  function draw() {
    const xy = places(), map = state.place === "lonlat";
    byId("no-plot").hidden = Boolean(xy);
    plot.hidden = !xy;
    groups = makeGroups(set(), state, now.decisions ? { has, predicted, isTested } : { has });
    drawKeys();
    if (!xy) {
      byId("no-plot").textContent = set().note;
      return chart.clear();
    }
    let low = Infinity, high = -Infinity;
    for (let i = 1; i < xy.length; i += 2) [low, high] = [Math.min(low, xy[i]), Math.max(high, xy[i])];
    // degrees of longitude shrink towards the poles: equirectangular, true in the middle of the map
    const ratio = map ? 1 / Math.max(0.1, Math.cos(((low + high) / 2) * (Math.PI / 180))) : 1;
    chart.show({ key: `${state.set} ${state.place}`, xy, groups, ratio, axes: map, lines: map ? now.coast : null });
    mark();
  }

  const neighbours = (row) => {
    if (!now.near) return [];
    const count = now.near.length / set().count;
    return [...now.near.slice(row * count, (row + 1) * count)];
  };
  const mark = () => chart.mark(kept && places() ? [current, ...neighbours(current)] : []);

  function drawKeys() {
    const items = [...groups].reverse().map((group) => {
      const item = document.createElement("li"), swatch = document.createElement("span");
      swatch.className = `swatch ${group.symbol ?? "circle"}${outlined(group) ? " outlined" : ""}`;
      swatch.style.background = group.colour;
      const target = group.cls === undefined ? item : document.createElement("button");
      if (target !== item) {
        target.type = "button";
        target.title = state.cls === group.cls ? "Show all classes" : "Show this class against the rest";
        target.addEventListener("click", () => choose({ cls: state.cls === group.cls ? ALL : group.cls }));
        item.append(target);
      }
      target.append(swatch, `${group.name} (${group.rows.length.toLocaleString("en")})`);
      return item;
    });
    byId("keys").replaceChildren(...items);
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
    const parts = [thumbnail(row) ?? element("p", one.pictures ? `No thumbnail: ${one.pictures.count.toLocaleString("en")} of ${one.count.toLocaleString("en")} samples have one.` : "No thumbnails: see 'Not shown here' below.", "hint")];
    parts.push(element("h3", now.ids[row]));
    const classes = one.classes.map((name, k) => ({ name, k, has: has(row, k), predicted: isTested(row) && predicted(row, k), score: now.scores ? now.scores[row * one.classes.length + k] / 255 : null }));
    const true_ = classes.filter((cls) => cls.has);
    parts.push(element("span", one.multilabel ? "True classes" : "True class", "hint"), list(true_.map((cls) => named(cls.k))));
    if (kept) parts.push(...similar(row));
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

  /** The picture of a sample, or null. */
  function thumbnail(row) {
    const slot = now.slots ? now.slots[row] : -1;
    if (slot < 0) return null;
    const { sprite, columns } = set().pictures, picture = element("span", undefined, `picture ${sprite}`);
    picture.style.setProperty("--x", slot % columns);
    picture.style.setProperty("--y", Math.floor(slot / columns));
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", `Thumbnail of ${now.ids[row]}`);
    return picture;
  }

  /** A class's name with its color, as in the plot. */
  function named(k) {
    const item = element("li", set().classes[k]), swatch = element("span", undefined, `swatch ${symbolOf(set(), k)}`);
    swatch.style.background = set().colours[k];
    item.prepend(swatch);
    return item;
  }

  const classesOf = (row, holds) => set().classes.filter((_, k) => holds(row, k));

  /** The nearest neighbors of a sample, each with its picture, to go on from. */
  function similar(row) {
    const items = neighbours(row).map((other) => {
      const item = element("li"), go = element("button");
      go.type = "button";
      go.title = `${now.ids[other]}: ${classesOf(other, has).join("; ") || "no class"}`;
      go.append(thumbnail(other) ?? now.ids[other]);
      go.setAttribute("aria-label", go.title);
      go.addEventListener("click", () => keep(other, true));
      item.append(go);
      return item;
    });
    if (!items.length) return [];
    const all = list(items);
    all.className = "near";
    return [element("span", "Nearest neighbors by cosine similarity of the features, circled in the plot", "hint"), all];
  }

  const place = (lon, lat) => `${Math.abs(lat).toFixed(3)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(lon).toFixed(3)}° ${lon < 0 ? "W" : "E"}`;

  function list(items) {
    const made = element("ul");
    made.append(...(items.length ? items : ["none"]).map((item) => (typeof item === "string" ? element("li", item) : item)));
    return made;
  }

  /** Keep a sample: shown with its neighbors until another is chosen, circled in the plot, brought into view. */
  function keep(row, bring) {
    kept = row !== null;
    show(row);
    if (!places()) return;
    mark();
    if (kept && bring) chart.bring(row);
  }

  /** The nearest sample in a direction, among those that are colored. */
  function step(dx, dy) {
    const some = groups.some((group) => !group.dim && group.rows.length);
    const from = current === null ? [plot.clientWidth / 2, plot.clientHeight / 2] : chart.at(current);
    let best = null, least = Infinity;
    for (const group of groups) {
      if (group.dim && some) continue;
      for (const row of group.rows) {
        const [x, y] = chart.at(row).map((to, axis) => to - from[axis]);
        const along = x * dx + y * dy, across = Math.abs(x * dy) + Math.abs(y * dx);
        if (current !== null && (row === current || along < across || along <= 0)) continue; // within 45° of the direction
        const distance = x * x + y * y;
        if (distance < least) [best, least] = [row, distance];
      }
    }
    if (best !== null) keep(best, true);
  }

  // ---------------------------------------------------------------------------------------- selection

  /** Count the classes of the samples in a lasso; null forgets it. */
  function pick(rows) {
    picked = rows?.length ? rows : null;
    const panel = byId("picked"), one = set();
    panel.hidden = !picked;
    if (places()) chart.choose(picked);
    if (!picked) return;
    const counts = one.classes.map((_, k) => picked.reduce((sum, row) => sum + has(row, k), 0));
    const order = one.classes.map((_, k) => k).filter((k) => counts[k]).sort((a, b) => counts[b] - counts[a]);
    byId("picked-count").textContent = `${picked.length.toLocaleString("en")} samples selected`;
    byId("picked-classes").replaceChildren(...order.map((k) => {
      const item = named(k);
      item.append(` (${counts[k].toLocaleString("en")})`);
      return item;
    }));
  }

  /** The selected samples as rows of a CSV: id, true classes and, where a run tested them, predicted ones. */
  const pickedTable = () => [["id", "true", "predicted"], ...picked.map((row) => [
    now.ids[row], classesOf(row, has).join("; "), isTested(row) ? classesOf(row, predicted).join("; ") : "",
  ])];

  // ------------------------------------------------------------------------------------------- curves

  function drawCurves() {
    byId("curves").closest("section").hidden = !run();
    if (!run()) return;
    const one = set(), k = state.cls, thresholds = 101;
    const curve = (cls, number) => now.curves.slice((3 * cls + number) * thresholds, (3 * cls + number + 1) * thresholds);
    const mean = (number) => one.classes.map((_, cls) => curve(cls, number)).reduce((sum, values) => sum.map((value, i) => value + values[i] / one.classes.length), new Float32Array(thresholds));
    const marks = one.multilabel && k !== ALL ? run().rules.map((by) => [by.thresholds[k], by.words]) : [];
    byId("curves-title").textContent = `Precision, recall and F2 by threshold: ${k === ALL ? "mean over all classes" : one.classes[k]}, ${run().label}`;
    byId("curves-note").textContent = (k === ALL ? "All classes at the same threshold. Select a class to see its own curves. " : "")
      + (one.multilabel ? marks.map(([at, words]) => `${words}: ${at.toFixed(3)}`).join("; ") : "A class counts as predicted where its score reaches the threshold; the run itself predicts the argmax.")
      + " Computed on all test samples of the run.";
    lineChart(byId("curves"), ["precision", "recall", "f2"].map((name, number) => ({ name, values: k === ALL ? mean(number) : curve(k, number) })), marks.map(([at]) => at));
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
    const what = one.multilabel && state.cls === ALL && state.colour === "truth" ? " Multi-label samples are colored by their rarest class." : "";
    byId("no-map").textContent = one.lonlat ? "" : "Map is off: no sample locations are stored with these features.";
    byId("what").textContent = `${shown}${one.simulated ? ", simulated" : ""}.${what}`;
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
    if (state.set !== before.set || state.place !== before.place) pick(null);
    state.rule = Math.min(state.rule, Math.max(0, (run()?.rules.length ?? 1) - 1));
    if (!one[state.place]) state.place = one.lonlat && !one.points ? "lonlat" : "points";
    if (!rule()?.decisions) state.colour = "truth";
    const loaded = await load();
    if (mine !== turn) return; // a later choice was faster
    now = loaded;
    fillControls();
    showPanels();
    show(current);
    draw();
    drawCurves();
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
    for (const input of document.getElementsByName("drag")) input.addEventListener("change", () => chart.drag(input.value));
    byId("picked-save").addEventListener("click", () => saveCsv(`${set().title}-selected`, pickedTable()));
    byId("picked-clear").addEventListener("click", () => pick(null));
    plot.addEventListener("keydown", (event) => {
      const keys = {
        ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, 1), ArrowDown: () => step(0, -1),
        "+": () => chart.zoom(1.4), "=": () => chart.zoom(1.4), "-": () => chart.zoom(1 / 1.4), 0: chart.reset, Escape: () => { keep(null, false); pick(null); },
      };
      if (!keys[event.key] || !places() || event.ctrlKey || event.metaKey || event.altKey) return;
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
    addEventListener("resize", drawCurves);
  }

  const chart = scatter(plot, {
    hover: (row) => { if (!kept && row !== null && row !== current) show(row); },
    click: (row) => { if (row !== null) keep(row, false); },
    lasso: pick,
  });
  plot.chart = chart; // for tests: where a sample is drawn
  chart.drag("pan");
  listen();
  if (!set().points && set().lonlat) state.place = "lonlat";
  choose({});
}));
