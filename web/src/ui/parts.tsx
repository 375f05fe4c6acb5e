/** Small parts that several others use. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { ComponentChildren, RefObject } from "preact";
import { texts } from "../preferences";
import { notify } from "../session";
import { Icon, type IconName } from "./icons";

interface IconButtonProps {
  icon: IconName;
  label: string;
  onClick: (event: MouseEvent) => void;
  disabled?: boolean;
  class?: string;
}

export function IconButton({ icon, label, onClick, disabled = false, class: name = "" }: IconButtonProps) {
  return (
    <button type="button" class={`icon-button ${name}`} aria-label={label} title={label} onClick={onClick} disabled={disabled}>
      <Icon name={icon} />
    </button>
  );
}

interface SheetProps {
  title: string;
  onClose: () => void;
  class?: string;
  children: ComponentChildren;
}

/** A dialog over the page. The browser keeps focus within and closes it with Escape. */
export function Sheet({ title, onClose, class: name = "", children }: SheetProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const gone = useRef(false);
  useEffect(() => {
    const shown = dialog.current;
    shown?.showModal();
    return () => {
      gone.current = true;
      shown?.close();
    };
  }, []);
  // Closing is told late, when what comes after this sheet may be there already.
  const closed = () => {
    if (!gone.current) onClose();
  };
  const closeOutside = (event: MouseEvent) => {
    if (event.target === dialog.current) onClose();
  };
  return (
    <dialog ref={dialog} class={`sheet ${name}`} aria-label={title} onClose={closed} onMouseDown={closeOutside}>
      <header>
        <h2>{title}</h2>
        <IconButton icon="close" label={texts.value.close} onClick={onClose} />
      </header>
      <div class="sheet-body">{children}</div>
    </dialog>
  );
}

/** Copies, and says so on the button for a moment. */
export function CopyButton({ text }: { text: () => string }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return undefined;
    const timer = setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  const label = done ? texts.value.copied : texts.value.copy;
  return <IconButton icon="copy" label={label} class={done ? "done" : ""} onClick={() => void copy(text()).then(setDone)} />;
}

/** Whether the text is on the clipboard now. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

// navigator.clipboard is missing on http:// pages other than localhost.
function copyBySelection(text: string): boolean {
  const area = document.createElement("textarea");
  area.className = "unseen";
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) notify(texts.value.copyFailed);
  return copied;
}

/** Makes a text area as high as its text, up to what the style sheet allows. */
export function useFittingHeight(area: RefObject<HTMLTextAreaElement | null>, text: string): void {
  useEffect(() => {
    const { current } = area;
    if (!current) return;
    current.style.height = "auto";
    current.style.height = `${current.scrollHeight + 2}px`;
  }, [text]);
}

/** Enter sends where there is a keyboard; not while an input method is composing a character. */
export function sends(event: KeyboardEvent): boolean {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return false;
  return event.ctrlKey || event.metaKey || !matchMedia("(pointer: coarse)").matches;
}

export function save(name: string, text: string, type: string): void {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
