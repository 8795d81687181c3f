// Small dense linear algebra for the fit. Matrices are arrays of rows.

/**
 * The singular values of a matrix, the largest first, and its right singular vectors in this order.
 *
 * A triangular factor by Gram-Schmidt, then one-sided Jacobi rotations of its columns.
 */
export function decomposed(matrix) {
  const size = matrix[0].length;
  const columns = transposed(triangular(transposed(matrix)));
  const vectors = columns.map((_, i) => columns.map((_, j) => +(i === j)));
  for (let sweep = 0; sweep < 40; sweep++) {
    let turned = false;
    for (let i = 0; i < size; i++) {
      for (let j = i + 1; j < size; j++) turned = orthogonalize(columns, vectors, i, j) || turned;
    }
    if (!turned) break;
  }
  const lengths = columns.map((column) => Math.sqrt(dot(column, column)));
  const order = lengths.map((_, k) => k).sort((i, j) => lengths[j] - lengths[i]);
  return { singular: order.map((k) => lengths[k]), vectors: order.map((k) => vectors[k]) };
}

/** The upper triangle R with Q R = A, for A given by its columns. */
function triangular(columns) {
  const size = columns.length;
  const rest = columns.map((column) => [...column]);
  const r = rest.map(() => Array(size).fill(0));
  for (let i = 0; i < size; i++) {
    r[i][i] = Math.sqrt(dot(rest[i], rest[i]));
    if (r[i][i] === 0) continue;
    const unit = rest[i].map((value) => value / r[i][i]);
    for (let j = i + 1; j < size; j++) {
      r[i][j] = dot(unit, rest[j]);
      addTo(rest[j], unit, -r[i][j]);
    }
  }
  return r;
}

/** Rotates two columns, and the same of the vectors, until they are orthogonal. */
function orthogonalize(columns, vectors, i, j) {
  const ii = dot(columns[i], columns[i]);
  const jj = dot(columns[j], columns[j]);
  const ij = dot(columns[i], columns[j]);
  if (Math.abs(ij) <= 1e-15 * Math.sqrt(ii * jj)) return false;
  const ratio = (jj - ii) / (2 * ij);
  const tangent = (ratio < 0 ? -1 : 1) / (Math.abs(ratio) + Math.sqrt(1 + ratio * ratio));
  const cosine = 1 / Math.sqrt(1 + tangent * tangent);
  for (const list of [columns, vectors]) {
    const [u, v] = [list[i], list[j]];
    list[i] = u.map((value, k) => cosine * (value - tangent * v[k]));
    list[j] = v.map((value, k) => cosine * (value + tangent * u[k]));
  }
  return true;
}

/**
 * The shortest z (of `size` entries) with rows z >= bounds, zero if the rows contradict each other.
 *
 * By non-negative least squares: Lawson and Hanson, Solving Least Squares Problems, chapter 23.
 */
export function leastDistance(rows, bounds, size) {
  if (bounds.every((bound) => bound <= 0)) return Array(size).fill(0);
  const columns = rows.map((row, k) => {
    const scale = Math.max(Math.sqrt(dot(row, row)), 1e-300);
    return [...row.map((value) => value / scale), bounds[k] / scale];
  });
  const wanted = [...Array(size).fill(0), 1];
  const weights = nonNegative(columns, wanted);
  const residual = wanted.map((value) => -value);
  weights.forEach((weight, k) => addTo(residual, columns[k], weight));
  const last = residual[size] || -1;
  return residual.slice(0, size).map((value) => -value / last);
}

/** The w >= 0 that minimize |sum_k w_k column_k - wanted|: Lawson and Hanson's active set. */
function nonNegative(columns, wanted) {
  let weights = columns.map(() => 0);
  const active = new Set();
  for (let count = 0; count < 3 * columns.length; count++) {
    const residual = [...wanted];
    for (const k of active) addTo(residual, columns[k], -weights[k]);
    let next = -1;
    let steepest = 1e-12;
    columns.forEach((column, k) => {
      const slope = active.has(k) ? 0 : dot(column, residual);
      if (slope > steepest) [next, steepest] = [k, slope];
    });
    if (next < 0) break;
    active.add(next);
    weights = solveWithin(columns, wanted, weights, active);
  }
  return weights;
}

/** Moves to the least squares over the active columns, and drops those that would turn negative. */
function solveWithin(columns, wanted, weights, active) {
  let current = weights;
  for (let count = active.size; count > 0; count--) {
    const chosen = [...active];
    const solution = solved(chosen.map((k) => columns[k]), wanted);
    let length = 1;
    chosen.forEach((k, i) => {
      if (solution[i] < 0) length = Math.min(length, current[k] / (current[k] - solution[i]));
    });
    const moved = columns.map(() => 0);
    chosen.forEach((k, i) => {
      moved[k] = current[k] + length * (solution[i] - current[k]);
    });
    current = moved;
    if (length === 1) break;
    for (const k of chosen) {
      if (current[k] <= 1e-15) {
        active.delete(k);
        current[k] = 0;
      }
    }
  }
  return current;
}

/** The least-squares solution of sum_k w_k column_k = wanted. */
function solved(columns, wanted) {
  const size = columns.length;
  const r = triangular([...columns, wanted]);
  const w = Array(size).fill(0);
  for (let i = size - 1; i >= 0; i--) {
    let value = r[i][size];
    for (let j = i + 1; j < size; j++) value -= r[i][j] * w[j];
    w[i] = r[i][i] > 1e-14 ? value / r[i][i] : 0;
  }
  return w;
}

export const transposed = (matrix) => matrix[0].map((_, j) => matrix.map((row) => row[j]));

export function dot(u, v) {
  let sum = 0;
  for (let i = 0; i < u.length; i++) sum += u[i] * v[i];
  return sum;
}

function addTo(target, source, factor) {
  for (let i = 0; i < target.length; i++) target[i] += factor * source[i];
}
