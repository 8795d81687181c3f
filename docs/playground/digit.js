// The page of the digit: a drawing, its classification, and the inputs of every rational.

import { Chart } from "./chart.js";
import { SIZE, toDigit } from "./image.js";
import { element, field, onPage, readJson } from "./page.js";
import { evenly, value } from "./rational.js";

const CANVAS = 280;
const PEN = 30;
const INK = "#000"; // the style sheet inverts it in dark mode
const BINS = 40;
const POINTS = 161;
const FIRST_EXAMPLE = 3;

/** The network in onnxruntime, on one thread, and the description of its rationals. */
export class Model {
  static async load() {
    const folder = new URL("onnxruntime/", import.meta.url);
    const [runtime, about] = await Promise.all([
      import(new URL("ort.wasm.min.mjs", folder)),
      readJson("digit.json"),
    ]);
    runtime.env.wasm.numThreads = 1;
    runtime.env.wasm.wasmPaths = folder.href;
    const file = new URL("digit.onnx", import.meta.url).href;
    return new Model(runtime, about, await runtime.InferenceSession.create(file));
  }

  constructor(runtime, about, session) {
    Object.assign(this, { runtime, about, session });
  }

  /** The logits of an image of 64 values in [0, 1], and each layer's inputs, (groups, k) in rows. */
  async run(image) {
    const { mean, std, layers } = this.about;
    const input = Float32Array.from(image, (ink) => (ink - mean) / std);
    const tensor = new this.runtime.Tensor("float32", input, [1, 1, SIZE, SIZE]);
    const outputs = await this.session.run({ image: tensor });
    return {
      logits: [...outputs.logits.data],
      inputs: layers.map(({ name }) => rowsOf(outputs[name])),
    };
  }
}

function rowsOf({ data, dims: [rows, columns] }) {
  return Array.from({ length: rows }, (_, k) => data.subarray(k * columns, (k + 1) * columns));
}

/** exp(z_k) / sum_j exp(z_j). */
export function softmax(logits) {
  const most = Math.max(...logits);
  const powers = logits.map((z) => Math.exp(z - most));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** How many values fall into each of `count` equal bins of [low, high], its upper end included. */
export function histogram(values, low, high, count) {
  const heights = Array(count).fill(0);
  for (const x of values) {
    if (x < low || x > high) continue;
    heights[Math.min(Math.floor(((x - low) / (high - low)) * count), count - 1)]++;
  }
  return heights;
}

class Page {
  constructor(root, model) {
    this.model = model;
    this.layer = model.about.layers.length - 1;
    this.turn = 0;
    this.canvas = element("canvas", {
      id: "kat-canvas", width: CANVAS, height: CANVAS, role: "img", "aria-label": "Drawing area: draw a digit with mouse, pen or finger",
    });
    this.pen = this.canvas.getContext("2d", { willReadFrequently: true });
    this.seen = element("canvas", { id: "kat-seen", width: SIZE, height: SIZE, role: "img", "aria-label": "What the network sees: 8 by 8 pixels" });
    this.bars = element("ol", { id: "kat-bars", "aria-label": "Predicted probabilities" });
    this.answer = element("p", { id: "kat-answer", role: "status" });
    this.groups = element("div", { className: "kat-groups", id: "kat-groups" });
    root.replaceChildren(
      element(
        "div",
        { className: "kat-drawing" },
        element("div", {}, this.canvas, this.buttons()),
        element("div", {}, element("div", {}, "What the network sees"), this.seen),
        this.bars,
      ),
      this.answer,
      this.layers(),
      this.groups,
      this.accuracy(),
    );
    this.drawable();
    this.makeCharts();
  }

  accuracy() {
    const share = (100 * this.model.about.accuracy).toFixed(1);
    const text = `The network classifies ${share} % of the validation images correctly.`;
    return element("p", { id: "kat-accuracy" }, text);
  }

  buttons() {
    const clear = element("button", { type: "button", className: "md-button", id: "kat-clear" }, "Clear");
    clear.addEventListener("click", () => this.clear());
    this.example = element("select", { id: "kat-example" }, element("option", { value: "" }, "–"));
    this.model.about.examples.forEach((_, digit) => this.example.append(element("option", {}, `${digit}`)));
    this.example.addEventListener("change", () => this.example.value && this.showExample(Number(this.example.value)));
    const examples = field("Example", this.example);
    return element("div", { className: "kat-row" }, clear, examples);
  }

  layers() {
    const select = element("select", { id: "kat-layer" });
    this.model.about.layers.forEach(({ name }, k) => select.append(element("option", { value: k }, name)));
    select.value = this.layer;
    select.addEventListener("change", () => {
      this.layer = Number(select.value);
      this.makeCharts();
      if (this.inputs) this.drawInputs();
    });
    return field("Activations of layer", select);
  }

  /** Strokes by mouse, pen and finger. */
  drawable() {
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * CANVAS, ((event.clientY - box.top) / box.height) * CANVAS];
    };
    let last = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      if (this.example.value) this.clear();
      this.canvas.setPointerCapture(event.pointerId);
      last = place(event);
      this.stroke(last, last);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!last) return;
      const next = place(event);
      this.stroke(last, next);
      last = next;
    });
    for (const end of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(end, () => {
        last = null;
      });
    }
  }

  stroke(from, to) {
    Object.assign(this.pen, { lineWidth: PEN, lineCap: "round", strokeStyle: INK });
    this.pen.beginPath();
    this.pen.moveTo(...from);
    this.pen.lineTo(...to);
    this.pen.stroke();
    this.look();
  }

  clear() {
    this.example.value = "";
    this.pen.clearRect(0, 0, CANVAS, CANVAS);
    this.look();
  }

  /** Shows an image of the data set, which the network sees as it is. */
  async showExample(digit) {
    this.example.value = digit;
    this.image = this.model.about.examples[digit].map((ink) => ink / 16);
    this.drawImage(this.pen, CANVAS / SIZE);
    await this.classify();
  }

  /** Classifies what is drawn, once a frame. */
  look() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      const { data } = this.pen.getImageData(0, 0, CANVAS, CANVAS);
      const ink = Float64Array.from({ length: CANVAS * CANVAS }, (_, k) => data[4 * k + 3] / 255);
      this.image = toDigit(ink, CANVAS, CANVAS);
      this.classify();
    });
  }

  async classify() {
    const turn = ++this.turn;
    this.drawImage(this.seen.getContext("2d"), 1);
    if (!this.image) {
      this.inputs = null;
      this.drawBars(null);
      this.drawInputs();
      return;
    }
    // A session runs once at a time.
    this.running = (this.running ?? Promise.resolve()).then(async () => {
      if (turn !== this.turn) return;
      const { logits, inputs } = await this.model.run(this.image);
      if (turn !== this.turn) return;
      Object.assign(this, { logits, inputs });
      this.drawBars(softmax(logits));
      this.drawInputs();
    });
    await this.running;
  }

  drawImage(pen, cell) {
    pen.clearRect(0, 0, cell * SIZE, cell * SIZE);
    (this.image ?? []).forEach((ink, k) => {
      pen.globalAlpha = ink;
      pen.fillStyle = INK;
      pen.fillRect(cell * (k % SIZE), cell * Math.floor(k / SIZE), cell, cell);
    });
    pen.globalAlpha = 1;
  }

  drawBars(probabilities) {
    const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
    this.bars.replaceChildren(
      ...Array.from({ length: 10 }, (_, digit) => {
        const share = probabilities ? probabilities[digit] : 0;
        const bar = element("span", { "aria-hidden": true });
        bar.style.width = `${100 * share}%`;
        return element(
          "li",
          { className: digit === best ? "best" : "" },
          element("span", {}, `${digit}`),
          element("span", {}, bar),
          element("span", {}, `${(100 * share).toFixed(1)} %`),
        );
      }),
    );
    this.answer.textContent = probabilities
      ? `This looks like a ${best} (${(100 * probabilities[best]).toFixed(1)} %).`
      : "Draw a digit.";
  }

  makeCharts() {
    const { name, numerator } = this.model.about.layers[this.layer];
    this.charts = numerator.map((_, k) => new Chart(`${name}, group ${k + 1}: activation and inputs`, 130));
    this.counts = this.charts.map(() => element("span"));
    this.groups.replaceChildren(
      ...this.charts.map((chart, k) =>
        element("figure", {}, element("figcaption", {}, `Group ${k + 1} `, this.counts[k]), chart.svg),
      ),
    );
  }

  /** Each group's function over the layer's range, and where the drawing's inputs fall. */
  drawInputs() {
    const { form, numerator, denominator, low, high } = this.model.about.layers[this.layer];
    const lines = numerator.map((a, k) => {
      const c = { form, a, b: denominator[k] };
      return [{ kind: "f", points: evenly(low, high, POINTS).map((x) => [x, value(c, x)]) }];
    });
    this.charts.forEach((chart, k) => {
      const inputs = this.inputs?.[this.layer][k] ?? [];
      const heights = histogram(inputs, low, high, BINS);
      const inside = heights.reduce((sum, height) => sum + height, 0);
      const bars = { edges: evenly(low, high, BINS + 1), heights };
      chart.draw({ x: [low, high], lines: lines[k], bars, ticks: 4 });
      const outside = inputs.length - inside;
      this.counts[k].textContent = outside ? `(${outside} of ${inputs.length} beyond)` : "";
      chart.svg.dataset.counts = heights.join();
    });
  }
}

onPage("kat-digit", async (root) => {
  const model = await Model.load();
  await new Page(root, model).showExample(FIRST_EXAMPLE);
});
