/** Markdown to elements. All text here is hostile: HTML in it is shown as text, pictures become links, and what comes
 * out is put through DOMPurify with a list of the few elements and attributes that Markdown needs. */

import DOMPurify from "dompurify";
import { Marked, type Tokens } from "marked";
import { escapeHtml } from "./escape";
import { heal } from "./heal";
import { highlight } from "./highlight";
import { displayMath, drawMath, inlineMath } from "./math";
import { morph } from "./morph";

const marked = new Marked({
  gfm: true,
  breaks: true,
  extensions: [displayMath, inlineMath],
  renderer: {
    html: ({ text }) => escapeHtml(text),
    image: ({ href, text }) => `<a href="${escapeHtml(href)}">${escapeHtml(text || href)}</a>`,
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    code({ text, lang }: Tokens.Code) {
      const language = /^[\w+#.-]{1,24}/.exec(lang ?? "")?.[0] ?? "";
      const code = highlight(text, language.toLowerCase());
      return `<pre data-language="${escapeHtml(language)}"><code>${code}\n</code></pre>`;
    },
    table({ header, rows }: Tokens.Table) {
      const cell = (each: Tokens.TableCell, tag: string) =>
        `<${tag}${each.align ? ` class="${each.align}"` : ""}>${this.parser.parseInline(each.tokens)}</${tag}>`;
      const row = (cells: Tokens.TableCell[], tag: string) => `<tr>${cells.map((each) => cell(each, tag)).join("")}</tr>`;
      const body = rows.map((cells) => row(cells, "td")).join("");
      return `<div class="table"><table><thead>${row(header, "th")}</thead><tbody>${body}</tbody></table></div>`;
    },
  },
});

const purify = DOMPurify(window);
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

const ALLOWED = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "div", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p",
    "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["class", "data-language", "data-tex", "href", "start", "title"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  // The pattern is tried on every attribute's value but these and a few that DOMPurify knows.
  ADD_URI_SAFE_ATTR: ["data-language", "data-tex", "start"],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true as const,
};

/** The blocks of a text (paragraph, list, code, ...) as HTML that is not yet safe, each alone so that one that is done
 * is never touched again. */
export function blocks(text: string, streaming: boolean): string[] {
  const tokens = marked.lexer(streaming ? heal(text) : text);
  return tokens.filter((token) => token.type !== "space" && token.type !== "def").map((token) => marked.parser([token]));
}

/** Safe elements of one block's HTML. */
export function safe(html: string): DocumentFragment {
  return purify.sanitize(html, ALLOWED);
}

export interface Labels {
  readonly copy: string;
}

function addCopyButtons(fragment: DocumentFragment, labels: Labels): void {
  for (const pre of fragment.querySelectorAll("pre")) {
    const frame = document.createElement("div");
    frame.className = "code";
    const head = document.createElement("div");
    head.className = "code-head";
    const language = document.createElement("span");
    language.textContent = pre.dataset["language"] ?? "";
    const button = document.createElement("button");
    button.type = "button";
    button.dataset["copy"] = "";
    button.textContent = labels.copy;
    head.append(language, button);
    pre.tabIndex = 0; // it scrolls sideways, and a keyboard must reach it
    pre.replaceWith(frame);
    frame.append(head, pre);
  }
}

const shown = new WeakMap<HTMLElement, string[]>();

/** Shows a text in an element, one child a block; blocks that have not changed keep their elements. `redraw`: also
 * those that have not (KaTeX has come, or the language changed). */
export function show(target: HTMLElement, text: string, streaming: boolean, labels: Labels, redraw = false): void {
  const next = blocks(text, streaming);
  const before = redraw ? [] : (shown.get(target) ?? []);
  for (const [index, html] of next.entries()) {
    if (before[index] === html) continue;
    const fragment = safe(html);
    addCopyButtons(fragment, labels);
    drawMath(fragment);
    let block = target.children[index];
    if (!block) {
      block = document.createElement("div");
      block.className = "block";
      target.append(block);
    }
    morph(block, fragment);
  }
  while (target.children.length > next.length) target.lastElementChild?.remove();
  shown.set(target, next);
}
