// Builds the page into the Python package. What comes out depends on the sources and the lock file alone: no times, no
// paths, file names by content.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

const HERE = import.meta.dirname;
const PAGE = join(HERE, "../src/pronk/server/page");
const SOURCES = ["src", "index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"];

function files(path: string): string[] {
  if (!statSync(join(HERE, path)).isDirectory()) return [path];
  return readdirSync(join(HERE, path)).flatMap((name) => files(`${path}/${name}`));
}

/** SHA-256 over the sources, sorted by path; tests/server/test_web_bundle.py computes the same. */
function sourcesDigest(): string {
  const digest = createHash("sha256");
  for (const path of SOURCES.flatMap(files).sort()) {
    digest.update(`${path}\n${createHash("sha256").update(readFileSync(join(HERE, path))).digest("hex")}\n`);
  }
  return digest.digest("hex");
}

function built(folder: string): Record<string, string> {
  const names = ["index.html", ...readdirSync(join(folder, "assets")).map((name) => `assets/${name}`)].sort();
  return Object.fromEntries(
    names.map((name) => [name, createHash("sha256").update(readFileSync(join(folder, name))).digest("hex")]),
  );
}

/** page/build.json says which sources the page was built from and what came out. */
function buildRecord(): Plugin {
  return {
    name: "build-record",
    apply: "build",
    buildStart: () => rmSync(PAGE, { recursive: true, force: true }),
    closeBundle() {
      const record = { sources: sourcesDigest(), files: built(PAGE) };
      writeFileSync(join(PAGE, "build.json"), JSON.stringify(record, null, 1) + "\n");
    },
  };
}

/** The theme is set before the first paint: a small script of its own, since the page's modules come after it. */
function earlyTheme(): Plugin {
  const source = readFileSync(join(HERE, "src/theme.js"), "utf8").replace(/^\/\/.*\n/gm, "");
  const name = `assets/theme-${createHash("sha256").update(source).digest("hex").slice(0, 8)}.js`;
  return {
    name: "early-theme",
    generateBundle() {
      this.emitFile({ type: "asset", fileName: name, source });
    },
    transformIndexHtml: (_html, context) =>
      context.server ? [] : [{ tag: "script", attrs: { src: `./${name}` }, injectTo: "head-prepend" as const }],
  };
}

/** Every browser that runs the page reads woff2; the other two forms of each font stay out. */
function onlyWoff2(): Plugin {
  return {
    name: "only-woff2",
    enforce: "pre",
    transform(code, id) {
      if (!id.includes("katex") || !id.split("?")[0]?.endsWith(".css")) return null;
      return code.replace(/,\s*url\([^)]*\.(?:woff|ttf)\)\s*format\(["'](?:woff|truetype)["']\)/g, "");
    },
  };
}

/** What the licences of the bundled packages ask for: their notices, beside the code. */
function notices(): string {
  const packages = ["@preact/signals", "@preact/signals-core", "dompurify", "highlight.js", "katex", "marked", "preact"];
  const texts = packages.map((name) => {
    const folder = join(HERE, "node_modules", name);
    const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version: string };
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    if (!file) throw new Error(`${name} has no licence file`);
    return `${name} ${version}\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
  });
  return texts.join(`\n${"-".repeat(80)}\n\n`);
}

const NOTICES = notices();
const LICENCES = `assets/licences-${createHash("sha256").update(NOTICES).digest("hex").slice(0, 8)}.txt`;

function licences(): Plugin {
  return {
    name: "licences",
    generateBundle() {
      this.emitFile({ type: "asset", fileName: LICENCES, source: NOTICES });
    },
  };
}

export default defineConfig({
  base: "./",
  define: { __LICENCES__: JSON.stringify(LICENCES) },
  plugins: [earlyTheme(), onlyWoff2(), licences(), buildRecord()],
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: PAGE,
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    reportCompressedSize: false,
    chunkSizeWarningLimit: 700,
  },
});
