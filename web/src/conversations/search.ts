/** Search over titles and texts. Every word must occur somewhere in the conversation, in any case and width. */

import type { Conversation } from "./types";

const AROUND = 40;

export interface Hit {
  readonly conversation: Conversation;
  /** Where a text matched: some words around the first match. */
  readonly excerpt?: string;
}

function fold(text: string): string {
  return text.normalize("NFKC").toLocaleLowerCase();
}

export function search(conversations: readonly Conversation[], query: string): Hit[] {
  const words = fold(query).split(/\s+/).filter(Boolean);
  if (!words.length) return conversations.map((conversation) => ({ conversation }));
  return conversations.flatMap((conversation) => {
    const texts = [conversation.title, ...conversation.turns.map((turn) => turn.text)];
    const all = fold(texts.join("\n"));
    if (!words.every((word) => all.includes(word))) return [];
    const found = excerpt(texts.slice(1), words);
    return [found === undefined ? { conversation } : { conversation, excerpt: found }];
  });
}

function excerpt(texts: readonly string[], words: readonly string[]): string | undefined {
  for (const text of texts) {
    const folded = fold(text);
    const first = Math.min(...words.map((word) => folded.indexOf(word)).filter((at) => at >= 0));
    if (!Number.isFinite(first)) continue;
    // Folding may change a text's length a little; an excerpt may then begin a little beside the match.
    const from = Math.max(0, first - AROUND);
    const piece = text.slice(from, first + 2 * AROUND).replace(/\s+/g, " ").trim();
    return `${from > 0 ? "…" : ""}${piece}${first + 2 * AROUND < text.length ? "…" : ""}`;
  }
  return undefined;
}
