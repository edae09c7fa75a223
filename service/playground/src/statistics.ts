/** What the batch's charts show. */

export interface Point {
  x: number;
  y: number;
}

/** The least and the greatest of many values, of which Math.min takes no more than some ten thousand. */
export function extremes(values: number[]): [number, number] {
  return values.reduce(([min, max], value) => [Math.min(min, value), Math.max(max, value)], [Infinity, -Infinity]);
}

/** Counts in `bins` equal parts of the values' range, each at its middle. */
export function histogram(values: number[], bins: number): Point[] {
  const [min, max] = extremes(values);
  const width = (max - min) / bins || 1;
  const counts = Array.from({ length: bins }, (_, i) => ({ x: min + (i + 0.5) * width, y: 0 }));
  for (const value of values) {
    const bin = counts[Math.min(Math.floor((value - min) / width), bins - 1)];
    if (bin) bin.y += 1;
  }
  return counts;
}

/** Pearson's; null where one of the two does not vary. */
export function correlation(points: Point[]): number | null {
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const x = mean(points.map((point) => point.x));
  const y = mean(points.map((point) => point.y));
  let [xy, xx, yy] = [0, 0, 0];
  for (const point of points) {
    xy += (point.x - x) * (point.y - y);
    xx += (point.x - x) ** 2;
    yy += (point.y - y) ** 2;
  }
  return xx > 0 && yy > 0 ? xy / Math.sqrt(xx * yy) : null;
}
