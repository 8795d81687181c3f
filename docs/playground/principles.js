// The charts of the page "KAT from first principles".

import { Chart } from "./chart.js";
import { element, field, onPage, readJson, short } from "./page.js";
import { evenly, secondMoment, value } from "./rational.js";

const POINTS = 481;
const CELLS = 5;
const ORDER = 3;
const RANGE = [-3, 3];
const SHOWN = [-7, 7];
const DEGREE = { m: 5, n: 4 };
const DEPTH = 192;

/** B_k(x) for k = 0 .. CELLS + ORDER - 1, by de Boor and Cox's recursion on uniform knots. */
export function splines(x) {
  const t = ((x - RANGE[0]) / (RANGE[1] - RANGE[0])) * CELLS + ORDER;
  let values = Array.from({ length: CELLS + 2 * ORDER }, (_, k) => Number(Math.floor(t) === k));
  for (let order = 1; order <= ORDER; order++) {
    values = values.slice(1).map((right, k) => {
      const left = values[k];
      return ((t - k) * left + (k + order + 1 - t) * right) / order;
    });
  }
  return values;
}

/** Parameters and FLOPs for one token of the layers that the page compares. */
export function costs(inputs, outputs, groups) {
  const [edges, { m, n }, G, K] = [inputs * outputs, DEGREE, CELLS, ORDER];
  return {
    "GELU and linear map": [edges + outputs, 2 * edges + 14 * outputs],
    "GR-KAN": [edges + outputs + m + 1 + n * groups, 2 * edges + (2 * m + 2 * n + 3) * inputs],
    "KAN, B-splines": [
      edges * (G + K + 3) + outputs,
      5 * inputs + edges * (9 * K * (G + 1.5 * K) + 2 * G - 2.5 * K + 3),
    ],
  };
}

/** A slider with its name and an output, which calls `moved`. */
function slider(name, range, moved) {
  const input = element("input", { type: "range", ...range });
  input.addEventListener("input", moved);
  return [input, element("div", { className: "kat-probe" }, field(name, input))];
}

/** What a chart shows in words; a screen reader hears it with the slider. */
function words(row) {
  const output = element("output", { "aria-live": "off" });
  row.append(output);
  return output;
}

const curve = (kind, f, [low, high]) => ({ kind, points: evenly(low, high, POINTS).map((x) => [x, f(x)]) });

onPage("kat-splines", async (root) => {
  const chart = new Chart("Eight B-splines on five cells, and those that are not zero at x", 200);
  const draw = () => {
    const at = input.valueAsNumber;
    const here = splines(at);
    const lines = here.map((height, k) => curve(height > 0 ? "f" : "off", (x) => splines(x)[k], SHOWN));
    chart.draw({ x: SHOWN, y: [0, 0.75], band: RANGE, mark: at, lines });
    const used = here.flatMap((height, k) => (height > 0 ? [k + 1] : []));
    output.textContent = used.length
      ? `x = ${short(at)}: the sum reads the coefficients ${used.join(", ")} of ${here.length}.`
      : `x = ${short(at)}: all splines are zero here.`;
  };
  const [input, row] = slider("x", { min: SHOWN[0], max: SHOWN[1], step: 0.05, value: 1 }, draw);
  const output = words(row);
  root.replaceChildren(row, element("figure", {}, chart.svg));
  draw();
});

onPage("kat-poles", async (root) => {
  const chart = new Chart("x divided by 1 + b x², dashed, and by 1 + |b| x²", 220);
  const range = [-4, 4];
  const draw = () => {
    const b = input.valueAsNumber;
    const plain = (x) => x / (1 + b * x * x);
    const lines = [
      // Broken at a pole: a line through it would look like a value.
      curve("slope", (x) => (Math.abs(plain(x)) < 12 ? plain(x) : NaN), range),
      curve("f", (x) => value({ form: "A", a: [0, 1], b: [0, b] }, x), range),
    ];
    chart.draw({ x: range, y: [-4, 4], lines });
    const pole = short(1 / Math.sqrt(Math.abs(b)), 3);
    output.textContent =
      `b = ${short(b)}. Dashed, x / (1 + b x²): ` +
      (b < 0 ? `poles at x = −${pole} and ${pole}.` : "no pole.") +
      " Solid, x / (1 + |b| x²): no pole.";
  };
  const [input, row] = slider("b", { min: -1, max: 1, step: 0.05, value: -0.5 }, draw);
  const output = words(row);
  root.replaceChildren(row, element("figure", {}, chart.svg));
  draw();
});

onPage("kat-gain", async (root) => {
  const { presets } = await readJson("presets.json");
  const chart = new Chart("F, and F squared times the normal density, dashed", 220);
  const range = [-3.5, 3.5];
  const draw = () => {
    const { numerator, denominator } = presets[menu.value].A;
    const a = numerator.with(2, numerator[2] + input.valueAsNumber);
    const f = (x) => value({ form: "A", a, b: denominator }, x);
    const density = (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
    const weighted = curve("slope", (x) => f(x) ** 2 * density(x), range);
    chart.draw({ x: range, y: [-0.7, 1.6], lines: [weighted, curve("f", f, range)] });
    const moment = secondMoment({ form: "A", a, b: denominator });
    output.textContent =
      `Solid, F. Dashed, F² times the density; its area is E[F²] = ${short(moment)}.` +
      ` α = ${short(1 / moment)}, and s = ${short(Math.sqrt(1 / moment / DEPTH))} for ${DEPTH} inputs.`;
  };
  const menu = element("select");
  for (const name of ["silu", "identity", "relu", "gelu", "tanh"]) menu.append(element("option", {}, name));
  const [input, row] = slider("move a₂ by", { min: -0.5, max: 0.5, step: 0.02, value: 0 }, draw);
  menu.addEventListener("change", () => {
    input.value = 0;
    draw();
  });
  const output = words(row);
  root.replaceChildren(element("div", { className: "kat-row" }, field("F starts as", menu)), row, element("figure", {}, chart.svg));
  draw();
});

onPage("kat-costs", async (root) => {
  const body = element("tbody");
  const draw = () => {
    const [inputs, outputs, groups] = [from, to, cut].map((input) => input.valueAsNumber);
    const rows = Object.entries(costs(inputs, outputs, 2 ** groups));
    const number = (count) => count.toLocaleString("en-US", { maximumFractionDigits: 0 });
    body.replaceChildren(
      ...rows.map(([name, counts]) =>
        element("tr", {}, element("td", {}, name), ...counts.map((count) => element("td", {}, number(count)))),
      ),
    );
    output.textContent = `From ${inputs} to ${outputs} channels, ${2 ** groups} groups:`;
  };
  const widths = { min: 64, max: 3072, step: 64 };
  const [from, first] = slider("inputs", { ...widths, value: 192 }, draw);
  const [to, second] = slider("outputs", { ...widths, value: 768 }, draw);
  const [cut, third] = slider("groups", { min: 0, max: 6, step: 1, value: 3 }, draw);
  const head = ["layer", "parameters", "FLOPs"].map((title) => element("th", {}, title));
  const output = words(third);
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...head)), body);
  root.replaceChildren(first, second, third, table);
  draw();
});
