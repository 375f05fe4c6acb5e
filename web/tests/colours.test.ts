import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

const css = readFileSync("src/styles/base.css", "utf8");

/** The colours of a theme: those of :root, and what a later rule says instead. */
function colours(rule: RegExp): Record<string, string> {
  const bodies = [/:root \{([^}]*)\}/, rule].map((each) => each.exec(css)?.[1] ?? "");
  return Object.fromEntries(Array.from(bodies.join("").matchAll(/--([\w-]+): (#[0-9a-f]{6});/g), ([, name, value]) => [name, value]));
}

// WCAG 2.2, relative luminance and contrast ratio.
function luminance(colour: string): number {
  const [red = 0, green = 0, blue = 0] = [1, 3, 5]
    .map((at) => parseInt(colour.slice(at, at + 2), 16) / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(one: string, other: string): number {
  const [low = 0, high = 0] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

const THEMES = { light: /:root \{([^}]*)\}/, dark: /:root\[data-theme="dark"\] \{([^}]*)\}/, "dark by the system": /:root:not\([^)]*\) \{([^}]*)\}/ };
const GROUNDS = ["paper", "wool", "raised", "tint"];
const PAIRS = [
  ...["ink", "soft", "red"].flatMap((text) => GROUNDS.map((ground) => [text, ground] as const)),
  ...["word", "text", "number", "name", "type", "note"].map((part) => [`code-${part}`, "code"] as const),
  ["ink", "code"] as const, ["on-red", "red"] as const, ["on-red", "red-hover"] as const,
];

test.each(Object.entries(THEMES))("texts of the %s theme have the contrast of WCAG AA", (_name, rule) => {
  const theme = colours(rule);
  const faint = PAIRS.filter(([text, ground]) => !(contrast(theme[text] ?? "", theme[ground] ?? "") >= 4.5));
  expect(faint).toEqual([]);
  for (const ground of GROUNDS) expect(contrast(theme["line-strong"] ?? "", theme[ground] ?? "")).toBeGreaterThanOrEqual(3); // of a field's border
});
