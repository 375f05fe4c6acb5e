/** Conversations as files: JSON that can be read back, Markdown for people. A file that is read is anybody's text:
 * every field is checked, and what is not understood is refused with the place where it was found. */

import { path } from "./tree";
import { NO_SETTINGS, newId, type Conversation, type End, type Settings, type Stats, type ToolCall, type Turn } from "./types";

const FORMAT = "pronk-conversations";
const VERSION = 1;
const ENDS: readonly string[] = ["stop", "length", "tool_calls", "content_filter", "stopped", "dropped", "failed"];
const NUMBERS = ["temperature", "topP", "topK", "minP", "maxTokens", "seed"] as const;
const STATS = ["cachedTokens", "promptPerSecond", "decodePerSecond", "firstTokenSeconds"] as const;

export class ImportError extends Error {}

export function toJson(conversations: readonly Conversation[]): string {
  return `${JSON.stringify({ format: FORMAT, version: VERSION, conversations }, null, 1)}\n`;
}

/** Raises ImportError that says where the file is not as expected. Each conversation gets a new id, so that nothing
 * that is here already is overwritten. */
export function fromJson(text: string): Conversation[] {
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch {
    throw new ImportError("not JSON");
  }
  const { format, version, conversations } = object(file, "file");
  if (format !== FORMAT) throw new ImportError(`format is ${JSON.stringify(format) ?? "missing"}, expected "${FORMAT}"`);
  if (version !== VERSION) throw new ImportError(`version is ${JSON.stringify(version)}, expected ${VERSION}`);
  return list(conversations, "conversations").map((each, index) => conversation(each, `conversations[${index}]`));
}

function conversation(value: unknown, at: string): Conversation {
  const fields = object(value, at);
  const turns: Turn[] = [];
  const known = new Set<string>();
  for (const [index, each] of list(fields["turns"], `${at}.turns`).entries()) {
    const read = turn(each, `${at}.turns[${index}]`);
    if (read.parent !== null && !known.has(read.parent)) throw new ImportError(`${at}.turns[${index}].parent is no earlier turn`);
    if (known.has(read.id)) throw new ImportError(`${at}.turns[${index}].id is there twice`);
    known.add(read.id);
    turns.push(read);
  }
  const chosen = Object.entries(object(fields["chosen"] ?? {}, `${at}.chosen`)).filter(
    (entry): entry is [string, string] => typeof entry[1] === "string" && known.has(entry[1]),
  );
  return {
    id: newId(),
    title: string(fields["title"], `${at}.title`),
    named: fields["named"] === true,
    created: number(fields["created"], `${at}.created`),
    updated: number(fields["updated"], `${at}.updated`),
    ...optional("model", fields["model"], at, string),
    settings: settings(fields["settings"] ?? NO_SETTINGS, `${at}.settings`),
    turns,
    chosen: Object.fromEntries(chosen),
  };
}

function turn(value: unknown, at: string): Turn {
  const fields = object(value, at);
  const role = fields["role"];
  if (role !== "user" && role !== "assistant" && role !== "tool") throw new ImportError(`${at}.role is not user, assistant or tool`);
  const end = fields["end"];
  if (end !== undefined && !(typeof end === "string" && ENDS.includes(end))) throw new ImportError(`${at}.end is not known`);
  return {
    id: string(fields["id"], `${at}.id`),
    parent: fields["parent"] === null ? null : string(fields["parent"], `${at}.parent`),
    role,
    text: string(fields["text"], `${at}.text`),
    created: number(fields["created"], `${at}.created`),
    ...optional("calls", fields["calls"], at, (calls, where) => list(calls, where).map((each, i) => call(each, `${where}[${i}]`))),
    ...optional("callId", fields["callId"], at, string),
    ...optional("model", fields["model"], at, string),
    ...(end === undefined ? {} : { end: end as End }),
    ...optional("failure", fields["failure"], at, (failure, where) => {
      const { status, message } = object(failure, where);
      return { status: number(status, `${where}.status`), message: string(message, `${where}.message`) };
    }),
    ...optional("stats", fields["stats"], at, stats),
  };
}

function call(value: unknown, at: string): ToolCall {
  const fields = object(value, at);
  return {
    id: string(fields["id"], `${at}.id`),
    name: string(fields["name"], `${at}.name`),
    arguments: string(fields["arguments"], `${at}.arguments`),
  };
}

function settings(value: unknown, at: string): Settings {
  const fields = object(value, at);
  const numbers = NUMBERS.filter((name) => fields[name] !== undefined).map((name) => [name, number(fields[name], `${at}.${name}`)]);
  return {
    system: string(fields["system"] ?? "", `${at}.system`),
    stop: list(fields["stop"] ?? [], `${at}.stop`).map((each, index) => string(each, `${at}.stop[${index}]`)),
    tools: string(fields["tools"] ?? "", `${at}.tools`),
    ...Object.fromEntries(numbers),
  };
}

function stats(value: unknown, at: string): Stats {
  const fields = object(value, at);
  const others = STATS.filter((name) => fields[name] !== undefined).map((name) => [name, number(fields[name], `${at}.${name}`)]);
  return {
    promptTokens: number(fields["promptTokens"], `${at}.promptTokens`),
    completionTokens: number(fields["completionTokens"], `${at}.completionTokens`),
    ...Object.fromEntries(others),
  };
}

function object(value: unknown, at: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new ImportError(`${at} is not an object`);
  return value as Record<string, unknown>;
}

function list(value: unknown, at: string): unknown[] {
  if (!Array.isArray(value)) throw new ImportError(`${at} is not a list`);
  return value;
}

function string(value: unknown, at: string): string {
  if (typeof value !== "string") throw new ImportError(`${at} is not a text`);
  return value;
}

function number(value: unknown, at: string): number {
  if (typeof value !== "number" || !Number.isFinite(value)) throw new ImportError(`${at} is not a number`);
  return value;
}

function optional<Name extends string, T>(
  name: Name, value: unknown, at: string, read: (value: unknown, at: string) => T,
): { [key in Name]?: T } {
  return (value === undefined ? {} : { [name]: read(value, `${at}.${name}`) }) as { [key in Name]?: T };
}

export interface MarkdownNames {
  readonly user: string;
  readonly assistant: string;
  readonly system: string;
  readonly call: string;
  readonly result: string;
}

/** The branch that is shown, as Markdown. */
export function toMarkdown(conversation: Conversation, names: MarkdownNames): string {
  const parts = [`# ${conversation.title.replace(/\s+/g, " ")}`];
  if (conversation.settings.system) parts.push(`**${names.system}**`, quote(conversation.settings.system));
  for (const turn of path(conversation)) {
    if (turn.role === "tool") {
      parts.push(`**${names.result}**`, fence(turn.text));
      continue;
    }
    parts.push(`## ${turn.role === "user" ? names.user : (turn.model ?? names.assistant)}`);
    if (turn.text.trim()) parts.push(turn.text.trim());
    for (const { name, arguments: values } of turn.calls ?? []) parts.push(`**${names.call}** \`${name}\``, fence(values, "json"));
  }
  return `${parts.join("\n\n")}\n`;
}

function quote(text: string): string {
  return text.trim().replace(/^/gm, "> ").replace(/ +$/gm, "");
}

function fence(text: string, language = ""): string {
  const longest = Math.max(2, ...Array.from(text.matchAll(/`+/g), (match) => match[0].length));
  const marks = "`".repeat(longest + 1);
  return `${marks}${language}\n${text}\n${marks}`;
}

/** A name for a file on any system. */
export function fileName(title: string, ending: string): string {
  const plain = title.replace(/[\\/:*?"<>|\p{C}]+/gu, " ").replace(/\s+/g, " ").replace(/^[\s.]+|[\s.]+$/g, "");
  return `${Array.from(plain).slice(0, 60).join("") || "pronk"}.${ending}`;
}
