// Bundle the libraries of the page into bgpy/gateway/page/vendor, with their licences: npm ci && npm run build
// Each becomes one ES module without a request of its own; the page itself is served as it is written.

import { copyFile, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const modules = join(here, "node_modules");
const vendor = join(here, "..", "..", "bgpy", "gateway", "page", "vendor");

// Return the name of the npm package that a bundled file belongs to.
function packageOf(path) {
  const parts = path.split("node_modules/").pop().split("/");
  return parts[0].startsWith("@") ? parts.slice(0, 2).join("/") : parts[0];
}

async function licence(name) {
  const folder = join(modules, name);
  const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf-8"));
  const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
  if (!file) {
    throw new Error(`${name} has no licence file`);
  }
  return `${name} ${version} (${license})\n\n${(await readFile(join(folder, file), "utf-8")).trim()}\n`;
}

async function bundle(entry, name) {
  const result = await build({
    entryPoints: [entry],
    absWorkingDir: here,
    nodePaths: [modules],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    charset: "utf8",
    legalComments: "none",
    metafile: true,
    outfile: join(vendor, `${name}.js`),
  });
  const names = new Set(
    Object.keys(result.metafile.inputs)
      .filter((path) => path.includes("node_modules/"))
      .map(packageOf),
  );
  const texts = await Promise.all([...names].sort().map(licence));
  await writeFile(join(vendor, `${name}.LICENSE.txt`), texts.join(`\n${"-".repeat(72)}\n\n`));
}

await mkdir(vendor, { recursive: true });
await bundle("codemirror.js", "codemirror");
await bundle(join(modules, "uplot", "dist", "uPlot.esm.js"), "uplot");
await copyFile(join(modules, "uplot", "dist", "uPlot.min.css"), join(vendor, "uplot.css"));
