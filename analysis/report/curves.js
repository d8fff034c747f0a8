// Curves over thresholds from 0 to 1, as SVG.
"use strict";

/**
 * Draw curves with a legend.
 *
 * `curves` have a name, which is their class in page.css, and values at even steps; `marks` are thresholds.
 */
function lineChart(place, curves, marks) {
  const WIDE = Math.max(300, place.clientWidth), TALL = 300, LEFT = 34, LOW = TALL - 40, TOP = 26;
  const x = (share) => LEFT + share * (WIDE - LEFT - 12), y = (share) => LOW - share * (LOW - TOP);
  const parts = [];
  const add = (tag, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    parts.push(made);
  };
  for (const share of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    add("path", { d: `M${x(0)} ${y(share)}H${x(1)}M${x(share)} ${y(0)}V${y(1)}`, class: "grid" });
    add("text", { x: x(0) - 6, y: y(share) + 4, "text-anchor": "end" }, share.toFixed(1));
    add("text", { x: x(share), y: LOW + 16, "text-anchor": "middle" }, share.toFixed(1));
  }
  add("text", { x: x(0.5), y: TALL - 5, "text-anchor": "middle" }, "Threshold");
  for (const at of marks) add("path", { d: `M${x(at)} ${y(0)}V${y(1)}`, class: "mark" });
  curves.forEach(({ name, values }, number) => {
    const points = [...values].map((value, i) => `${x(i / (values.length - 1)).toFixed(1)},${y(value).toFixed(1)}`);
    add("polyline", { points: points.join(" "), class: name });
    add("path", { d: `M${x(0) + 110 * number} 12h26`, class: name });
    add("text", { x: x(0) + 110 * number + 32, y: 16 }, name === "f2" ? "F2" : name[0].toUpperCase() + name.slice(1));
  });
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDE} ${TALL}`);
  svg.append(...parts);
  place.replaceChildren(svg);
}
