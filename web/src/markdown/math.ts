/** Mathematics: $...$ and \(...\) within a line, $$...$$ and \[...\] as a display, for marked; KaTeX, loaded when the
 * first formula comes.
 *
 * KaTeX builds elements and sets their style through the DOM, which the page's Content-Security-Policy allows; HTML
 * with style attributes it would not. So formulas go through the sanitizer as text and are drawn afterwards. */

import { signal } from "@preact/signals";
import type { Tokens, TokenizerAndRendererExtension } from "marked";
import { escapeHtml } from "./escape";

type Katex = typeof import("katex").default;

/** null until it is loaded; who shows formulas reads it and is drawn again. */
export const katex = signal<Katex | null>(null);
let loading: Promise<void> | null = null;

export function loadKatex(): void {
  loading ??= Promise.all([import("katex"), import("katex/dist/katex.min.css")]).then(
    ([module]) => void (katex.value = module.default),
    () => void (loading = null),
  );
}

interface MathToken extends Tokens.Generic {
  tex: string;
  display: boolean;
}

function render(token: Tokens.Generic): string {
  const { tex, display } = token as MathToken;
  const open = display ? `<div class="math display"` : `<span class="math"`;
  return `${open} data-tex="${escapeHtml(tex)}">${escapeHtml(tex)}${display ? "</div>" : "</span>"}`;
}

const DISPLAY = /^ {0,3}(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n+|$)/;
// As Pandoc has it: no space after the opening dollar nor before the closing one, and no digit after that, so that
// prices stay prices.
const INLINE = /^(?:\$\$([^$]+?)\$\$|\$(?![\s$])((?:\\.|[^$\\\n])+?)(?<!\s)\$(?!\d)|\\\(([\s\S]+?)\\\)|\\\[([\s\S]+?)\\\])/;

export const displayMath: TokenizerAndRendererExtension = {
  name: "displayMath",
  level: "block",
  start: (source) => source.match(/(?:^|\n) {0,3}(?:\$\$|\\\[)/)?.index,
  tokenizer(source) {
    const match = DISPLAY.exec(source);
    if (!match) return undefined;
    return { type: "displayMath", raw: match[0], tex: (match[1] ?? match[2] ?? "").trim(), display: true };
  },
  renderer: render,
};

export const inlineMath: TokenizerAndRendererExtension = {
  name: "inlineMath",
  level: "inline",
  start: (source) => source.match(/\$|\\[([]/)?.index,
  tokenizer(source) {
    const match = INLINE.exec(source);
    if (!match) return undefined;
    const tex = match[1] ?? match[2] ?? match[3] ?? match[4] ?? "";
    return { type: "inlineMath", raw: match[0], tex: tex.trim(), display: false };
  },
  renderer: render,
};

/** Draws the formulas below an element; what KaTeX does not understand stays as its source. */
export function drawMath(root: DocumentFragment): void {
  const places = root.querySelectorAll<HTMLElement>(".math[data-tex]");
  if (!places.length) return;
  const tool = katex.value;
  if (!tool) return loadKatex();
  for (const place of places) {
    const tex = place.dataset["tex"] ?? "";
    try {
      const drawn = document.createElement("span");
      tool.render(tex, drawn, {
        displayMode: place.classList.contains("display"),
        output: "html",
        throwOnError: true,
        strict: "ignore",
        trust: false,
        maxExpand: 200,
        maxSize: 20,
      });
      place.replaceChildren(...drawn.childNodes);
      place.setAttribute("role", "math");
      place.setAttribute("aria-label", tex);
    } catch {
      place.classList.add("undrawn");
    }
  }
}
