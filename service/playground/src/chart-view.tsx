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
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { formatTick } from "./format";
import { type Theme, themeColour } from "./theme";

Chart.register(BarController, BarElement, LinearScale, LineController, LineElement, PointElement, ScatterController, Tooltip);

/** `note` is what the tooltip shows. */
export interface Point {
  x: number;
  y: number;
  note?: string;
}

export type Configuration = ChartConfiguration<"line" | "bar" | "scatter", Point[]>;

interface Props {
  /** What the chart shows, in words. */
  description: string;
  /** Built when the theme is applied, for it holds colours. */
  build: () => Configuration;
  theme: Theme;
}

export function ChartView({ description, build, theme }: Props) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const chart = useRef<Chart<"line" | "bar" | "scatter", Point[]> | null>(null);
  useLayoutEffect(() => {
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
    ticks: {
      color: ink,
      maxTicksLimit: 7,
      maxRotation: 0,
      includeBounds: false,
      callback: (value: number | string) => formatTick(Number(value)),
    },
    grid: { offset: false, color: (context: { tick?: { value: number } }) => (context.tick?.value === 0 ? ink : line) },
    border: { display: false },
  });
  return {
    animation: false,
    responsive: true,
    maintainAspectRatio: false,
    scales: { x: axis(x), y: axis(y) },
    interaction: { mode: "nearest", intersect: false },
    plugins: {
      tooltip: {
        displayColors: false,
        callbacks: { title: () => "", label: (item) => ((item.raw as Point).note ?? "").split("\n") },
      },
    },
  };
}
