// Fits the coefficients of F = P / Q to a function: least squares within the sets of coefficients of
// kat/nn/fitting. P and Q are linear in (a, b) there, and the allowed b are those with C b >= 0:
// b >= 0 in form A, and an inner sum that keeps its sign on the whole line, but for 0, in form B.

import { errors, evenly } from "./rational.js";
import { decomposed, dot, leastDistance } from "./linear.js";

const POINTS = 801;
const MOST_STEPS = 80;
const LARGEST = 1e3;
// b_1 at first, and the number of linearized steps: different ones find different minima.
const STARTS = [[0, 12], [0, 0], [1, 0], [100, 0]];
// A sign change of the inner sum at 0 puts a kink in F, so it must lower the error by a tenth.
const KINK_GAIN = 0.9;

/**
 * The coefficients that minimize the mean square of F - f over an interval.
 *
 * @param target f, a function of a number.
 * @param degree [m, n].
 * @param form "A" or "B".
 * @param low, high the interval.
 * @returns {form, a, b, max, rms}, the errors among them.
 * @throws RangeError if f is not finite on the interval.
 */
export function fit(target, [m, n], form, low, high) {
  const x = evenly(low, high, POINTS);
  const y = x.map(target);
  const bad = y.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) throw new RangeError(`The function is not finite at x = ${+x[bad].toPrecision(4)}.`);
  let best = null;
  for (const space of spaces(m, n, form, Math.max(Math.abs(low), Math.abs(high)))) {
    const problem = new Problem(space, x, y);
    const found = STARTS.map((start) => leastSquares(problem, ...start)).reduce(better);
    if (!best || found.cost < KINK_GAIN * best.cost) best = found;
  }
  const c = { form, ...best.coefficients };
  return { ...c, ...errors(c, target, low, high) };
}

/** The one of lower cost; the first, if the second is not clearly better. */
const better = (one, other) => (other.cost < 0.999 * one.cost ? other : one);

/** The spaces to search, the preferred one first; `first` is the lowest power in Q - 1. */
function spaces(m, n, form, scale) {
  const unit = Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => +(i === j)));
  if (form === "A" || n === 0) return [{ m, n, form, first: 1, scale, rows: unit }];
  const firsts = n >= 2 ? [2, 1] : [1];
  return firsts.map((first) => ({ m, n, form, first, scale, rows: positivity(n - first) }));
}

/** Rows that sample g(t) >= 0 on the whole line, t = tan(theta), for g of this degree. */
function positivity(degree) {
  return evenly(-Math.PI / 2, Math.PI / 2, 241).map((theta) => {
    const cosine = Math.abs(theta) === Math.PI / 2 ? 0 : Math.cos(theta);
    return Array.from({ length: degree + 1 }, (_, j) => cosine ** (degree - j) * Math.sin(theta) ** j);
  });
}

/** The errors f - P / Q of a space's members at the points, and their derivatives; t = x / scale. */
class Problem {
  constructor(space, x, y) {
    this.space = space;
    this.y = y;
    const { m, n, form, first, scale } = space;
    this.top = x.map((value) => Array.from({ length: m + 1 }, (_, i) => (value / scale) ** i));
    this.bottom = x.map((value) => {
      const t = form === "A" ? Math.abs(value) / scale : value / scale;
      const sign = t < 0 ? (-1) ** first : 1;
      return Array.from({ length: n - first + 1 }, (_, j) => sign * t ** (first + j));
    });
    this.largest = LARGEST * Math.max(1, scale) ** n;
    this.rounding = 8 * Number.EPSILON * Math.max(1, ...y.map(Math.abs));
  }

  /** P = 0 over Q = 1 + b phi(t), phi the lowest power. */
  start(b) {
    return { a: this.top[0].map(() => 0), b: this.bottom[0].map((_, j) => (j === 0 ? b : 0)) };
  }

  values({ a, b }) {
    const q = this.bottom.map((row) => 1 + dot(row, b));
    return { f: this.top.map((row, k) => dot(row, a) / q[k]), q };
  }

  residuals(at) {
    const { f } = this.values(at);
    return this.y.map((value, k) => value - f[k]);
  }

  cost(at) {
    const e = this.residuals(at);
    return Math.sqrt(dot(e, e) / e.length);
  }

  /** d(v Q - P) / d(a, b) / Q at constant v. */
  slopes(v, q) {
    return v.map((value, k) => [
      ...this.top[k].map((basis) => -basis / q[k]),
      ...this.bottom[k].map((basis) => (value * basis) / q[k]),
    ]);
  }

  /** All coefficients in x. */
  unscaled({ a, b }) {
    const { n, first, scale } = this.space;
    const full = [...Array(first - 1).fill(0), ...b].slice(0, n);
    return { a: a.map((c, i) => c / scale ** i), b: full.map((c, j) => c / scale ** (j + 1)) };
  }
}

/**
 * `linearized` steps with v = f, which make f Q - P small and lead near a minimum from afar; then
 * Gauss-Newton steps, v = P / Q, each shortened until it lowers the error. `start` is b_1 at first.
 */
function leastSquares(problem, start, linearized) {
  let at = problem.start(start);
  let best = at;
  let least = problem.cost(at);
  for (let k = 0; k < linearized && least > problem.rounding; k++) {
    at = moved(problem, at, step(problem, at, problem.y), 1);
    const cost = problem.cost(at);
    if (cost < least) [best, least] = [at, cost];
  }
  for (let k = 0; k < MOST_STEPS && least > problem.rounding; k++) {
    const before = least;
    const change = step(problem, best, problem.values(best).f);
    for (let length = 1; length > 1e-6; length /= 4) {
      const trial = moved(problem, best, change, length);
      const cost = problem.cost(trial);
      if (cost < least) {
        [best, least] = [trial, cost];
        break;
      }
    }
    if (least > (1 - 1e-9) * before) break;
  }
  best = trimmed(problem, best, least);
  return { cost: least, coefficients: problem.unscaled(best) };
}

/** The d that minimizes |J d + e|^2 with C (b + d_b) >= 0. */
function step(problem, at, v) {
  const { q } = problem.values(at);
  const jacobian = problem.slopes(v, q);
  const root = Math.sqrt(jacobian.length);
  // Directions that change the error by O(1), without those lost in rounding.
  const { singular, vectors } = decomposed(jacobian);
  const least = Math.max(1e-15 * singular[0], (1e-7 * root) / problem.largest);
  const along = vectors.filter((_, k) => singular[k] > least);
  const size = singular.filter((s) => s > least);
  const e = problem.residuals(at);
  const directions = along.map((vector, k) => vector.map((value) => (value * root) / size[k]));
  const free = directions.map((d) => -jacobian.reduce((sum, row, k) => sum + dot(row, d) * e[k], 0) / root / root);
  const offset = at.a.length;
  const rows = problem.space.rows.map((row) => directions.map((d) => dot(row, d.slice(offset))));
  const bounds = problem.space.rows.map((row, k) => -dot(row, at.b) - dot(rows[k], free));
  const correction = leastDistance(rows, bounds, free.length);
  return at.a.concat(at.b).map((_, i) =>
    directions.reduce((sum, d, k) => sum + d[i] * (free[k] + correction[k]), 0),
  );
}

function moved(problem, { a, b }, change, length) {
  const to = (value, i) => value + length * change[i];
  const next = b.map((value, j) => to(value, a.length + j));
  // Rounding may have taken a value below its bound.
  return { a: a.map(to), b: problem.space.form === "A" ? next.map((v) => Math.max(v, 0)) : next };
}

/** Sets coefficients to zero that are only rounding noise: they would dominate far away. */
function trimmed(problem, found, least) {
  const allowed = Math.max(least * (1 + 1e-4), problem.rounding);
  const noise = Math.max(1e-2 * allowed, problem.rounding);
  let kept = found;
  for (const part of ["a", "b"]) {
    for (let i = 0; i < kept[part].length; i++) {
      if (Math.abs(kept[part][i]) >= noise) continue;
      const trial = { ...kept, [part]: kept[part].with(i, 0) };
      if (problem.cost(trial) <= allowed) kept = trial;
    }
  }
  return kept;
}
