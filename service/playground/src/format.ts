/** Numbers and durations as text. */

const MINUS = "\u2212";

export function formatScore(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const text = value.toFixed(2);
  return (text === "-0.00" ? "0.00" : text).replace("-", MINUS);
}

/** With a plus sign. */
export function formatChange(value: number): string {
  const text = formatScore(value);
  return text === "0.00" || text.startsWith(MINUS) ? text : `+${text}`;
}

export function formatSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.ceil(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.ceil((seconds % 3600) / 60)} min`;
}

/** With a decimal where it is short; `formatSeconds` is for estimates. */
export function formatDuration(seconds: number): string {
  return seconds < 10 ? `${seconds.toFixed(1)} s` : formatSeconds(seconds);
}

/** An axis label: without decimals that say nothing. */
export function formatTick(value: number): string {
  return String(Number(value.toPrecision(4))).replace("-", MINUS);
}

export function formatRate(perSecond: number): string {
  return perSecond >= 10 ? perSecond.toFixed(0) : perSecond.toFixed(1);
}

export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
