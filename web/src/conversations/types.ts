/** What is kept of a conversation. A conversation is a tree: each turn hangs below the one that it answers, and
 * `chosen` says which of several children is shown. */

export type Role = "user" | "assistant" | "tool";

export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** JSON text, as the model gave it. */
  readonly arguments: string;
}

/** Why an answer ended. The first four are the server's; "stopped": by the user; "dropped": the connection was lost,
 * or the page was closed; "failed": the server answered with an error. */
export type End = "stop" | "length" | "tool_calls" | "content_filter" | "stopped" | "dropped" | "failed";

export interface Failure {
  /** HTTP's status; 0 when no answer came at all. */
  readonly status: number;
  readonly message: string;
}

export interface Stats {
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly cachedTokens?: number;
  readonly promptPerSecond?: number;
  readonly decodePerSecond?: number;
  readonly firstTokenSeconds?: number;
}

export interface Turn {
  readonly id: string;
  readonly parent: string | null;
  readonly role: Role;
  readonly text: string;
  /** Milliseconds since 1970. */
  readonly created: number;
  readonly calls?: readonly ToolCall[];
  /** Of a tool's result: the call that it answers. */
  readonly callId?: string;
  readonly model?: string;
  readonly end?: End;
  readonly failure?: Failure;
  readonly stats?: Stats;
}

/** An absent number leaves the choice to the model. */
export interface Settings {
  readonly system: string;
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly minP?: number;
  readonly maxTokens?: number;
  readonly seed?: number;
  readonly stop: readonly string[];
  /** A JSON list of functions in OpenAI's form, as text; "" for none. */
  readonly tools: string;
}

export interface Conversation {
  readonly id: string;
  readonly title: string;
  /** Whether the user chose the title. */
  readonly named: boolean;
  readonly created: number;
  readonly updated: number;
  readonly model?: string;
  readonly settings: Settings;
  /** In the order of their making. */
  readonly turns: readonly Turn[];
  /** Parent's id ("" above the first turn) -> the child that is shown. */
  readonly chosen: Readonly<Record<string, string>>;
}

export const NO_SETTINGS: Settings = { system: "", stop: [], tools: "" };

export function newId(): string {
  // crypto.randomUUID is missing on http:// pages other than localhost.
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function newConversation(settings: Settings = NO_SETTINGS, now = Date.now()): Conversation {
  return { id: newId(), title: "", named: false, created: now, updated: now, settings, turns: [], chosen: {} };
}
