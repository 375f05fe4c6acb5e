/** Where one writes. */

import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { isWriting, stopWriting } from "../answers";
import { texts } from "../preferences";
import { chooseModel, current, model, say, served, shownTurns } from "../session";
import { Icon } from "./icons";
import { sends, useFittingHeight } from "./parts";
import { editing } from "./transcript";

/** What is written and not sent, by conversation. */
const unsent = signal<ReadonlyMap<string, string>>(new Map());
export const composerId = "composer";

export function Composer() {
  const t = texts.value;
  const { id } = current.value;
  const area = useRef<HTMLTextAreaElement>(null);
  const text = unsent.value.get(id) ?? "";
  const busy = isWriting(id);
  const set = (next: string) => (unsent.value = new Map(unsent.value).set(id, next));
  useFittingHeight(area, text);
  useEffect(() => {
    if (!matchMedia("(pointer: coarse)").matches) area.current?.focus();
  }, [id]);

  const send = () => {
    if (!text.trim() || busy || !model.value) return;
    set("");
    say(text);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (sends(event)) {
      event.preventDefault();
      send();
    } else if (event.key === "ArrowUp" && !text && !busy) {
      const mine = shownTurns.value.findLast(({ role }) => role === "user");
      if (!mine) return;
      event.preventDefault();
      editing.value = mine.id;
    }
  };
  return (
    <footer class="composer">
      <div class="field">
        <textarea
          id={composerId} ref={area} rows={1} dir="auto" value={text} aria-label={t.yourMessage} enterkeyhint="send"
          placeholder={t.placeholder(model.value || "pronk")} onInput={(event) => set(event.currentTarget.value)} onKeyDown={onKeyDown}
        />
        <div class="row">
          <Model />
          {busy ? (
            <button type="button" class="round" aria-label={t.stop} title={`${t.stop} (Esc)`} onClick={() => stopWriting(id)}><i class="square" /></button>
          ) : (
            <button type="button" class="round" aria-label={t.send} title={t.send} disabled={!text.trim() || !model.value} onClick={send}><Icon name="up" /></button>
          )}
        </div>
      </div>
    </footer>
  );
}

function Model() {
  if (served.value.length < 2) return <span class="model">{model.value}</span>;
  return (
    <select class="model" aria-label={texts.value.model} value={model.value} onChange={(event) => chooseModel(event.currentTarget.value)}>
      {served.value.map((name) => <option key={name} value={name}>{name}</option>)}
    </select>
  );
}
