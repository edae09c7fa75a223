/** Light or dark: the system's choice until the switch is used. Not stored. */

export type Theme = "light" | "dark";

const dark = matchMedia("(prefers-color-scheme: dark)");

export function systemTheme(): Theme {
  return dark.matches ? "dark" : "light";
}

export function onSystemTheme(listener: (theme: Theme) => void): () => void {
  const notify = () => listener(systemTheme());
  dark.addEventListener("change", notify);
  return () => dark.removeEventListener("change", notify);
}

export function applyTheme(theme: Theme): void {
  document.documentElement.dataset.theme = theme;
}

/** The colour of response `index` in curves and bars, as the style sheet has it. */
export function responseColour(index: number): string {
  return themeColour(`--response-${index}`);
}

export function themeColour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
