// A drawing as an image like those of the data set: to_digits of scripts/playground_model.py.

export const SIZE = 8;
const WIDEST = 6.5;
const FAINTEST = 0.5;

/**
 * The ink cropped, scaled to all rows and centered; each pixel is the mean over its area, in
 * sixteenths.
 *
 * @param ink height * width values in [0, 1], row by row.
 * @returns 64 values in [0, 1], or null if nothing is drawn.
 */
export function toDigit(ink, width, height) {
  const rows = extent(height, width, (y, x) => ink[y * width + x]);
  const columns = extent(width, height, (x, y) => ink[y * width + x]);
  if (!rows) return null;
  const [top, bottom] = rows;
  const [left, right] = columns;
  const scale = Math.min(((right - left) * SIZE) / (bottom - top), WIDEST);
  const half = (((right - left) / scale) * SIZE) / 2;
  const middle = (left + right) / 2;
  const down = overlap(top, bottom, height);
  const across = overlap(middle - half, middle + half, width);
  const result = [];
  for (const row of down) {
    for (const column of across) {
      let sum = 0;
      for (const [y, share] of row) {
        for (const [x, part] of column) sum += share * part * ink[y * width + x];
      }
      result.push(roundedToEven(sum * 16) / 16);
    }
  }
  return result;
}

/** The first line with ink, and the one after the last; null if there is none. */
function extent(count, across, at) {
  let found = null;
  for (let i = 0; i < count; i++) {
    for (let j = 0; j < across; j++) {
      if (at(i, j) >= FAINTEST) {
        found = [found ? found[0] : i, i + 1];
        break;
      }
    }
  }
  return found;
}

/** For each of 8 equal parts of [low, high], the pixels that it covers and their shares of it. */
function overlap(low, high, count) {
  const size = (high - low) / SIZE;
  return Array.from({ length: SIZE }, (_, part) => {
    const [from, to] = [low + part * size, low + (part + 1) * size];
    const shares = [];
    for (let pixel = Math.max(Math.floor(from), 0); pixel < Math.min(to, count); pixel++) {
      const length = Math.min(to, pixel + 1) - Math.max(from, pixel);
      if (length > 0) shares.push([pixel, length / size]);
    }
    return shares;
  });
}

function roundedToEven(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}
