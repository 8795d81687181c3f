// The page of the rational function: its state, its controls and its charts.

import { Chart, rangeOf } from "./chart.js";
import { ExpressionError, parseExpression } from "./expression.js";
import { fit } from "./fit.js";
import { element, field, onPage, readJson, short } from "./page.js";
import { errors, evaluate, evenly, secondMoment, slopesAtInfinity } from "./rational.js";

const MOST = { m: 9, n: 8 };
const POINTS = 601;
const CURVES = { f: "F", slope: "F′", target: "f", p: "P", q: "Q", error: "F − f" };
const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";
const LARGEST = 1e6;
/** What a network learned from SiLU: group 1 of block 1's second rational on the page of the digit. */
const LEARNED = {
  form: "A", a: [-0.119, 0.322, 0.321, -0.07, 0.009, -0.03], b: [-0.03, 0.155, 0.085, -0.098],
  expression: "silu(x)", low: -3, high: 3,
};

/** The coefficients, the typed function and the interval, as a part of an address. */
export function toHash({ form, a, b, expression, low, high }) {
  const query = new URLSearchParams({ form, a: a.join(), b: b.join(), f: expression, from: low, to: high });
  return `#${query}`;
}

/** The state of {@link toHash}, or null if the text holds none. */
export function fromHash(hash) {
  const query = new URLSearchParams(hash.slice(1));
  const list = (name) => (query.get(name) ? query.get(name).split(",").map(Number) : []);
  const state = {
    form: query.get("form"), a: list("a"), b: list("b"), expression: query.get("f") ?? "",
    low: Number(query.get("from") ?? -3), high: Number(query.get("to") ?? 3),
  };
  const numbers = [...state.a, ...state.b, state.low, state.high];
  const valid =
    ["A", "B"].includes(state.form) &&
    state.a.length >= 2 && state.a.length <= MOST.m + 1 && state.b.length <= MOST.n &&
    numbers.every((value) => Number.isFinite(value) && Math.abs(value) <= LARGEST) &&
    state.low < state.high;
  return valid ? state : null;
}

/** Python that makes this activation; `error` is the largest |F - f| on the interval, undefined without an f. */
export function snippet({ form, a, b, low, high }, error) {
  const number = (value) => (Number.isInteger(value) ? value.toFixed(1) : String(value));
  const largest = Number.isFinite(error)
    ? `${number(+error.toPrecision(6))},`
    : `float("nan"),  # ${error === undefined ? "no function typed" : "f is not finite on the interval"}`;
  const tuple = (list) => `(${list.map(number).join(", ")}${list.length === 1 ? "," : ""})`;
  return `import kat

coefficients = kat.Coefficients(
    numerator=${tuple(a)},
    denominator=${tuple(b)},
    form="${form}",
    interval=${tuple([low, high])},
    max_error=${largest}
)
activation = kat.GroupRational(
    num_groups=8, degree=(${a.length - 1}, ${b.length}), init=coefficients, form="${form}"
)
`;
}

class Page {
  constructor(root, presets) {
    this.presets = presets;
    this.build(root);
    addEventListener("hashchange", () => {
      const state = fromHash(location.hash);
      if (state) this.show(state);
    });
    this.show(fromHash(location.hash) ?? LEARNED);
  }

  fromPreset(name, form) {
    const { numerator, denominator, interval } = this.presets[name][form];
    const [low, high] = interval;
    return { form, a: numerator, b: denominator, expression: name.replace(/_(narrow|wide)$/, ""), low, high };
  }

  /** The name of the preset that has these coefficients; "" if there is none. */
  presetOf({ form, a, b, low, high }) {
    const key = ({ a, b, low, high }) => [...a, "/", ...b, "/", low, high].join();
    const names = Object.keys(this.presets);
    return names.find((name) => key(this.fromPreset(name, form)) === key({ a, b, low, high })) ?? "";
  }

  build(root) {
    this.charts = {
      function: new Chart("F, its derivative and the function to fit", 300),
      parts: new Chart("The polynomials P and Q", 220),
      error: new Chart("The error F − f on the interval", 140),
    };
    const charts = element("div", { className: "kat-charts" }, this.probe());
    for (const [name, chart] of Object.entries(this.charts)) {
      charts.append(element("figure", { id: `kat-chart-${name}` }, this.legend(name), chart.svg));
    }
    root.replaceChildren(
      element("div", { className: "kat-columns" }, this.controls(), charts),
      element("dl", { className: "kat-facts", id: "kat-facts" }),
      this.code(),
    );
    this.facts = root.querySelector("#kat-facts");
  }

  legend(chart) {
    const kinds = { function: ["f", "slope", "target"], parts: ["p", "q"], error: ["error"] }[chart];
    const items = kinds.map((kind) => {
      const box = element("input", { type: "checkbox", checked: true, name: kind });
      box.addEventListener("change", () => this.draw());
      return element("label", {}, box, swatch(kind), CURVES[kind]);
    });
    return element("figcaption", { className: "kat-legend" }, ...items);
  }

  controls() {
    this.preset = element("select", { id: "kat-preset" }, element("option", { value: "" }, "custom"));
    for (const name of Object.keys(this.presets)) this.preset.append(element("option", {}, name));
    this.preset.addEventListener("change", () => {
      if (this.preset.value) this.change(this.fromPreset(this.preset.value, this.state.form));
    });
    this.reset = element("button", { type: "button", className: "md-button", id: "kat-reset" });
    this.reset.addEventListener("click", () => this.change(this.fromPreset(this.lastPreset, this.state.form)));
    const forms = ["A", "B"].map((form) => {
      const radio = element("input", { type: "radio", name: "kat-form", value: form });
      radio.addEventListener("change", () => {
        const name = this.presetOf(this.state);
        this.change(name ? this.fromPreset(name, form) : { form });
      });
      return element("label", {}, radio, form);
    });
    this.degrees = ["m", "n"].map((name) => {
      const least = name === "m" ? 1 : 0;
      const select = element("select", { id: `kat-degree-${name}` });
      for (let k = least; k <= MOST[name]; k++) select.append(element("option", {}, `${k}`));
      select.addEventListener("change", () => this.resize());
      return select;
    });
    this.sliders = element("div", { className: "kat-sliders", id: "kat-sliders" });
    this.formula = element("p", { className: "kat-formula" });
    return element(
      "div",
      { className: "kat-controls" },
      element("div", { className: "kat-row" }, field("Preset", this.preset), this.reset),
      element("fieldset", { className: "kat-row" }, element("legend", {}, "Form"), ...forms),
      this.formula,
      element("div", { className: "kat-row" }, field("Degree of P", this.degrees[0]), field("of Q", this.degrees[1])),
      this.fitting(),
      this.sliders,
    );
  }

  fitting() {
    this.expression = element("input", { type: "text", id: "kat-expression", spellcheck: false, autocomplete: "off" });
    this.low = element("input", { type: "number", id: "kat-low", step: "any", required: true });
    this.high = element("input", { type: "number", id: "kat-high", step: "any", required: true });
    this.message = element("p", { id: "kat-message", role: "status" });
    this.expression.setAttribute("aria-describedby", "kat-message");
    for (const input of [this.expression, this.low, this.high]) {
      input.addEventListener("change", () => this.change(this.typed()));
    }
    const form = element(
      "form",
      { className: "kat-fit", noValidate: true },
      field("f(x) =", this.expression),
      field("from", this.low),
      field("to", this.high),
      element("button", { type: "submit", className: "md-button", id: "kat-fit" }, "Fit"),
      this.message,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.fit();
    });
    return form;
  }

  probe() {
    this.at = element("input", { type: "range", id: "kat-x", min: 0, max: 400, step: 1, value: 250 });
    this.values = element("output", { id: "kat-values", htmlFor: "kat-x", "aria-live": "off" });
    this.at.addEventListener("input", () => this.draw());
    return element("div", { className: "kat-probe" }, field("x", this.at), this.values);
  }

  code() {
    this.python = element("code", { id: "kat-python", tabIndex: 0 });
    this.address = element("code", { id: "kat-address", hidden: true });
    const copy = (words, place, text) => {
      const button = element("button", { type: "button", className: "md-button" }, words);
      button.addEventListener("click", async () => {
        place.textContent = text();
        const copied = await toClipboard(place.textContent);
        if (!copied) select(place);
        button.textContent = copied ? "Copied" : "Selected: copy with Ctrl+C or ⌘C";
        setTimeout(() => (button.textContent = words), copied ? 1500 : 5000);
      });
      return button;
    };
    return element(
      "div",
      { className: "kat-code" },
      element("pre", {}, this.python),
      copy("Copy as Python", this.python, () => this.python.textContent),
      copy("Copy the address", this.address, () => new URL(toHash(this.state), location.href).href),
      this.address,
    );
  }

  /** Shows a whole state. */
  show(state) {
    this.state = state;
    this.showPreset();
    for (const radio of document.getElementsByName("kat-form")) radio.checked = radio.value === state.form;
    this.degrees[0].value = state.a.length - 1;
    this.degrees[1].value = state.b.length;
    [this.expression.value, this.low.value, this.high.value] = [state.expression, state.low, state.high];
    this.formula.textContent = formulaOf(state);
    this.sliders.replaceChildren(
      ...state.a.map((_, i) => this.slider("a", i, i)),
      ...state.b.map((_, j) => this.slider("b", j, j + 1)),
    );
    this.draw();
  }

  /** The preset in the menu, and the last one that was there on the button. */
  showPreset() {
    const name = this.presetOf(this.state);
    this.preset.value = name;
    this.lastPreset = name || (this.lastPreset ?? "silu");
    this.reset.textContent = `Reset to ${this.lastPreset}`;
    this.reset.disabled = Boolean(name) && this.state.expression === this.fromPreset(name, this.state.form).expression;
  }

  /** Changes some of the state, and the address with it. */
  change(part) {
    this.show({ ...this.state, ...part });
    this.remember();
  }

  remember() {
    clearTimeout(this.writing);
    this.writing = setTimeout(() => history.replaceState(history.state, "", toHash(this.state)), 200);
  }

  /** What the fields of the function hold; the interval as it was if they hold none. */
  typed() {
    const [low, high] = [this.low, this.high].map((input) => input.valueAsNumber);
    const valid = low < high && Math.max(-low, high) <= LARGEST;
    return { expression: this.expression.value, ...(valid && { low, high }) };
  }

  resize() {
    const [m, n] = this.degrees.map((select) => Number(select.value));
    const sized = (list, count) => Array.from({ length: count }, (_, i) => list[i] ?? 0);
    this.change({ a: sized(this.state.a, m + 1), b: sized(this.state.b, n) });
  }

  fit() {
    const { expression, low, high } = { ...this.state, ...this.typed() };
    const target = this.target({ expression, low, high });
    if (!target) return;
    const [m, n] = this.degrees.map((select) => Number(select.value));
    try {
      const { a, b } = fit(target, [m, n], this.state.form, low, high);
      this.change({ a, b, expression, low, high });
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.complain(error.message);
    }
  }

  /** The typed function; null, with a message, if there is none. */
  target({ expression }) {
    this.complain("");
    if (!expression.trim()) return null;
    try {
      return parseExpression(expression);
    } catch (error) {
      if (!(error instanceof ExpressionError)) throw error;
      this.complain(error.message);
      return null;
    }
  }

  complain(text) {
    this.message.textContent = text;
    this.expression.setAttribute("aria-invalid", Boolean(text));
  }

  slider(part, index, power) {
    const name = `${part}${SUBSCRIPTS[power]}`;
    const value = this.state[part][index];
    const limit = Math.max(2 ** (2 - power), 2 * Math.abs(value));
    const step = limit / 200;
    // A screen reader and the keyboard have the number; the slider beside it is for pointers.
    const range = element("input", { type: "range", "aria-hidden": true, tabIndex: -1 });
    Object.assign(range, { min: -limit, max: limit, step, value });
    const number = element("input", {
      type: "number", step: "any", value: +value.toPrecision(6), "aria-label": name, id: `kat-${part}${power}`,
    });
    const set = (input, other) => {
      const chosen = input.valueAsNumber;
      if (!(Math.abs(chosen) <= LARGEST)) return;
      // The middle of a slider is 0 up to rounding, and the box has room for six digits.
      const clean = +chosen.toPrecision(input === range ? 6 : 12);
      other.value = clean;
      this.state = { ...this.state, [part]: this.state[part].with(index, clean) };
      this.showPreset();
      this.draw();
      this.remember();
    };
    range.addEventListener("input", () => set(range, number));
    number.addEventListener("input", () => set(number, range));
    number.addEventListener("keydown", (event) => {
      const turn = { ArrowUp: 1, ArrowDown: -1 }[event.key];
      if (!turn) return;
      event.preventDefault();
      number.value = +(number.valueAsNumber + turn * step).toPrecision(6);
      set(number, range);
    });
    return element("div", { className: "kat-slider" }, element("span", { "aria-hidden": true }, name), range, number);
  }

  draw() {
    const { low, high, a, b } = this.state;
    this.address.hidden = true;
    const target = this.target(this.state);
    const margin = (high - low) / 2;
    const shown = [low - margin, high + margin];
    const x = evenly(...shown, POINTS);
    const points = x.map((at) => ({ at, ...evaluate(this.state, at) }));
    const mark = shown[0] + ((shown[1] - shown[0]) * this.at.valueAsNumber) / 400;
    const curve = (kind) => points.map((point) => [point.at, point[kind]]);
    const lines = {
      f: curve("f"), slope: curve("slope"), p: curve("p"), q: curve("q"),
      target: target ? x.map((at) => [at, target(at)]) : [],
      error: target ? evenly(low, high, POINTS).map((at) => [at, evaluate(this.state, at).f - target(at)]) : [],
    };
    const chosen = (...kinds) =>
      kinds
        .filter((kind) => document.querySelector(`.kat-legend [name=${kind}]`).checked)
        .map((kind) => ({ kind, points: lines[kind] }));
    // The target may leave the chart, F does not.
    const main = chosen("target", "slope", "f");
    const y = rangeOf(main.filter(({ kind }) => kind !== "target" || main.length === 1));
    this.charts.function.draw({ x: shown, y, band: [low, high], mark, lines: main });
    this.charts.parts.draw({ x: shown, band: [low, high], mark, lines: chosen("q", "p") });
    const both = Math.max(...lines.error.map(([, e]) => Math.abs(e)).filter(Number.isFinite), 0) || 1;
    this.charts.error.draw({ x: [low, high], y: [-1.1 * both, 1.1 * both], lines: chosen("error") });
    this.charts.error.svg.parentElement.hidden = !target;
    const value = evaluate(this.state, mark);
    this.values.textContent =
      `x = ${short(mark)}: F = ${short(value.f)}, F′ = ${short(value.slope)},` +
      ` P = ${short(value.p)}, Q = ${short(value.q)}`;
    this.at.setAttribute("aria-valuetext", this.values.textContent);
    const error = target ? errors(this.state, target, low, high) : null;
    this.describe(error, Math.max(...points.map(({ q }) => q)));
    this.python.textContent = snippet({ ...this.state, a, b }, error?.max);
  }

  describe(error, largest) {
    const moment = secondMoment(this.state);
    const [left, right] = slopesAtInfinity(this.state);
    const facts = {
      "largest error on the interval": error ? short(error.max) : "no function typed",
      "root mean square error": error ? short(error.rms) : "no function typed",
      "gain 1 / E[F(x)²], x ~ N(0, 1)": moment ? short(1 / moment) : "none: F = 0",
      "F(x) / x far to the left and right": `${short(left)}, ${short(right)}`,
      "poles on the real line": `none: 1 ≤ Q ≤ ${short(largest)} here`,
    };
    this.facts.replaceChildren(
      ...Object.entries(facts).map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value)),
      ),
    );
  }
}

function formulaOf({ form, a, b }) {
  const power = (symbol, k) => (k === 1 ? symbol : `${symbol}${"⁰¹²³⁴⁵⁶⁷⁸⁹"[k]}`);
  const p = `P = a₀ + a₁x${a.length > 2 ? ` + … + a${SUBSCRIPTS[a.length - 1]}${power("x", a.length - 1)}` : ""}`;
  const term = (k) => (form === "A" ? `|b${SUBSCRIPTS[k]}|${power("|x|", k)}` : `b${SUBSCRIPTS[k]}${power("x", k)}`);
  const terms = b.length > 2 ? [term(1), "…", term(b.length)] : b.map((_, j) => term(j + 1));
  const sum = terms.join(" + ");
  const q = !b.length ? "Q = 1" : form === "A" ? `Q = 1 + ${sum}` : `Q = 1 + |${sum}|`;
  return `F = P / Q, ${p}, ${q}`;
}

/** Whether the text is in the clipboard now: a page over plain http has none, and a reader may refuse it. */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

function select(place) {
  place.hidden = false;
  getSelection().selectAllChildren(place);
}

function swatch(kind) {
  return element("span", { className: `kat-swatch ${kind}`, "aria-hidden": true });
}

onPage("kat-function", async (root) => {
  const presets = (await readJson("presets.json")).presets;
  new Page(root, presets);
});
