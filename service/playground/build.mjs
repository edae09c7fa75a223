// Builds the page: `node build.mjs [FOLDER]`. The same sources give the same bytes.
import { build } from "esbuild";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../criticrm_server/playground");
const BUNDLED = ["preact", "chart.js", "@kurkle/color"]; // the last is part of Chart.js

await mkdir(out, { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: { app: "src/main.tsx" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none", // all of them are in licences.txt
  logLevel: "warning",
});
await build({
  absWorkingDir: here,
  entryPoints: { app: "src/app.css" },
  outdir: out,
  bundle: true,
  minify: true,
  target: "es2022",
  logLevel: "warning",
});
await copyFile(join(here, "src/index.html"), join(out, "index.html"));

const licences = [];
for (const name of BUNDLED) {
  const folder = join(here, "node_modules", name);
  const { version } = JSON.parse(await readFile(join(folder, "package.json"), "utf-8"));
  const files = ["LICENSE", "LICENSE.md"].map((file) => readFile(join(folder, file), "utf-8"));
  const text = await Promise.any(files);
  licences.push(`${name} ${version}\n\n${text.trim()}\n`);
}
await writeFile(join(out, "licences.txt"), licences.join(`\n${"-".repeat(72)}\n\n`));
