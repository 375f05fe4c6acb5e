import { expect, test } from "vitest";
import { preferredLanguage, TEXTS } from "../src/texts";

test.each([
  [["zh-Hans-CN", "en"], "zh"],
  [["de-DE", "zh-TW", "en"], "zh"],
  [["en-GB", "zh"], "en"],
  [["fr"], "en"],
  [[], "en"],
] as const)("%j reads %s", (languages, language) => {
  expect(preferredLanguage(languages)).toBe(language);
});

test("Chinese texts are Chinese", () => {
  const same = Object.keys(TEXTS.en).filter((name) => {
    const [en, zh] = [TEXTS.en, TEXTS.zh].map((texts) => texts[name as keyof typeof texts]);
    return typeof en === "string" && en === zh;
  });
  expect(same.sort()).toEqual(["minP", "topK", "topP"]); // terms that are the same in both
});
