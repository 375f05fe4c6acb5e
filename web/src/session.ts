/** The state of the page and what can be done to it. Components read the signals and call the functions. */

import { batch, computed, signal } from "@preact/signals";
import { openStore, type Store } from "./conversations/store";
import * as tree from "./conversations/tree";
import { newConversation, newId, type Conversation, type Settings, type Turn } from "./conversations/types";
import { answer, isWriting, stopWriting } from "./answers";
import { apiKey, keepKey, preferredModel, texts } from "./preferences";
import { models, ServerError } from "./server/client";

export const conversations = signal<readonly Conversation[]>([]);
/** A conversation that is begun and not yet kept: nothing has been said in it. */
const draft = signal<Conversation>(newConversation());
export const currentId = signal<string | null>(null);
export const current = computed(() => conversations.value.find(({ id }) => id === currentId.value) ?? draft.value);
export const shownTurns = computed(() => tree.path(current.value));
export const ready = signal(false);
export const persistent = signal(true);

export const served = signal<readonly string[]>([]);
export const model = computed(() => {
  const wanted = [current.value.model, preferredModel.value];
  return wanted.find((name) => name && served.value.includes(name)) ?? served.value[0] ?? "";
});

/** "none": the dialog is closed; "needed": the server wants a key; "refused": it did not take the one it got. */
export const keyState = signal<"none" | "needed" | "refused">("none");
export const reachable = signal(true);

export interface Notice {
  readonly id: number;
  readonly text: string;
  readonly undo?: () => void;
}
export const notices = signal<readonly Notice[]>([]);
const NOTICE_MS = 10_000;
let noticeNumber = 0;

let store: Store;
const otherTabs = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("pronk.conversations");

// --- beginning ---

export async function begin(): Promise<void> {
  store = await openStore();
  const kept = await store.all();
  batch(() => {
    conversations.value = newestFirst(kept);
    persistent.value = store.persistent;
    ready.value = true;
    openFromAddress();
  });
  addEventListener("hashchange", openFromAddress);
  otherTabs?.addEventListener("message", () => void readAgain());
  await loadModels();
}

/** Another tab changed something; what is being written here is this tab's own. */
async function readAgain(): Promise<void> {
  const own = conversations.value.filter(({ id }) => isWriting(id));
  const others = (await store.all()).filter(({ id }) => !own.some((each) => each.id === id));
  conversations.value = newestFirst([...own, ...others]);
}

export async function loadModels(): Promise<void> {
  try {
    served.value = await models(apiKey.value);
    batch(() => {
      keyState.value = "none";
      reachable.value = true;
    });
  } catch (error) {
    if (error instanceof ServerError && error.status === 401) askForKey();
    else reachable.value = false;
  }
}

export function askForKey(): void {
  keyState.value = apiKey.value ? "refused" : "needed";
}

export async function useKey(key: string): Promise<void> {
  keepKey(key.trim());
  await loadModels();
}

// --- conversations ---

function newestFirst(list: readonly Conversation[]): Conversation[] {
  return [...list].sort((a, b) => b.updated - a.updated);
}

async function keep(conversation: Conversation): Promise<void> {
  try {
    await store.put(conversation);
    otherTabs?.postMessage(conversation.id);
  } catch {
    notify(texts.value.notSaved);
  }
}

/** Puts a conversation's new state in its place, and keeps it. */
export function replace(conversation: Conversation): void {
  const known = conversations.value.some(({ id }) => id === conversation.id);
  if (!known && !conversation.turns.length) {
    draft.value = conversation;
    return;
  }
  batch(() => {
    const others = conversations.value.filter(({ id }) => id !== conversation.id);
    conversations.value = newestFirst([conversation, ...others]);
    if (!known) {
      open(conversation.id);
      draft.value = newConversation();
    }
  });
  void keep(conversation);
}

/** Changes a conversation as it is now; nothing happens if it was deleted meanwhile. */
export function change(id: string, by: (conversation: Conversation) => Conversation): void {
  const now = conversations.value.find((each) => each.id === id) ?? (draft.value.id === id ? draft.value : undefined);
  if (now) replace(by(now));
}

export function open(id: string | null): void {
  currentId.value = id;
  const address = id === null ? location.pathname + location.search : `#${id}`;
  if ((id === null ? "" : `#${id}`) !== location.hash) history.pushState(null, "", address);
}

function openFromAddress(): void {
  const id = location.hash.slice(1);
  currentId.value = conversations.value.some((each) => each.id === id) ? id : null;
}

export function openNew(): void {
  draft.value = newConversation();
  open(null);
}

export function rename(conversation: Conversation, title: string): void {
  const name = title.trim().replace(/\s+/g, " ").slice(0, 200);
  if (name && name !== conversation.title) change(conversation.id, (now) => ({ ...now, title: name, named: true }));
}

export function remove(conversation: Conversation): void {
  stopWriting(conversation.id);
  // What the answer left when it was stopped is part of what an undo brings back.
  const last = conversations.value.find(({ id }) => id === conversation.id) ?? conversation;
  batch(() => {
    conversations.value = conversations.value.filter(({ id }) => id !== last.id);
    if (currentId.value === last.id) open(null);
  });
  void store.delete(last.id).then(() => otherTabs?.postMessage(last.id));
  notify(texts.value.removed(last.title || texts.value.untitled), () => {
    replace(last);
    open(last.id);
  });
}

export function takeIn(imported: readonly Conversation[]): void {
  conversations.value = newestFirst([...conversations.value, ...imported]);
  for (const conversation of imported) void keep(conversation);
  notify(texts.value.imported(imported.length));
}

export function changeSettings(settings: Settings): void {
  change(current.value.id, (now) => ({ ...now, settings }));
}

export function chooseModel(name: string): void {
  preferredModel.value = name;
  change(current.value.id, (now) => ({ ...now, model: name }));
}

// --- turns ---

function turn(fields: Pick<Turn, "parent" | "role" | "text"> & Partial<Turn>): Turn {
  return { id: newId(), created: Date.now(), ...fields };
}

/** Says something at the end of what is shown, and asks for an answer. */
export function say(text: string): void {
  const conversation = current.value;
  if (!text.trim() || isWriting(conversation.id)) return;
  sayBelow(conversation, shownTurns.value.at(-1)?.id ?? null, text);
}

function sayBelow(conversation: Conversation, parent: string | null, text: string): void {
  const said = turn({ parent, role: "user", text });
  const titled = conversation.title ? conversation : { ...conversation, title: tree.titleFrom(text) };
  replace(tree.add(titled, said));
  askBelow(conversation.id, said.id);
}

/** Asks for an answer to a turn, as a new branch if it has one already. */
function askBelow(id: string, parent: string): void {
  const answering = turn({ parent, role: "assistant", text: "", model: model.value });
  change(id, (now) => tree.add(now, answering));
  answer(id, answering.id, false);
}

export function editAndSend(old: Turn, text: string): void {
  const conversation = current.value;
  if (!text.trim() || isWriting(conversation.id)) return;
  if (old.role === "user") sayBelow(conversation, old.parent, text);
  else change(conversation.id, (now) => tree.add(now, turn({ ...old, id: newId(), created: Date.now(), text, end: "stop" })));
}

/** Another answer in this one's place; an answer that failed before it said a word is taken out first. */
export function answerAgain(old: Turn): void {
  const { id } = current.value;
  if (old.parent === null || isWriting(id)) return;
  if (!old.text && !old.calls?.length) change(id, (now) => tree.remove(now, old.id));
  askBelow(id, old.parent);
}

export function goOn(old: Turn): void {
  const { id } = current.value;
  if (!isWriting(id)) answer(id, old.id, true);
}

/** Gives the results of an answer's calls, in their order, and asks how it goes on. */
export function giveResults(asking: Turn, results: readonly string[]): void {
  const { id } = current.value;
  if (isWriting(id)) return;
  let parent = asking.id;
  for (const [index, call] of (asking.calls ?? []).entries()) {
    const result = turn({ parent, role: "tool", text: results[index] ?? "", callId: call.id });
    change(id, (now) => tree.add(now, result));
    parent = result.id;
  }
  askBelow(id, parent);
}

export function turnTo(shown: Turn, step: number): void {
  change(current.value.id, (now) => tree.turnTo(now, shown, step));
}

// --- notices ---

export function notify(text: string, undo?: () => void): void {
  const notice = { id: ++noticeNumber, text, ...(undo ? { undo } : {}) };
  notices.value = [...notices.value.slice(-2), notice];
  setTimeout(() => dismiss(notice.id), NOTICE_MS);
}

export function dismiss(id: number): void {
  notices.value = notices.value.filter((notice) => notice.id !== id);
}
