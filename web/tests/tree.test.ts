import { expect, test } from "vitest";
import { add, end, find, path, remove, siblings, titleFrom, turnTo } from "../src/conversations/tree";
import { branched, talk, turn } from "./samples";

const ids = (turns: readonly { id: string }[]) => turns.map(({ id }) => id);

test("a new branch is shown, and the old one comes back with all that was below it", () => {
  const conversation = branched();
  expect(ids(path(conversation))).toEqual(["q1", "a1b"]);
  const back = turnTo(conversation, find(conversation, "a1b")!, -1);
  expect(ids(path(back))).toEqual(["q1", "a1", "q2", "a2"]);
  expect(ids(path(conversation))).toEqual(["q1", "a1b"]); // the argument is as it was
});

test("an edited first question is a branch too", () => {
  const conversation = add(branched(), turn("q1b", null, "user"));
  expect(ids(path(conversation))).toEqual(["q1b"]);
  expect(ids(siblings(conversation, find(conversation, "q1b")!))).toEqual(["q1", "q1b"]);
});

test("beyond the last branch nothing changes", () => {
  const conversation = branched();
  expect(turnTo(conversation, find(conversation, "a1b")!, 1)).toBe(conversation);
});

test("removing a turn takes what is below it, and shows the branch that is left", () => {
  const conversation = branched();
  expect(ids(path(remove(conversation, "a1b")))).toEqual(["q1", "a1", "q2", "a2"]);
  expect(ids(remove(conversation, "a1").turns)).toEqual(["q1", "a1b"]);
});

test("how a turn ended replaces how it ended before", () => {
  const failed = end(talk(turn("q", null, "user"), turn("a", "q", "assistant")), "a", { end: "failed", failure: { status: 500, message: "no" } });
  const mended = find(end(failed, "a", { end: "stop", text: "yes" }), "a");
  expect(mended).toMatchObject({ end: "stop", text: "yes" });
  expect(mended).not.toHaveProperty("failure");
});

test("a path that does not end, as a hostile file may have it, is cut", () => {
  const looped = talk(turn("x", "y", "user"), turn("y", "x", "assistant"), turn("q", null, "user"));
  expect(ids(path(looped))).toEqual(["q"]);
});

test.each([
  ["  Hello\nmore", "Hello"],
  ["word ".repeat(30), `${"word ".repeat(12).trim()}…`],
  ["羊".repeat(70), `${"羊".repeat(60)}…`],
  ["🦙".repeat(70), `${"🦙".repeat(60)}…`],
])("the title of %j", (text, title) => {
  expect(titleFrom(text)).toBe(title);
});
