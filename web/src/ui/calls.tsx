/** Functions that the model asks for: name, arguments, and a field for what each returned. */

import { useState } from "preact/hooks";
import type { ToolCall, Turn } from "../conversations/types";
import { texts } from "../preferences";
import { giveResults } from "../session";
import { Icon } from "./icons";
import { sends } from "./parts";

/** `open`: results are waited for. */
export function Calls({ turn, calls, open }: { turn: Turn; calls: readonly ToolCall[]; open: boolean }) {
  const t = texts.value;
  const [results, setResults] = useState<readonly string[]>([]);
  const set = (index: number, text: string) => setResults(calls.map((_, each) => (each === index ? text : (results[each] ?? ""))));
  const whole = calls.every((_, index) => (results[index] ?? "").trim());
  const give = () => whole && giveResults(turn, results);
  const onKeyDown = (event: KeyboardEvent) => {
    if (!sends(event)) return;
    event.preventDefault();
    give();
  };
  return (
    <div class="calls">
      {calls.map((call, index) => (
        <section class="call" key={call.id}>
          <h3><Icon name="tool" /><span>{t.call} <code>{call.name}</code></span></h3>
          <Values text={call.arguments} />
          {open ? (
            <textarea
              rows={2} dir="auto" aria-label={t.resultOf(call.name)} placeholder={t.resultPlaceholder}
              value={results[index] ?? ""} onInput={(event) => set(index, event.currentTarget.value)} onKeyDown={onKeyDown}
            />
          ) : null}
        </section>
      ))}
      {open ? <button type="button" class="main" disabled={!whole} onClick={give}>{t.sendResults}</button> : null}
    </div>
  );
}

/** Arguments as a small table where they are an object; as they came where they are not (yet). */
function Values({ text }: { text: string }) {
  const values = parsed(text);
  if (!values) return <pre class="arguments" tabIndex={0}>{text}</pre>;
  return (
    <dl class="arguments" aria-label={texts.value.arguments}>
      {Object.entries(values).map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{typeof value === "string" ? value : JSON.stringify(value)}</dd>
        </div>
      ))}
    </dl>
  );
}

function parsed(text: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}
