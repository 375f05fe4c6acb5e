import { afterEach, expect, test, vi } from "vitest";
import { addCalls, chat, chatBody, Dropped, messages, readChunk, ServerError, type Delta } from "../src/server/client";
import { EventParser } from "../src/server/sse";
import { NO_SETTINGS } from "../src/conversations/types";
import { turn } from "./samples";

afterEach(() => void vi.unstubAllGlobals());

const STREAM = '\uFEFF: hello\r\ndata: {"a": 1}\r\n\r\nevent: x\ndata: one\ndata:two\n\ndata\n\nid: 3\n\ndata: cut off';

test.each([1, 2, 3, 7, 1000])("events are the same however the stream is cut: %i characters at a time", (size) => {
  const parser = new EventParser();
  const events: string[] = [];
  for (let at = 0; at < STREAM.length; at += size) events.push(...parser.feed(STREAM.slice(at, at + size)));
  expect(events).toEqual(['{"a": 1}', "one\ntwo", ""]);
});

function serve(chunks: (string | Error)[], status = 200, headers: HeadersInit = {}): void {
  const encoder = new TextEncoder();
  const body = new ReadableStream<Uint8Array>({
    pull(controller) {
      const next = chunks.shift();
      if (next === undefined) controller.close();
      else if (next instanceof Error) controller.error(next);
      else controller.enqueue(encoder.encode(next));
    },
  });
  vi.stubGlobal("fetch", async () => new Response(body, { status, headers }));
}

async function read(): Promise<{ deltas: Delta[]; error: unknown }> {
  const deltas: Delta[] = [];
  try {
    for await (const delta of chat({}, "", new AbortController().signal)) deltas.push(delta);
    return { deltas, error: null };
  } catch (error) {
    return { deltas, error };
  }
}

const piece = (text: string) => `data: ${JSON.stringify({ choices: [{ delta: { content: text } }] })}\n\n`;
const END = 'data: {"choices": [{"delta": {}, "finish_reason": "length"}]}\n\n';

test("an answer: text, how it ended, figures", async () => {
  const usage = { prompt_tokens: 9, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 4 } };
  serve([piece("Hel"), piece("lo"), END, `data: ${JSON.stringify({ choices: [], usage, timings: { decode_tokens_per_second: 5 } })}\n\n`, "data: [DONE]\n\n"]);
  const { deltas, error } = await read();
  expect(error).toBeNull();
  expect(deltas).toEqual([
    { text: "Hel" }, { text: "lo" }, { end: "length" },
    { stats: { promptTokens: 9, completionTokens: 2, cachedTokens: 4, decodePerSecond: 5 } },
  ]);
});

test.each([["closed early", [piece("Hel")]], ["cut", [piece("Hel"), new TypeError("network error")]]])(
  "a stream that is %s is Dropped, after what had come",
  async (_how, chunks) => {
    serve([...chunks]);
    const { deltas, error } = await read();
    expect(deltas).toEqual([{ text: "Hel" }]);
    expect(error).toBeInstanceOf(Dropped);
  },
);

test("an error in the stream is the server's word", async () => {
  serve([piece("Hel"), 'data: {"error": {"message": "out of pages"}}\n\n']);
  expect((await read()).error).toMatchObject({ status: 500, message: "out of pages" });
});

test.each([
  [429, '{"error": {"message": "wait"}}', "wait", 3],
  [422, '{"error": "in TGI\'s form"}', "in TGI's form", 3],
  [502, "<h1>proxy</h1>", "", 3],
])("status %i", async (status, body, message, retryAfter) => {
  serve([body], status, { "Retry-After": "3" });
  expect((await read()).error).toMatchObject({ status, message, retryAfter });
});

test("a server that is not there", async () => {
  vi.stubGlobal("fetch", async () => Promise.reject(new TypeError("Failed to fetch")));
  expect((await read()).error).toBeInstanceOf(ServerError);
  expect((await read()).error).toMatchObject({ status: 0 });
});

test("a call's name and arguments are put together; several keep their places", () => {
  let calls = addCalls([], [{ index: 0, id: "c1", name: "weather" }]);
  calls = addCalls(calls, [{ index: 0, arguments: '{"city":' }, { index: 1, id: "c2", name: "time", arguments: "{}" }]);
  calls = addCalls(calls, [{ index: 0, arguments: ' "Lima"}' }]);
  expect(calls).toEqual([
    { id: "c1", name: "weather", arguments: '{"city": "Lima"}' },
    { id: "c2", name: "time", arguments: "{}" },
  ]);
});

test("a chunk that is not JSON is an error, not a crash", () => {
  expect(() => readChunk("<html>")).toThrow(ServerError);
});

test("messages: the system prompt first, answers that said nothing left out, calls with their results", () => {
  const call = { id: "c1", name: "f", arguments: "{}" };
  const turns = [
    turn("q", null, "user", "Ask"), { ...turn("a", "q", "assistant", ""), calls: [call] },
    { ...turn("r", "a", "tool", "42"), callId: "c1" }, turn("e", "r", "assistant", ""),
  ];
  expect(messages("Be brief.", turns)).toEqual([
    { role: "system", content: "Be brief." },
    { role: "user", content: "Ask" },
    { role: "assistant", content: "", tool_calls: [{ id: "c1", type: "function", function: { name: "f", arguments: "{}" } }] },
    { role: "tool", tool_call_id: "c1", content: "42" },
  ]);
});

test("what was not set is left to the model; zero is set", () => {
  const body = chatBody("cria", { ...NO_SETTINGS, temperature: 0, maxTokens: 5, stop: ["x"] }, [turn("q", null, "user")]);
  expect(body).toMatchObject({ model: "cria", temperature: 0, max_tokens: 5, stop: ["x"], stream: true });
  for (const name of ["top_p", "top_k", "min_p", "seed", "tools", "continue_final_message"]) expect(body).not.toHaveProperty(name);
});
