/** Where conversations are kept: IndexedDB, one record each, so that two tabs with two conversations do not disturb
 * each other; in memory where the browser forbids storage (`persistent` is false then, and the page says so). */

import type { Conversation } from "./types";

export interface Store {
  readonly persistent: boolean;
  all(): Promise<Conversation[]>;
  put(conversation: Conversation): Promise<void>;
  delete(id: string): Promise<void>;
}

const DATABASE = "pronk";
const TABLE = "conversations";

export async function openStore(factory: IDBFactory | undefined = globalThis.indexedDB): Promise<Store> {
  try {
    if (!factory) return memoryStore();
    const opening = factory.open(DATABASE, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(TABLE, { keyPath: "id" });
    return indexedStore(await done(opening));
  } catch {
    return memoryStore();
  }
}

function indexedStore(database: IDBDatabase): Store {
  const table = (mode: IDBTransactionMode) => database.transaction(TABLE, mode).objectStore(TABLE);
  return {
    persistent: true,
    all: () => done(table("readonly").getAll() as IDBRequest<Conversation[]>),
    put: async (conversation) => void (await done(table("readwrite").put(conversation))),
    delete: async (id) => void (await done(table("readwrite").delete(id))),
  };
}

export function memoryStore(): Store {
  const kept = new Map<string, Conversation>();
  return {
    persistent: false,
    all: async () => [...kept.values()],
    put: async (conversation) => void kept.set(conversation.id, conversation),
    delete: async (id) => void kept.delete(id),
  };
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("IndexedDB refused"));
  });
}
