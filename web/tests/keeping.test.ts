import { IDBFactory } from "fake-indexeddb";
import { expect, test } from "vitest";
import { search } from "../src/conversations/search";
import { openStore } from "../src/conversations/store";
import { fileName, fromJson, toJson, toMarkdown } from "../src/conversations/transfer";
import type { Conversation } from "../src/conversations/types";
import { branched, talk, turn } from "./samples";

const NAMES = { user: "You", assistant: "cria", system: "System", call: "Asks for", result: "Result" };

test("what is put is there when the store is opened again, and what is deleted is not", async () => {
  const factory = new IDBFactory();
  const store = await openStore(factory);
  const conversation = branched();
  await store.put(conversation);
  await store.put({ ...conversation, id: "other" });
  await store.delete("other");
  expect(await (await openStore(factory)).all()).toEqual([conversation]);
  expect(store.persistent).toBe(true);
});

test("where the browser forbids storage, conversations hold as long as the page", async () => {
  const forbidden = { open: () => { throw new DOMException("no", "SecurityError"); } } as unknown as IDBFactory;
  const store = await openStore(forbidden);
  await store.put(branched());
  expect(store.persistent).toBe(false);
  expect(await store.all()).toHaveLength(1);
});

test("an exported conversation comes back as it was, under a new id", () => {
  const original: Conversation = {
    ...branched(), settings: { system: "Be brief.", temperature: 0, stop: ["END"], tools: "[]" },
    turns: [...branched().turns, { ...turn("t", "a2", "tool"), callId: "c1" }],
  };
  const [back] = fromJson(toJson([original]));
  expect(back).toEqual({ ...original, id: back?.id });
  expect(back?.id).not.toBe(original.id);
});

test.each([
  ["{", "not JSON"],
  ["[]", "file is not an object"],
  ['{"format": "other"}', "format is"],
  [JSON.stringify({ format: "pronk-conversations", version: 2 }), "version is 2"],
  [toJson([{ ...branched(), title: 3 } as unknown as Conversation]), "conversations[0].title"],
  [toJson([talk(turn("a", "nowhere", "user"))]), "parent is no earlier turn"],
  [toJson([talk(turn("a", null, "user"), turn("a", null, "user"))]), "is there twice"],
  [toJson([talk({ ...turn("a", null, "user"), role: "system" as never })]), "role is not"],
  [toJson([talk({ ...turn("a", null, "user"), end: "<img>" as never })]), "end is not known"],
])("a file that is not ours is refused: %#", (text, message) => {
  expect(() => fromJson(text)).toThrow(message);
});

test("Markdown has the branch that is shown, calls in fences that hold", () => {
  const call = { id: "c1", name: "f", arguments: "{}" };
  const text = toMarkdown(
    talk(turn("q", null, "user", "Ask"), { ...turn("a", "q", "assistant", ""), calls: [call] }, { ...turn("r", "a", "tool", "```\nx"), callId: "c1" }),
    NAMES,
  );
  expect(text).toBe("# Talk\n\n## You\n\nAsk\n\n## cria\n\n**Asks for** `f`\n\n```json\n{}\n```\n\n**Result**\n\n````\n```\nx\n````\n");
});

test.each([["a/b:c?", "a b c.md"], ["..", "pronk.md"], ["羊驼", "羊驼.md"]])("the file of %j", (title, name) => {
  expect(fileName(title, "md")).toBe(name);
});

test("search wants every word, in title or text, whatever the case, and shows where", () => {
  const story = { ...talk(turn("q", null, "user", "Tell me of a RED kettle"), turn("a", "q", "assistant", "Once upon a time")), title: "Pip" };
  const sums = { ...talk(turn("q", null, "user", "１＋２")), title: "Sums" };
  const hits = (query: string) => search([story, sums], query).map(({ conversation }) => conversation.title);
  expect(hits("red pip")).toEqual(["Pip"]);
  expect(hits("1+2")).toEqual(["Sums"]);
  expect(hits("red sums")).toEqual([]);
  expect(hits(" ")).toEqual(["Pip", "Sums"]);
  expect(search([story], "kettle")[0]?.excerpt).toContain("RED kettle");
});
