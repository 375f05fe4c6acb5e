import { add } from "../src/conversations/tree";
import { NO_SETTINGS, type Conversation, type Role, type Turn } from "../src/conversations/types";

let clock = 0;

export function turn(id: string, parent: string | null, role: Role, text = id): Turn {
  return { id, parent, role, text, created: ++clock, ...(role === "assistant" ? { model: "cria", end: "stop" as const } : {}) };
}

export function talk(...turns: Turn[]): Conversation {
  const empty: Conversation = { id: "c", title: "Talk", named: false, created: 1, updated: 1, settings: NO_SETTINGS, turns: [], chosen: {} };
  return turns.reduce(add, empty);
}

/** A question answered twice; below the first answer the talk went on. */
export function branched(): Conversation {
  return talk(
    turn("q1", null, "user"), turn("a1", "q1", "assistant"), turn("q2", "a1", "user"), turn("a2", "q2", "assistant"),
    turn("a1b", "q1", "assistant"),
  );
}
