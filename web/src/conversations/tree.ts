/** The branches of a conversation. Every function leaves its argument as it is and returns a new conversation. */

import type { Conversation, Turn } from "./types";

const TITLE_LENGTH = 60;

function childrenByParent(conversation: Conversation): Map<string, Turn[]> {
  const children = new Map<string, Turn[]>();
  for (const turn of conversation.turns) {
    const siblings = children.get(turn.parent ?? "");
    if (siblings) siblings.push(turn);
    else children.set(turn.parent ?? "", [turn]);
  }
  return children;
}

/** The turns that are shown, first to last: at each fork the chosen child, or the newest where none was chosen. */
export function path(conversation: Conversation): Turn[] {
  const children = childrenByParent(conversation);
  const shown: Turn[] = [];
  for (let parent = ""; ; ) {
    const candidates = children.get(parent);
    if (!candidates) return shown;
    const chosen = candidates.find((turn) => turn.id === conversation.chosen[parent]) ?? candidates.at(-1);
    if (!chosen || shown.length > conversation.turns.length) return shown;
    shown.push(chosen);
    parent = chosen.id;
  }
}

/** The turn and those that stand in its place on other branches, oldest first. */
export function siblings(conversation: Conversation, turn: Turn): Turn[] {
  return conversation.turns.filter((other) => other.parent === turn.parent);
}

export function find(conversation: Conversation, id: string): Turn | undefined {
  return conversation.turns.find((turn) => turn.id === id);
}

/** Adds a turn and shows it. */
export function add(conversation: Conversation, turn: Turn): Conversation {
  return {
    ...conversation,
    updated: Math.max(conversation.updated, turn.created),
    turns: [...conversation.turns, turn],
    chosen: { ...conversation.chosen, [turn.parent ?? ""]: turn.id },
  };
}

/** Shows the turn `step` places after this one among its siblings; at either end nothing changes. */
export function turnTo(conversation: Conversation, turn: Turn, step: number): Conversation {
  const all = siblings(conversation, turn);
  const other = all[all.findIndex((each) => each.id === turn.id) + step];
  return other ? { ...conversation, chosen: { ...conversation.chosen, [turn.parent ?? ""]: other.id } } : conversation;
}

/** Says how a turn ended, instead of how it ended before. */
export function end(conversation: Conversation, id: string, fields: Partial<Turn>): Conversation {
  const turns = conversation.turns.map((turn) => {
    if (turn.id !== id) return turn;
    const { failure: _failure, stats: _stats, ...rest } = turn;
    return { ...rest, ...fields };
  });
  return { ...conversation, turns };
}

/** Takes a turn out, with all that hangs below it. */
export function remove(conversation: Conversation, id: string): Conversation {
  const gone = new Set([id]);
  for (const turn of conversation.turns) if (turn.parent !== null && gone.has(turn.parent)) gone.add(turn.id);
  const chosen = Object.entries(conversation.chosen).filter(([parent, child]) => !gone.has(parent) && !gone.has(child));
  return {
    ...conversation,
    turns: conversation.turns.filter((turn) => !gone.has(turn.id)),
    chosen: Object.fromEntries(chosen),
  };
}

/** What a conversation is called before anybody names it: the beginning of its first question. */
export function titleFrom(text: string): string {
  const line = text.trim().split(/\s*\n/)[0]?.replace(/\s+/g, " ") ?? "";
  const characters = Array.from(line);
  if (characters.length <= TITLE_LENGTH) return line;
  const cut = characters.slice(0, TITLE_LENGTH).join("");
  return `${cut.replace(/\s+\S{0,15}$/, "")}…`;
}
