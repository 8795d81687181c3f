// The rational function F = P / Q, as kat/ops/reference.py defines it, in float64.
//
//   P(x) = a_0 + a_1 x + ... + a_m x^m
//   form A:  Q(x) = 1 + sum_j |b_j| |x|^j,   j = 1..n
//   form B:  Q(x) = 1 + |sum_j b_j x^j|,     j = 1..n
//
// `c` is {form, a: [a_0 .. a_m], b: [b_1 .. b_n]}.

/** sum_i c_i x^i. */
export function polynomial(c, x) {
  let value = 0;
  for (let i = c.length - 1; i >= 0; i--) value = value * x + c[i];
  return value;
}

/** sum_i i c_i x^(i - 1). */
function polynomialSlope(c, x) {
  let value = 0;
  for (let i = c.length - 1; i >= 1; i--) value = value * x + i * c[i];
  return value;
}

/**
 * P, Q, F and F' at x.
 *
 * At a kink the derivative is the one that kat takes: in form A d|x|/dx = 0 at x = 0, in form B
 * d|s|/ds = +1 where the inner sum s is 0.
 */
export function evaluate(c, x) {
  const p = polynomial(c.a, x);
  const inner = c.form === "A" ? [0, ...c.b.map(Math.abs)] : [0, ...c.b];
  const base = c.form === "A" ? Math.abs(x) : x;
  const s = polynomial(inner, base);
  const q = 1 + Math.abs(s);
  const sign = c.form === "A" ? Math.sign(x) : s < 0 ? -1 : 1;
  const f = p / q;
  const slope = (polynomialSlope(c.a, x) - f * sign * polynomialSlope(inner, base)) / q;
  return { p, q, f, slope };
}

/** F(x). */
export const value = (c, x) => evaluate(c, x).f;

/** `count` evenly spaced points from low to high. */
export function evenly(low, high, count) {
  return Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));
}

/** E[F(x)^2] for x ~ N(0, 1), by Simpson's rule on either side of 0; kat's gain is its inverse. */
export function secondMoment(c) {
  const steps = 4000;
  const h = 12 / steps;
  let sum = 0;
  for (let i = 0; i <= steps; i++) {
    const x = i * h;
    const weight = i === 0 || i === steps ? 1 : i % 2 ? 4 : 2;
    const density = Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
    sum += weight * density * (value(c, x) ** 2 + value(c, -x) ** 2);
  }
  return (sum * h) / 3;
}

/** The limits of F(x) / x on the left and on the right, which may be infinite. */
export function slopesAtInfinity(c) {
  const p = c.a.findLastIndex((value) => value !== 0);
  const q = c.b.findLastIndex((value) => value !== 0) + 1;
  if (p < q + 1) return [0, 0];
  let right = c.a[p] / (q ? Math.abs(c.b[q - 1]) : 1);
  if (p > q + 1) right = Math.sign(right) * Infinity;
  return [p % 2 ? right : -right, right];
}

/** The largest and the root mean square of F - f at evenly spaced points of an interval. */
export function errors(c, target, low, high) {
  const e = evenly(low, high, 4001).map((x) => Math.abs(value(c, x) - target(x)));
  return {
    max: e.reduce((most, one) => (one > most || Number.isNaN(one) ? one : most), 0),
    rms: Math.sqrt(e.reduce((sum, one) => sum + one * one, 0) / e.length),
  };
}
