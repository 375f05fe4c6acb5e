/** What the page asks of the server: the models, and an answer as it is written. */

import type { End, Settings, Stats, ToolCall, Turn } from "../conversations/types";
import { readEvents } from "./sse";

/** The server answered with an error (status), or not at all (status 0). */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly retryAfter?: number,
  ) {
    super(message);
  }
}

/** The connection ended before the answer did. */
export class Dropped extends Error {}

export interface Delta {
  readonly text?: string;
  readonly calls?: readonly CallDelta[];
  readonly end?: End;
  readonly stats?: Stats;
}

export interface CallDelta {
  readonly index: number;
  readonly id?: string;
  readonly name?: string;
  readonly arguments?: string;
}

type Fields = Record<string, unknown>;

function headers(key: string): HeadersInit {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

// Relative to the page, so that it works behind a proxy that puts it under a path.
async function ask(path: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { ...init, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ServerError(0, "");
  }
  if (!response.ok) throw await asError(response);
  return response;
}

async function asError(response: Response): Promise<ServerError> {
  const text = await response.text().catch(() => "");
  const retry = Number(response.headers.get("retry-after"));
  let message = "";
  try {
    message = errorMessage(JSON.parse(text));
  } catch {
    // Not the server's own form: a proxy's page, say. Its status must do.
  }
  return new ServerError(response.status, message || response.statusText, retry > 0 ? retry : undefined);
}

function errorMessage(body: unknown): string {
  const error = (body as Fields | null)?.["error"];
  if (typeof error === "string") return error;
  const message = (error as Fields | null | undefined)?.["message"];
  return typeof message === "string" ? message : "";
}

/** The names of the models, the server's first one first. */
export async function models(key: string): Promise<string[]> {
  const body = (await (await ask("v1/models", { headers: headers(key) })).json()) as { data?: { id?: unknown }[] };
  return (body.data ?? []).map((model) => model.id).filter((id): id is string => typeof id === "string");
}

/** The conversation as the server wants it. Turns in which nothing was said are left out. */
export function messages(system: string, turns: readonly Turn[]): Fields[] {
  const said = turns.filter((turn) => turn.role !== "assistant" || turn.text || turn.calls?.length);
  return [...(system.trim() ? [{ role: "system", content: system }] : []), ...said.map(message)];
}

function message(turn: Turn): Fields {
  if (turn.role === "tool") return { role: "tool", tool_call_id: turn.callId ?? "", content: turn.text };
  if (!turn.calls?.length) return { role: turn.role, content: turn.text };
  return { role: turn.role, content: turn.text, tool_calls: turn.calls.map(asOpenAi) };
}

function asOpenAi(call: ToolCall): Fields {
  return { id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } };
}

/** The body of a request. `continues`: the last message is an answer that goes on where it stopped. */
export function chatBody(model: string, settings: Settings, turns: readonly Turn[], continues = false): Fields {
  const { temperature, topP, topK, minP, maxTokens, seed, stop, tools } = settings;
  const sampling = { temperature, top_p: topP, top_k: topK, min_p: minP, max_tokens: maxTokens, seed };
  return {
    model,
    messages: messages(settings.system, turns),
    stream: true,
    stream_options: { include_usage: true },
    ...Object.fromEntries(Object.entries(sampling).filter(([, value]) => value !== undefined)),
    ...(stop.length ? { stop } : {}),
    ...(tools.trim() ? { tools: JSON.parse(tools) as unknown } : {}),
    ...(continues ? { continue_final_message: true, add_generation_prompt: false } : {}),
  };
}

/** The answer, as it is written. Raises ServerError, and Dropped where the stream ends before the answer. */
export async function* chat(body: Fields, key: string, signal: AbortSignal): AsyncGenerator<Delta> {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { ...headers(key), "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (!response.body) throw new Dropped();
  let ended = false;
  try {
    for await (const data of readEvents(response.body)) {
      if (data === "[DONE]") return;
      const delta = readChunk(data);
      ended ||= delta.end !== undefined;
      yield delta;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ServerError) throw error;
    throw new Dropped();
  }
  if (!ended) throw new Dropped();
}

const ENDS: readonly string[] = ["stop", "length", "tool_calls", "content_filter"];

/** One chunk of a stream. Raises ServerError for an error that came in the stream, or a chunk that is no JSON. */
export function readChunk(data: string): Delta {
  let chunk: Fields;
  try {
    chunk = JSON.parse(data) as Fields;
  } catch {
    throw new ServerError(0, data.slice(0, 200));
  }
  if (chunk["error"]) throw new ServerError(Number((chunk["error"] as Fields)["status"]) || 500, errorMessage(chunk));
  const choice = (chunk["choices"] as Fields[] | undefined)?.[0];
  const delta = (choice?.["delta"] ?? {}) as { content?: string | null; tool_calls?: Fields[] };
  const finish = choice?.["finish_reason"];
  const stats = readStats(chunk);
  return {
    ...(delta.content ? { text: delta.content } : {}),
    ...(delta.tool_calls ? { calls: delta.tool_calls.map(readCall) } : {}),
    ...(typeof finish === "string" ? { end: (ENDS.includes(finish) ? finish : "stop") as End } : {}),
    ...(stats ? { stats } : {}),
  };
}

function readCall(call: Fields, place: number): CallDelta {
  const named = (call["function"] ?? {}) as { name?: string; arguments?: string };
  return {
    index: typeof call["index"] === "number" ? call["index"] : place,
    ...(typeof call["id"] === "string" ? { id: call["id"] } : {}),
    ...(named.name ? { name: named.name } : {}),
    ...(named.arguments ? { arguments: named.arguments } : {}),
  };
}

function readStats(chunk: Fields): Stats | undefined {
  const usage = chunk["usage"] as Fields | null | undefined;
  if (!usage) return undefined;
  const timings = (chunk["timings"] ?? {}) as Fields;
  const details = (usage["prompt_tokens_details"] ?? {}) as Fields;
  const numbers = {
    cachedTokens: details["cached_tokens"],
    promptPerSecond: timings["prompt_tokens_per_second"],
    decodePerSecond: timings["decode_tokens_per_second"],
    firstTokenSeconds: timings["first_token_seconds"],
  };
  return {
    promptTokens: Number(usage["prompt_tokens"]) || 0,
    completionTokens: Number(usage["completion_tokens"]) || 0,
    ...Object.fromEntries(Object.entries(numbers).filter(([, value]) => typeof value === "number" && Number.isFinite(value))),
  };
}

/** Puts what came of the calls behind what was there. */
export function addCalls(calls: readonly ToolCall[], deltas: readonly CallDelta[]): ToolCall[] {
  const grown = [...calls];
  for (const delta of deltas) {
    const call = grown[delta.index] ?? { id: `call_${delta.index}`, name: "", arguments: "" };
    grown[delta.index] = {
      id: delta.id ?? call.id,
      name: call.name + (delta.name ?? ""),
      arguments: call.arguments + (delta.arguments ?? ""),
    };
  }
  return grown.filter(Boolean);
}
