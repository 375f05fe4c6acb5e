import { expect, test } from "vitest";
import { heal } from "../src/markdown/heal";
import { morph } from "../src/markdown/morph";
import { blocks, safe, show } from "../src/markdown/render";

const LABELS = { copy: "Copy" };

function shown(text: string, streaming = false): HTMLElement {
  const target = document.createElement("div");
  show(target, text, streaming, LABELS);
  return target;
}

const HOSTILE = [
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "text <b onclick=alert(1)>bold</b> <style>*{display:none}</style>",
  "[click](javascript:alert(1)) [data](data:text/html,<script>alert(1)</script>) [vb](vbscript:x)",
  "[x](JaVaScRiPt&colon;alert(1)) <javascript:alert(1)>",
  "![pixel](https://elsewhere.example/p.gif) ![x](x\"onerror=\"alert(1))",
  "```html\n<script>alert(1)</script>\n```",
  '```"><img/src/onerror=alert(1)>\nx\n```',
  "$\\href{javascript:alert(1)}{x}$ $\\htmlStyle{color:red}{x}$",
  "$$</div><img src=x onerror=alert(1)>$$",
  "<svg><animate onbegin=alert(1) attributeName=x></svg> <math><mtext></mtext></math>",
  "| <img src=x onerror=alert(1)> |\n|---|\n| <iframe src=//x> |",
  '[t](https://a.example "x\\" onmouseover=alert(1)")',
  "<a href='https://x' style='position:fixed;inset:0'>all of it</a>",
  "- [ ] <input autofocus onfocus=alert(1)>",
];

test.each(HOSTILE)("hostile text stays text: %s", (text) => {
  for (const root of [shown(text), shown(text, true)]) {
    expect(root.querySelector("script, img, style, iframe, svg, input, form, object, embed, link, meta, base, template")).toBeNull();
    for (const element of root.querySelectorAll("*")) {
      for (const { name, value } of element.attributes) {
        expect(name).not.toMatch(/^on|^style$|^src|^action|^id$|^name$/);
        if (name === "href") expect(value).toMatch(/^(https?|mailto):/);
      }
    }
  }
});

test("the sanitizer holds without the escaping before it", () => {
  const root = document.createElement("div");
  root.append(safe('<p onclick="x()" style="color:red" id="app"><img src=x><a href="javascript:x()">a</a><a href="/local">b</a></p>'));
  expect(root.innerHTML).toBe('<p><a target="_blank" rel="noopener noreferrer nofollow">a</a><a target="_blank" rel="noopener noreferrer nofollow">b</a></p>');
});

test("links open elsewhere and tell nothing; pictures are links", () => {
  const links = shown("[a](https://a.example) ![b](https://b.example/b.png)").querySelectorAll("a");
  expect(Array.from(links, (link) => [link.href, link.textContent, link.rel])).toEqual([
    ["https://a.example/", "a", "noopener noreferrer nofollow"],
    ["https://b.example/b.png", "b", "noopener noreferrer nofollow"],
  ]);
});

test("code: language, colours, a button", () => {
  const root = shown("```python\nx = 'a<b'\n```");
  expect(root.querySelector(".code-head span")?.textContent).toBe("python");
  expect(root.querySelector("button[data-copy]")?.textContent).toBe("Copy");
  expect(root.querySelector("code")?.textContent).toBe("x = 'a<b'\n");
  expect(root.querySelector(".hljs-string")?.textContent).toBe("'a<b'");
});

test.each([
  ["$x^2$ and \\(y\\)", ["x^2", "y"]],
  ["$$\na\n\nb\n$$", ["a\n\nb"]],
  ["\\[\na = b\n\\]", ["a = b"]],
  ["text \\[a\\] text", ["a"]],
  ["It costs $5 or $10.", []],
  ["`$x$` and \\$y$", []],
  ["```\n$x$\n```", []],
])("mathematics in %j", (text, formulas) => {
  expect(Array.from(shown(text).querySelectorAll(".math"), (place) => place.getAttribute("data-tex"))).toEqual(formulas);
});

test.each([
  ["a **bo", "a **bo**"],
  ["a **bold*", "a **bold**"],
  ["a **", "a "],
  ["a *it", "a *it*"],
  ["2 * 3 * 4", "2 * 3 * 4"],
  ["run `co", "run `co`"],
  ["see [the li", "see the li"],
  ["see [link](https://exa", "see link"],
  ["see ![pic](https://exa", "see "],
  ["Heading\n--", "Heading"],
  ["- one\n-", "- one"],
  ["- one\n* two", "- one\n* two"],
  ["| a | b |", ""],
  ["| a | b |\n|---|", ""],
  ["| a | b |\n|---|---|\n", "| a | b |\n|---|---|\n"],
  ["so $$x^2", "so "],
  ["so \\(x", "so "],
  ["```py\nx = '**a", "```py\nx = '**a"],
  ["```py\nx\n``", "```py\nx"],
  ["whole **a** `b` [c](https://d) $$e$$.", "whole **a** `b` [c](https://d) $$e$$."],
])("while it is written, %j is shown as %j", (text, healed) => {
  expect(heal(text)).toBe(healed);
});

test("an answer that grows ends as the same answer shown at once, and done blocks are not touched", () => {
  const text = "# Title\n\nSome **bold** and `code`.\n\n- one\n- two\n\n```js\nlet x = 1;\n```\n\nThe [end](https://e.example).";
  const target = document.createElement("div");
  let first: Element | null = null;
  for (let length = 1; length <= text.length; length += 3) {
    show(target, text.slice(0, length), true, LABELS);
    if (length > 40) expect(target.querySelector("h1")).toBe((first ??= target.querySelector("h1")));
  }
  show(target, text, false, LABELS);
  expect(target.innerHTML).toBe(shown(text).innerHTML);
});

test("morphing keeps the nodes that fit", () => {
  const have = document.createElement("div");
  const wanted = document.createElement("div");
  have.innerHTML = '<pre class="a"><code>one</code></pre><p>x</p><p>gone</p>';
  wanted.innerHTML = "<pre><code>one two</code></pre><ul><li>y</li></ul>";
  const pre = have.querySelector("pre");
  const html = wanted.innerHTML;
  morph(have, wanted);
  expect(have.innerHTML).toBe(html);
  expect(have.querySelector("pre")).toBe(pre);
});

test("blank text has no blocks", () => {
  expect(blocks(" \n\n", true)).toEqual([]);
});
