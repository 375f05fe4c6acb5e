/** The page. */

import { useEffect, useState } from "preact/hooks";
import { isWriting, stopWriting } from "../answers";
import { texts } from "../preferences";
import { current, dismiss, loadModels, notices, openNew, reachable, ready } from "../session";
import { Composer, composerId } from "./composer";
import { IconButton } from "./parts";
import { sheet, Sheets } from "./sheets";
import { isNarrow, listOpen, searchId, Sidebar, TitleField } from "./sidebar";
import { Transcript } from "./transcript";

export function App() {
  useEffect(() => {
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, []);
  const { title } = current.value;
  useEffect(() => {
    document.title = title ? `${title} · pronk` : "pronk";
  }, [title]);
  if (!ready.value) return null;
  return (
    <>
      <Sidebar />
      <div class={`veil ${listOpen.value ? "open" : ""}`} onClick={() => (listOpen.value = false)} />
      <main inert={listOpen.value && isNarrow()}>
        <Header />
        <Transcript />
        {reachable.value ? null : <Unreachable />}
        <Composer />
      </main>
      <Sheets />
      <Notices />
    </>
  );
}

function Header() {
  const t = texts.value;
  const conversation = current.value;
  const [renaming, setRenaming] = useState(false);
  return (
    <header class="top">
      <IconButton icon="menu" class="narrow-only" label={t.openList} onClick={() => (listOpen.value = true)} />
      {renaming ? (
        <TitleField conversation={conversation} onDone={() => setRenaming(false)} />
      ) : (
        <h1 dir="auto">
          {conversation.title ? (
            <button type="button" class="plain" title={t.rename} onClick={() => setRenaming(true)}>{conversation.title}</button>
          ) : null}
        </h1>
      )}
      <IconButton icon="sliders" label={t.settings} onClick={() => (sheet.value = "settings")} />
    </header>
  );
}

function Unreachable() {
  const t = texts.value;
  return (
    <div class="trouble wide" role="alert">
      <p>{t.failed.unreachable}</p>
      <button type="button" class="worded" onClick={() => void loadModels()}>{t.retry}</button>
    </div>
  );
}

function Notices() {
  const t = texts.value;
  return (
    <div class="notices" role="status" aria-live="polite">
      {notices.value.map(({ id, text, undo }) => (
        <div class="notice" key={id}>
          <span>{text}</span>
          {undo ? (
            <button type="button" class="worded" onClick={() => { undo(); dismiss(id); }}>{t.undo}</button>
          ) : null}
          <IconButton icon="close" label={t.close} onClick={() => dismiss(id)} />
        </div>
      ))}
    </div>
  );
}

function onKeyDown(event: KeyboardEvent): void {
  const command = event.ctrlKey || event.metaKey;
  const typing = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
  if (event.isComposing || document.querySelector("dialog[open]")) return;
  if (command && event.key.toLowerCase() === "k") {
    event.preventDefault();
    listOpen.value = isNarrow();
    requestAnimationFrame(() => document.getElementById(searchId)?.focus());
  } else if (command && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    openNew();
  } else if (command && event.key === ".") {
    event.preventDefault();
    sheet.value = "settings";
  } else if (event.key === "Escape") {
    if (listOpen.value) listOpen.value = false;
    else if (isWriting(current.value.id)) stopWriting(current.value.id);
    else document.getElementById(composerId)?.focus();
  } else if (event.key === "?" && !typing) {
    sheet.value = "help";
  } else if (event.key === "/" && !typing) {
    event.preventDefault();
    document.getElementById(composerId)?.focus();
  }
}
