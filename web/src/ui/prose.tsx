/** A text in Markdown, shown while it grows. */

import { useLayoutEffect, useRef } from "preact/hooks";
import { katex } from "../markdown/math";
import { show } from "../markdown/render";
import { texts } from "../preferences";
import { copy } from "./parts";

export function Prose({ text, streaming }: { text: string; streaming: boolean }) {
  const target = useRef<HTMLDivElement>(null);
  const drawnWith = useRef("");
  const labels = { copy: texts.value.copy };
  const look = `${labels.copy}${katex.value ? " with mathematics" : ""}`;
  useLayoutEffect(() => {
    if (!target.current) return;
    show(target.current, text, streaming, labels, drawnWith.current !== look);
    drawnWith.current = look;
  }, [text, streaming, look]);
  return <div class="prose" dir="auto" ref={target} onClick={copyCode} />;
}

function copyCode(event: MouseEvent): void {
  const button = (event.target as Element).closest<HTMLButtonElement>("button[data-copy]");
  const code = button?.closest(".code")?.querySelector("code")?.textContent;
  if (!button || code === null || code === undefined) return;
  const { copied, copy: label } = texts.value;
  void copy(code).then((done) => {
    if (!done) return;
    button.textContent = copied;
    setTimeout(() => (button.textContent = label), 1500);
  });
}
