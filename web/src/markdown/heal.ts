/** Markdown that is still being written: what is half there is closed or held back until it is whole, so that the
 * reader does not see `**` turn into bold, a link's address appear and vanish, or a paragraph become a heading. */

const HELD_MATH = 4000;

/** The text as it may be shown now. Of a text that has ended nothing should be held back: do not heal that. */
export function heal(text: string): string {
  const fence = openFence(text);
  if (fence !== null) {
    // The first marks of the closing fence would be shown as code.
    return text.replace(/\n {0,3}(?:`{1,2}|~{1,2})$/, "");
  }
  const start = lastBlockStart(text);
  return text.slice(0, start) + healTail(holdMath(text.slice(start)));
}

/** The marks of a code fence that is still open at the end; null when there is none. */
function openFence(text: string): string | null {
  let open: string | null = null;
  for (const match of text.matchAll(/^ {0,3}(?:(?:[-*+]|\d+\.)\s+)?\s*(`{3,}|~{3,})(.*)$/gm)) {
    const [, marks = "", rest = ""] = match;
    if (open === null) open = marks;
    else if (marks[0] === open[0] && marks.length >= open.length && !rest.trim()) open = null;
  }
  return open;
}

function lastBlockStart(text: string): number {
  const blank = /\n[ \t]*\n(?=[^\n]*\S)/g;
  let start = 0;
  for (let match = blank.exec(text); match; match = blank.exec(text)) start = match.index + match[0].length;
  // A display may hold blank lines.
  const display = Math.max(text.lastIndexOf("\\["), openDollars(text));
  return display >= 0 && display < start && !text.slice(display).includes("\\]") ? display : start;
}

function openDollars(text: string): number {
  const places = Array.from(text.matchAll(/\$\$/g), (match) => match.index);
  return places.length % 2 ? (places.at(-1) ?? -1) : -1;
}

function holdMath(tail: string): string {
  const plain = tail.replace(/`[^`\n]*`/g, (code) => " ".repeat(code.length));
  for (const [open, close] of [["\\[", "\\]"], ["\\(", "\\)"]] as const) {
    const at = plain.lastIndexOf(open);
    if (at >= 0 && !plain.includes(close, at) && tail.length - at < HELD_MATH) return tail.slice(0, at);
  }
  const at = openDollars(plain);
  return at >= 0 && tail.length - at < HELD_MATH ? tail.slice(0, at) : tail;
}

function healTail(tail: string): string {
  if (/^\|/.test(tail) && !/^\|.*\n *\|?[ :|-]*-[ :|-]*\n/.test(tail)) return ""; // a table before its second line is whole
  // A last line of marks alone may become a rule, a heading's underline, a list's next item.
  const text = tail.replace(/(^|\n)[ \t]*(?:[-=*_#>+|`~]{1,3}|\d{1,3}[.)]?)[ \t]*$/, "");
  const ticks = text.replace(/\\`/g, "").match(/`+/g) ?? [];
  const last = ticks.at(-1);
  if (last && ticks.filter((marks) => marks === last).length % 2) {
    return text.endsWith(last) ? text.slice(0, -last.length) : text + last;
  }
  return closeEmphasis(holdLink(text));
}

function holdLink(text: string): string {
  const match = /!?\[([^\][\n]*)(?:\](?:\([^()\n]*)?)?$/.exec(text);
  return match ? text.slice(0, match.index) + (match[0].startsWith("!") ? "" : match[1]) : text;
}

function closeEmphasis(text: string): string {
  const plain = text.replace(/`[^`]*`|\\[*_~]|\$[^$\n]*\$/g, (skipped) => " ".repeat(skipped.length)).replace(/^[ \t]*\* /gm, "  ");
  let closed = text;
  for (const marks of ["**", "__", "~~"]) {
    if ((plain.split(marks).length - 1) % 2) closed = closeOne(closed, marks);
  }
  if (closed !== text && /(?<!\*)\*$/.test(text)) return closed; // that star was half of the closing marks
  const single = plain.replace(/\*\*/g, "  ").match(/\*/g) ?? [];
  return single.length % 2 && !/(^|\s)\*\s/.test(plain) ? closeOne(closed, "*") : closed;
}

function closeOne(text: string, marks: string): string {
  if (text.endsWith(marks)) return text.slice(0, -marks.length);
  // The first half of the closing marks may be there.
  const begun = marks.length === 2 && text.endsWith(marks.slice(0, 1)) ? text.slice(0, -1) : text;
  const spaces = /\s*$/.exec(begun)?.[0] ?? "";
  return begun.slice(0, begun.length - spaces.length) + marks;
}
