// A scatter plot on a canvas: pan, zoom, hover, click and lasso. It knows groups of points, not what they mean.
"use strict";

/** Shapes of markers around (0, 0) with half-width 1. */
const MARKERS = {
  circle: (path) => path.arc(0, 0, 1, 0, 7),
  square: (path) => path.rect(-0.85, -0.85, 1.7, 1.7),
  diamond: (path) => polygon(path, [[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]]),
  triangle: (path) => polygon(path, [[0, -1.2], [1.15, 0.9], [-1.15, 0.9]]),
  cross: (path) => { path.rect(-1.2, -0.4, 2.4, 0.8); path.rect(-0.4, -1.2, 0.8, 2.4); },
};

function polygon(path, points) {
  points.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
  path.closePath();
}

/** Whether the ray from (x, y) to the right crosses the closed polygon an odd number of times. */
function inside(points, x, y) {
  let within = false;
  for (let i = 0, j = points.length - 1; i < points.length; j = i++) {
    const [ax, ay] = points[i], [bx, by] = points[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
  }
  return within;
}

/**
 * Turn a canvas into a scatter plot.
 *
 * `on` has hover(row or null), click(row or null) and lasso(rows). A scene is { key, xy, groups, ratio, axes, lines }:
 * xy holds x and y of every row; a group has rows, colour, size and perhaps symbol, dim and edge; `ratio` is how many
 * times longer a unit of y is drawn than one of x; `lines` are more x and y, NaN where the pen is lifted. The view
 * stays while `key` does.
 */
function scatter(canvas, on) {
  const context = canvas.getContext("2d");
  const REACH = 14; // pixels between pointer and point
  let scene = null, view = null, marks = [], chosen = null, trail = null, mode = "pan", waiting = false;

  const width = () => canvas.clientWidth, height = () => canvas.clientHeight;
  const screen = (x, y) => [width() / 2 + (x - view.x) * view.scale, height() / 2 - (y - view.y) * view.scale * scene.ratio];
  const at = (row) => screen(scene.xy[2 * row], scene.xy[2 * row + 1]);
  const placed = (px, py) => [view.x + (px - width() / 2) / view.scale, view.y - (py - height() / 2) / (view.scale * scene.ratio)];

  /** Show all points, with a margin. */
  function reset() {
    const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
    for (let i = 0; i < scene.xy.length; i++) {
      if (scene.xy[i] < low[i % 2]) low[i % 2] = scene.xy[i];
      if (scene.xy[i] > high[i % 2]) high[i % 2] = scene.xy[i];
    }
    const [wide, tall] = [0, 1].map((axis) => Math.max(high[axis] - low[axis], scene.axes ? 1 : 1e-6)); // one place alone is no map
    const scale = 0.92 * Math.min(width() / wide, height() / (tall * scene.ratio));
    view = { x: (low[0] + high[0]) / 2, y: (low[1] + high[1]) / 2, scale };
    draw();
  }

  function zoom(factor, px = width() / 2, py = height() / 2) {
    const [x, y] = placed(px, py);
    view.scale *= factor;
    const [nx, ny] = placed(px, py);
    view.x += x - nx;
    view.y += y - ny;
    draw();
  }

  // ------------------------------------------------------------------------------------------ drawing

  const style = (name) => getComputedStyle(canvas).getPropertyValue(name).trim();

  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; paint(); });
  }

  function paint() {
    const dots = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width() * dots, height() * dots];
    if (!scene || !canvas.width) return;
    context.setTransform(dots, 0, 0, dots, 0, 0);
    if (scene.axes) axes();
    if (scene.lines) {
      context.strokeStyle = style("--soft");
      stroke(scene.lines.length / 2, (i) => !Number.isNaN(scene.lines[2 * i]) && screen(scene.lines[2 * i], scene.lines[2 * i + 1]));
    }
    for (const group of scene.groups) {
      const stamp = marker(group, dots), half = stamp.width / dots / 2;
      for (const row of group.rows) {
        const [x, y] = at(row);
        if (x < -half || y < -half || x > width() + half || y > height() + half) continue;
        context.globalAlpha = chosen && !chosen.has(row) ? 0.12 : group.dim ? 0.7 : 0.88;
        context.drawImage(stamp, x - half, y - half, 2 * half, 2 * half);
      }
    }
    context.globalAlpha = 1;
    context.strokeStyle = style("--ink");
    marks.forEach((row, i) => {
      context.lineWidth = i ? 1.2 : 2.5;
      context.beginPath();
      context.arc(...at(row), i ? 6 : 9, 0, 7);
      context.stroke();
    });
    if (trail) {
      context.setLineDash([5, 4]);
      stroke(trail.length, (i) => trail[i]);
      context.setLineDash([]);
    }
  }

  function stroke(count, point) {
    context.lineWidth = 1;
    context.beginPath();
    let down = false;
    for (let i = 0; i < count; i++) {
      const to = point(i);
      if (to) down ? context.lineTo(...to) : context.moveTo(...to);
      down = Boolean(to);
    }
    context.stroke();
  }

  /** One marker as an image: stamping it is many times faster than filling a path for every point. */
  function marker(group, dots) {
    const radius = (group.size / 2) * dots, stamp = document.createElement("canvas");
    stamp.width = stamp.height = Math.ceil(2.6 * radius + 2);
    const pen = stamp.getContext("2d");
    pen.setTransform(radius, 0, 0, radius, stamp.width / 2, stamp.width / 2);
    if (group.symbol === "x") pen.rotate(Math.PI / 4);
    pen.beginPath();
    (MARKERS[group.symbol] ?? MARKERS[group.symbol === "x" ? "cross" : "circle"])(pen);
    pen.fillStyle = group.colour;
    pen.fill();
    if (!group.edge) return stamp;
    pen.lineWidth = dots / radius;
    pen.strokeStyle = group.edge;
    pen.stroke();
    return stamp;
  }

  /** A grid of round degrees. */
  function axes() {
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = style("--soft");
    context.strokeStyle = style("--line");
    const corner = placed(0, height()), other = placed(width(), 0);
    [0, 1].forEach((axis) => {
      const least = ((other[axis] - corner[axis]) / [width(), height()][axis]) * 90, power = 10 ** Math.floor(Math.log10(least));
      const step = power * [1, 2, 5, 10].find((times) => times * power >= least), digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      for (let value = Math.ceil(corner[axis] / step) * step; value <= other[axis]; value += step) {
        const [x, y] = screen(...(axis ? [view.x, value] : [value, view.y]));
        stroke(2, (end) => (axis ? [end * width(), y] : [x, end * height()]));
        context.fillText(`${value.toFixed(digits)}°`, axis ? 4 : x + 3, axis ? y - 3 : height() - 5);
      }
    });
  }

  // ------------------------------------------------------------------------------------------ pointer

  /** The row nearest to a point of the canvas, of the group drawn last where several are as near; null if none is. */
  function nearest(px, py) {
    let best = null, least = REACH * REACH;
    for (const group of scene.groups) {
      for (const row of group.rows) {
        const [x, y] = at(row), distance = (x - px) ** 2 + (y - py) ** 2;
        if (distance <= least) [best, least] = [row, distance];
      }
    }
    return best;
  }

  const fingers = new Map(); // pointers that are down, by id
  let moved = false;

  canvas.addEventListener("pointerdown", (event) => {
    if (!scene || event.button) return;
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    moved = fingers.size > 1;
    trail = fingers.size === 1 && (mode === "lasso" || event.shiftKey) ? [[event.offsetX, event.offsetY]] : null;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!scene) return;
    const to = [event.offsetX, event.offsetY], from = fingers.get(event.pointerId);
    if (!from) return on.hover(nearest(...to));
    const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
    if (!moved && Math.hypot(dx, dy) < 4) return; // a click trembles
    moved = true;
    if (trail) {
      trail.push(to);
    } else if (fingers.size === 2) {
      const [other] = [...fingers].find(([id]) => id !== event.pointerId).slice(1);
      const apart = (point) => Math.max(10, Math.hypot(point[0] - other[0], point[1] - other[1]));
      zoom(apart(to) / apart(from), ...other);
    } else {
      view.x -= dx / view.scale;
      view.y += dy / (view.scale * scene.ratio);
    }
    fingers.set(event.pointerId, to);
    draw();
  });
  function lifted(event) {
    if (!fingers.delete(event.pointerId)) return;
    const drawn = trail;
    if (!fingers.size) trail = null;
    draw();
    if (event.type === "pointercancel") return;
    if (!moved) return on.click(nearest(event.offsetX, event.offsetY));
    if (drawn) on.lasso(scene.groups.flatMap((group) => [...group.rows].filter((row) => inside(drawn, ...at(row)))));
  }
  canvas.addEventListener("pointerup", lifted);
  canvas.addEventListener("pointercancel", lifted);
  canvas.addEventListener("pointerleave", () => scene && on.hover(null));
  canvas.addEventListener("dblclick", () => scene && reset());
  // The wheel scrolls the page until the reader has clicked into the plot: a page that gets stuck is worse.
  canvas.addEventListener("wheel", (event) => {
    if (!scene || document.activeElement !== canvas) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / (event.deltaMode ? 20 : 400)), event.offsetX, event.offsetY);
  }, { passive: false });
  let size = 0;
  new ResizeObserver(() => {
    if (!width()) return; // hidden
    if (view && size) view.scale *= width() / size;
    size = width();
    if (scene && !view.scale) reset(); // it was hidden when the scene came
    draw();
  }).observe(canvas);

  return {
    at,
    reset,
    zoom,
    extent: () => [placed(0, height()), placed(width(), 0)],
    show(next) {
      const same = scene && scene.key === next.key;
      scene = next;
      same ? draw() : reset();
    },
    clear() { scene = null; draw(); },
    /** Ring rows, the first one boldly. */
    mark(rows) { marks = rows; draw(); },
    /** Fade all rows but these; null fades none. */
    choose(rows) { chosen = rows && new Set(rows); draw(); },
    drag(what) {
      mode = what;
      canvas.style.touchAction = what === "lasso" ? "none" : "pan-y";
      canvas.style.cursor = what === "lasso" ? "crosshair" : "";
    },
    /** Move the view so that a row is inside. */
    bring(row) {
      const [x, y] = at(row);
      if (x > 0 && y > 0 && x < width() && y < height()) return;
      [view.x, view.y] = [scene.xy[2 * row], scene.xy[2 * row + 1]];
      draw();
    },
  };
}
