// Line charts with axes in SVG, as large as their place. Colors come from playground.css.

import { short } from "./page.js";

const NS = "http://www.w3.org/2000/svg";

/**
 * Draws what `draw` was last given, again whenever its size changes.
 *
 * A drawing is {x: [low, high], lines, y, band, mark, bars, ticks}:
 *   lines  [{kind, points: [[x, y], ...]}], kind a class of playground.css
 *   y      [low, high]; by default what the lines need
 *   band   [low, high], an interval of x to shade
 *   mark   an x with a vertical line
 *   bars   {edges, heights}, a histogram of counts, from the zero line up to half the chart's height at most
 *   ticks  about so many on the axis of x
 */
export class Chart {
  constructor(label, height) {
    this.svg = node("svg", { role: "img", "aria-label": label, class: "kat-chart", height });
    this.width = this.height = 0;
    new ResizeObserver(([{ contentRect }]) => {
      [this.width, this.height] = [contentRect.width, contentRect.height].map(Math.round);
      this.render();
    }).observe(this.svg);
  }

  draw(drawing) {
    this.drawing = drawing;
    this.render();
  }

  render() {
    if (!this.drawing || this.width < 50) return;
    this.svg.replaceChildren(...parts(this.drawing, this.width, this.height));
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
  }
}

function parts(drawing, width, height) {
  let [low, high] = drawing.y ?? rangeOf(drawing.lines);
  if (drawing.bars) high = Math.max(high, -low / 2); // they need room above 0
  const yTicks = ticks(low, high, Math.max(2, height / 45));
  const left = 10 + 6.5 * Math.max(...yTicks.map((tick) => short(tick).length));
  const box = { left, right: width - 10, top: 8, bottom: height - 22 };
  const place = {
    x: scale(drawing.x, [box.left, box.right]),
    y: scale([low, high], [box.bottom, box.top]),
  };
  const xTicks = ticks(...drawing.x, drawing.ticks ?? Math.max(3, width / 80));
  const made = [];
  if (drawing.band) {
    const [from, to] = drawing.band.map(place.x);
    made.push(rectangle("band", from, box.top, to - from, box.bottom - box.top));
  }
  for (const tick of xTicks) {
    const at = place.x(tick);
    made.push(line(tick === 0 ? "zero" : "grid", at, box.top, at, box.bottom));
    made.push(text(at, height - 6, short(tick), "middle"));
  }
  for (const tick of yTicks) {
    const at = place.y(tick);
    made.push(line(tick === 0 ? "zero" : "grid", box.left, at, box.right, at));
    made.push(text(box.left - 5, at + 4, short(tick), "end"));
  }
  if (drawing.bars) made.push(...bars(drawing.bars, place, box));
  for (const { kind, points } of drawing.lines) {
    made.push(node("path", { class: `kat-line ${kind}`, d: path(points, place, box) }));
  }
  if (drawing.mark !== undefined) {
    const at = place.x(drawing.mark);
    made.push(line("mark", at, box.top, at, box.bottom));
  }
  return made;
}

function bars({ edges, heights }, place, box) {
  const zero = place.y(0);
  const unit = Math.min((box.bottom - box.top) / 2, zero - box.top) / Math.max(...heights, 1);
  return heights.map((height, k) => {
    const [from, to] = [place.x(edges[k]), place.x(edges[k + 1])];
    return rectangle("bar", from, zero - height * unit, Math.max(to - from - 0.5, 0.5), height * unit);
  });
}

/** The points as a path, cut to a little more than the box and broken where y is not finite. */
function path(points, place, box) {
  const reach = box.bottom - box.top;
  let pen = "M";
  let d = "";
  for (const [x, y] of points) {
    if (!Number.isFinite(y)) {
      pen = "M";
      continue;
    }
    const at = Math.min(Math.max(place.y(y), box.top - reach), box.bottom + reach);
    d += `${pen}${place.x(x).toFixed(1)} ${at.toFixed(1)}`;
    pen = "L";
  }
  return d;
}

/** The range of the finite values, with 0, and a little room. */
export function rangeOf(lines) {
  let [low, high] = [0, 0];
  for (const { points } of lines) {
    for (const [, y] of points) {
      if (Number.isFinite(y)) [low, high] = [Math.min(low, y), Math.max(high, y)];
    }
  }
  if (low === high) return [-1, 1];
  const room = 0.04 * (high - low);
  return [low < 0 ? low - room : low, high > 0 ? high + room : high];
}

/** About `count` round numbers between low and high. */
export function ticks(low, high, count) {
  // At most this step: a range around 0 has a tick on either side from 3 ticks on.
  const most = (1.4 * (high - low)) / count;
  const power = 10 ** Math.floor(Math.log10(most));
  const step = [5, 2, 1].find((factor) => factor * power <= most * 1.001) * power;
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) {
    found.push(+(k * step).toPrecision(12));
  }
  return found;
}

function scale([low, high], [from, to]) {
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

function node(tag, attributes) {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function line(kind, x1, y1, x2, y2) {
  return node("line", { class: `kat-${kind}`, x1, y1, x2, y2 });
}

function rectangle(kind, x, y, width, height) {
  return node("rect", { class: `kat-${kind}`, x, y, width, height });
}

function text(x, y, words, anchor) {
  const made = node("text", { x, y, "text-anchor": anchor });
  made.textContent = words;
  return made;
}
