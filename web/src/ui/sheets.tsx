/** The dialogs: settings, files, help, key. One is open at a time. */

import { signal } from "@preact/signals";
import { useState } from "preact/hooks";
import { fileName, fromJson, ImportError, toJson, toMarkdown } from "../conversations/transfer";
import { apiKey, texts } from "../preferences";
import { conversations, current, keyState, model, notify, takeIn, useKey } from "../session";
import { Icon } from "./icons";
import { save, Sheet } from "./parts";
import { SettingsSheet } from "./settings";

/** Address of the licences of what is bundled; vite.config.ts puts it in. */
declare const __LICENCES__: string;

export const sheet = signal<"settings" | "files" | "help" | "key" | null>(null);
const close = () => (sheet.value = null);

export function Sheets() {
  if (keyState.value !== "none" || sheet.value === "key") return <KeySheet />;
  if (sheet.value === "settings") return <SettingsSheet key={current.value.id} onClose={close} />;
  if (sheet.value === "files") return <FilesSheet />;
  if (sheet.value === "help") return <HelpSheet />;
  return null;
}

function KeySheet() {
  const t = texts.value;
  const [key, setKey] = useState(apiKey.value);
  const leave = () => {
    keyState.value = "none";
    close();
  };
  const use = (event: Event) => {
    event.preventDefault();
    leave();
    void useKey(key);
  };
  return (
    <Sheet title={keyState.value === "none" ? t.keyLabel : t.keyTitle} class="small" onClose={leave}>
      <form onSubmit={use}>
        {keyState.value === "refused" ? <p class="wrong" role="alert">{t.keyWrong}</p> : null}
        <label class="setting">
          <span>{t.keyLabel}</span>
          <input type="password" autocomplete="off" value={key} onInput={(event) => setKey(event.currentTarget.value)} autofocus />
          <small>{t.keyNote}</small>
        </label>
        <div class="buttons"><button type="submit" class="main">{t.keyUse}</button></div>
      </form>
    </Sheet>
  );
}

function FilesSheet() {
  const t = texts.value;
  const conversation = current.value;
  const empty = !conversation.turns.length;
  const title = conversation.title || t.untitled;
  const names = { user: t.you, assistant: model.value, system: t.system, call: t.call, result: t.resultOf("").trim() };
  const take = async (input: HTMLInputElement) => {
    const [file] = Array.from(input.files ?? []);
    input.value = "";
    if (!file) return;
    try {
      takeIn(fromJson(await file.text()));
    } catch (error) {
      notify(t.importFailed(error instanceof ImportError ? error.message : String(error)));
    }
    close();
  };
  return (
    <Sheet title={t.files} class="small" onClose={close}>
      <h3>{t.export}</h3>
      <div class="stack">
        <button type="button" disabled={empty} onClick={() => save(fileName(title, "md"), toMarkdown(conversation, names), "text/markdown")}><Icon name="files" />{t.exportMarkdown}</button>
        <button type="button" disabled={empty} onClick={() => save(fileName(title, "json"), toJson([conversation]), "application/json")}><Icon name="files" />{t.exportJson}</button>
        <button type="button" disabled={!conversations.value.length} onClick={() => save("pronk.json", toJson(conversations.value), "application/json")}><Icon name="files" />{t.exportAll}</button>
      </div>
      <h3>{t.import}</h3>
      <label class="file">
        <Icon name="up" />{t.importJson}
        <input type="file" class="unseen" accept=".json,application/json" onChange={(event) => void take(event.currentTarget)} />
      </label>
    </Sheet>
  );
}

const COMMAND = /Mac|iPhone|iPad/.test(navigator.userAgent) ? "⌘" : "Ctrl";

function HelpSheet() {
  const { keys, ...t } = texts.value;
  const rows: [string[], string][] = [
    [["Enter"], keys.enter],
    [["Shift", "Enter"], keys.newline],
    [["↑"], keys.up],
    [["Esc"], keys.stop],
    [[COMMAND, "K"], keys.search],
    [[COMMAND, "Shift", "O"], keys.newChat],
    [[COMMAND, "."], keys.settings],
    [["?"], keys.help],
  ];
  return (
    <Sheet title={t.helpTitle} onClose={close}>
      <dl class="keys">
        {rows.map(([pressed, does]) => (
          <div key={does}>
            <dt>{pressed.map((key) => <kbd key={key}>{key}</kbd>)}</dt>
            <dd>{does}</dd>
          </div>
        ))}
      </dl>
      <p>{t.helpBranches}</p>
      <p>{t.helpStorage}</p>
      <p><a href={__LICENCES__} target="_blank" rel="noopener">{t.licences}</a></p>
    </Sheet>
  );
}
