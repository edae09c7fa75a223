/** A Chart.js chart as a component. */

import {
  BarController,
  BarElement,
  Chart,
  type ChartConfiguration,
  LinearScale,
  LineController,
  LineElement,
  PointElement,
  ScatterController,
  Tooltip,
} from "chart.js";
import { useEffect, useRef } from "preact/hooks";
import { type Theme, themeColour } from "./theme";

Chart.register(BarController, BarElement, LinearScale, LineController, LineElement, PointElement, ScatterController, Tooltip);

export type Configuration = ChartConfiguration<"line" | "bar" | "scatter", { x: number; y: number }[]>;

interface Props {
  /** What the chart shows, in words. */
  description: string;
  /** Built when the theme is applied, for it holds colours. */
  build: () => Configuration;
  theme: Theme;
}

export function ChartView({ description, build, theme }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const chart = useRef<Chart<"line" | "bar" | "scatter", { x: number; y: number }[]> | null>(null);
  useEffect(() => {
    const { data, options = {} } = build();
    if (!canvas.current) return;
    if (chart.current) {
      chart.current.data = data;
      chart.current.options = options;
      chart.current.update("none");
    } else {
      chart.current = new Chart(canvas.current, build());
    }
  }, [build, theme]);
  useEffect(() => () => chart.current?.destroy(), []);
  return (
    <div class="chart">
      <canvas ref={canvas} role="img" aria-label={description} />
    </div>
  );
}

/** Options that all charts have in common: two linear axes with titles, no legend, no motion. */
export function axesOptions(x: string, y: string): NonNullable<Configuration["options"]> {
  const ink = themeColour("--muted");
  const line = themeColour("--line");
  const axis = (text: string) => ({
    type: "linear" as const,
    title: { display: true, text, color: ink },
    ticks: { color: ink, maxTicksLimit: 7 },
    grid: { color: line },
    border: { color: line },
  });
  return {
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    scales: { x: axis(x), y: axis(y) },
    plugins: { tooltip: { displayColors: false } },
  };
}
