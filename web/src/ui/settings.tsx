/** System prompt, sampling and functions of one conversation. What is typed holds at once. */

import { useState } from "preact/hooks";
import type { Settings } from "../conversations/types";
import { texts } from "../preferences";
import { changeSettings, current } from "../session";
import { Sheet } from "./parts";

type NumberName = "temperature" | "topP" | "topK" | "minP" | "maxTokens" | "seed";

interface NumberRange {
  readonly name: NumberName;
  readonly low: number;
  readonly high: number;
  readonly whole: boolean;
}

const NUMBERS: readonly NumberRange[] = [
  { name: "temperature", low: 0, high: 2, whole: false },
  { name: "maxTokens", low: 1, high: 131072, whole: true },
  { name: "topP", low: 0, high: 1, whole: false },
  { name: "topK", low: 0, high: 1000, whole: true },
  { name: "minP", low: 0, high: 1, whole: false },
  { name: "seed", low: 0, high: 2 ** 32 - 1, whole: true },
];

const EXAMPLE = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Get the weather in a city",
      parameters: { type: "object", properties: { city: { type: "string", description: "The city" } }, required: ["city"] },
    },
  },
];

/** The message of what is wrong with a list of functions, or null. */
export function toolsProblem(text: string): string | null {
  if (!text.trim()) return null;
  try {
    const value: unknown = JSON.parse(text);
    if (!Array.isArray(value)) return "[ … ]";
    const lacking = value.findIndex((each) => typeof (each as { function?: { name?: unknown } } | null)?.function?.name !== "string");
    return lacking < 0 ? null : `[${lacking}].function.name`;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

export function SettingsSheet({ onClose }: { onClose: () => void }) {
  const t = texts.value;
  const { settings } = current.value;
  const set = (fields: Partial<Settings>) => changeSettings({ ...current.value.settings, ...fields });
  return (
    <Sheet title={t.settingsOf} class="side" onClose={onClose}>
      <label class="setting">
        <span>{t.system}</span>
        <textarea rows={4} dir="auto" value={settings.system} onInput={(event) => set({ system: event.currentTarget.value })} />
        <small>{t.systemHint}</small>
      </label>
      <p class="hint">{t.settingsNote}</p>
      <div class="numbers">{NUMBERS.map((range) => <NumberSetting key={range.name} range={range} />)}</div>
      <label class="setting">
        <span>{t.stopAt}</span>
        <textarea rows={2} value={settings.stop.join("\n")} onInput={(event) => set({ stop: event.currentTarget.value.split("\n").filter(Boolean) })} />
        <small>{t.stopHint}</small>
      </label>
      <Functions />
      <div class="buttons"><button type="button" class="main" onClick={onClose}>{t.done}</button></div>
    </Sheet>
  );
}

function NumberSetting({ range: { name, low, high, whole } }: { range: NumberRange }) {
  const t = texts.value;
  const kept = current.value.settings[name];
  const [text, setText] = useState(kept === undefined ? "" : String(kept));
  const [wrong, setWrong] = useState(false);
  const onInput = (event: { currentTarget: HTMLInputElement }) => {
    const typed = event.currentTarget.value;
    const value = Number(typed);
    setText(typed);
    const fits = !event.currentTarget.validity.badInput && value >= low && value <= high && (!whole || Number.isInteger(value));
    const empty = typed.trim() === "" && !event.currentTarget.validity.badInput;
    setWrong(!empty && !fits);
    if (!empty && !fits) return;
    const { [name]: _before, ...others } = current.value.settings;
    changeSettings(empty ? others : { ...others, [name]: value });
  };
  return (
    <label class="setting">
      <span>{t[name]}</span>
      <input type="number" inputMode="decimal" min={low} max={high} step={whole ? 1 : "any"} value={text} aria-invalid={wrong} onInput={onInput} />
      <small class={wrong ? "wrong" : ""}>{wrong ? t.between(low, high) : t[`${name}Hint`]}</small>
    </label>
  );
}

function Functions() {
  const t = texts.value;
  const [text, setText] = useState(current.value.settings.tools);
  const problem = toolsProblem(text);
  const put = (next: string) => {
    setText(next);
    if (!toolsProblem(next)) changeSettings({ ...current.value.settings, tools: next });
  };
  return (
    <div class="setting">
      <label for="tools">{t.tools}</label>
      <textarea id="tools" class="code-field" rows={text ? 10 : 3} spellcheck={false} value={text} aria-invalid={problem !== null} onInput={(event) => put(event.currentTarget.value)} />
      <small class={problem ? "wrong" : ""}>{problem ? t.toolsWrong(problem) : t.toolsHint}</small>
      {text ? null : <button type="button" class="worded" onClick={() => put(JSON.stringify(EXAMPLE, null, 1))}>{t.toolsExample}</button>}
    </div>
  );
}
