/** Answers that are being written. What has come of one is a signal of its own, so that a word more draws one turn and
 * not the page; it goes into the conversation now and then, and when it ends. */

import { signal, type Signal } from "@preact/signals";
import * as tree from "./conversations/tree";
import type { Conversation, End, Stats, ToolCall, Turn } from "./conversations/types";
import { apiKey } from "./preferences";
import { addCalls, chat, chatBody, Dropped, ServerError } from "./server/client";
import { askForKey, change, conversations, reachable } from "./session";

export interface Live {
  readonly text: string;
  readonly calls: readonly ToolCall[];
}

interface Writing {
  readonly turn: string;
  readonly live: Signal<Live>;
  readonly abort: AbortController;
}

/** How often what has come is shown, and kept. Milliseconds. */
const SHOW_EVERY = 40;
const KEEP_EVERY = 2000;

/** By conversation: each may have one answer under way. */
const writings = signal<ReadonlyMap<string, Writing>>(new Map());

export function isWriting(conversation: string): boolean {
  return writings.value.has(conversation);
}

/** What has come of a turn so far, if it is being written now. */
export function liveTurn(conversation: string, turn: string): Signal<Live> | undefined {
  const writing = writings.value.get(conversation);
  return writing?.turn === turn ? writing.live : undefined;
}

export function stopWriting(conversation: string): void {
  writings.peek().get(conversation)?.abort.abort();
  settle.get(conversation)?.("stopped");
}

/** Ends a conversation's answer at once, in the caller's step. */
const settle = new Map<string, (end: End) => void>();

/** Lets the model write a turn that is there already: from nothing, or (`continues`) behind what it says. */
export function answer(conversation: string, id: string, continues: boolean): void {
  const start = conversations.value.find((each) => each.id === conversation);
  const turn = start && tree.find(start, id);
  if (!start || !turn) return;
  const begun: Live = continues ? { text: turn.text, calls: turn.calls ?? [] } : { text: "", calls: [] };
  const writing: Writing = { turn: id, live: signal(begun), abort: new AbortController() };
  writings.value = new Map(writings.value).set(conversation, writing);
  void write(start, turn, writing, begun, continues);
}

async function write(start: Conversation, turn: Turn, writing: Writing, begun: Live, continues: boolean): Promise<void> {
  let came = begun;
  let stats: Stats | undefined;
  let end: End = "stop";
  let timer: ReturnType<typeof setTimeout> | undefined;
  let kept = Date.now();
  let over = false;

  const show = () => {
    timer = undefined;
    writing.live.value = came;
    if (Date.now() - kept < KEEP_EVERY) return;
    kept = Date.now();
    put({ end: "dropped" }); // if the page is closed now, this is what is found
  };
  const put = (fields: Partial<Turn>) => {
    const said = { text: came.text, ...(came.calls.length ? { calls: came.calls } : {}) };
    change(start.id, (now) => tree.end(now, turn.id, { ...said, ...fields }));
  };
  const finish = (fields: Partial<Turn>) => {
    if (over) return;
    over = true;
    clearTimeout(timer);
    settle.delete(start.id);
    put({ ...fields, ...(stats ? { stats } : {}) });
    const left = new Map(writings.peek());
    left.delete(start.id);
    writings.value = left;
  };
  settle.set(start.id, (why) => finish({ end: why }));

  try {
    const shown = tree.path(start);
    const upTo = shown.slice(0, shown.findIndex(({ id }) => id === turn.id) + (continues ? 1 : 0));
    const body = chatBody(turn.model ?? start.model ?? "", start.settings, upTo, continues);
    for await (const delta of chat(body, apiKey.value, writing.abort.signal)) {
      if (over) return;
      if (delta.text || delta.calls) came = { text: came.text + (delta.text ?? ""), calls: addCalls(came.calls, delta.calls ?? []) };
      end = delta.end ?? end;
      stats = delta.stats ?? stats;
      timer ??= setTimeout(show, SHOW_EVERY);
    }
    reachable.value = true;
    finish({ end });
  } catch (error) {
    finish(asEnd(error));
  }
}

function asEnd(error: unknown): Partial<Turn> {
  if (error instanceof Dropped) return { end: "dropped" };
  if (error instanceof ServerError) {
    if (error.status === 401) askForKey();
    if (error.status === 0) reachable.value = false;
    return { end: "failed", failure: { status: error.status, message: error.message } };
  }
  if (error instanceof DOMException && error.name === "AbortError") return { end: "stopped" };
  return { end: "failed", failure: { status: 0, message: error instanceof Error ? error.message : String(error) } };
}
