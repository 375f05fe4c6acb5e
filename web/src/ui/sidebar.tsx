/** The list of conversations, the search over them, and the page's own switches. */

import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import { isWriting } from "../answers";
import { search, type Hit } from "../conversations/search";
import type { Conversation } from "../conversations/types";
import { chooseLanguage, language, texts, theme, type Theme } from "../preferences";
import { conversations, current, open, openNew, persistent, remove, rename } from "../session";
import { Icon, Llama, type IconName } from "./icons";
import { IconButton } from "./parts";
import { sheet } from "./sheets";

/** On a narrow page the list lies over the conversation when this is true. */
export const listOpen = signal(false);
/** As in styles/page.css. */
export const isNarrow = () => matchMedia("(max-width: 46rem)").matches;
export const searchId = "search";
const query = signal("");
const DAY = 86_400_000;

export function Sidebar() {
  const t = texts.value;
  const hits = search(conversations.value, query.value);
  const begin = () => {
    openNew();
    listOpen.value = false;
  };
  return (
    <nav class={`sidebar ${listOpen.value ? "open" : ""}`} aria-label={t.conversations}>
      <div class="brand">
        <Llama class="mark" />
        <span>pronk</span>
        <IconButton icon="close" class="narrow-only" label={t.closeList} onClick={() => (listOpen.value = false)} />
      </div>
      <button type="button" class="begin" onClick={begin}><Icon name="plus" />{t.newChat}</button>
      <label class="search">
        <Icon name="search" />
        <input
          id={searchId} type="search" placeholder={t.search} aria-label={t.search} value={query.value}
          onInput={(event) => (query.value = event.currentTarget.value)}
        />
      </label>
      <div class="list">
        {!conversations.value.length ? <p class="hint">{t.noConversations}</p> : !hits.length ? <p class="hint" role="status">{t.noHits}</p> : null}
        {query.value.trim() ? <List hits={hits} /> : <ByAge hits={hits} />}
      </div>
      {persistent.value ? null : <p class="hint warning">{t.notKept}</p>}
      <Switches />
    </nav>
  );
}

function ByAge({ hits }: { hits: readonly Hit[] }) {
  const t = texts.value;
  const midnight = new Date().setHours(0, 0, 0, 0);
  const groups: [string, number][] = [[t.today, midnight], [t.yesterday, midnight - DAY], [t.week, midnight - 7 * DAY], [t.older, -Infinity]];
  let rest = hits;
  return (
    <>
      {groups.map(([name, since]) => {
        const here = rest.filter(({ conversation }) => conversation.updated >= since);
        rest = rest.filter(({ conversation }) => conversation.updated < since);
        return here.length ? <section key={name}><h2>{name}</h2><List hits={here} /></section> : null;
      })}
    </>
  );
}

function List({ hits }: { hits: readonly Hit[] }) {
  return <ul>{hits.map((hit) => <Item key={hit.conversation.id} {...hit} />)}</ul>;
}

function Item({ conversation, excerpt }: Hit) {
  const t = texts.value;
  const [renaming, setRenaming] = useState(false);
  const title = conversation.title || t.untitled;
  const here = conversation.id === current.value.id;
  const go = (event: MouseEvent) => {
    listOpen.value = false;
    if (event.metaKey || event.ctrlKey || event.shiftKey) return; // another tab
    event.preventDefault();
    open(conversation.id);
  };
  if (renaming) return <li><TitleField conversation={conversation} onDone={() => setRenaming(false)} /></li>;
  return (
    <li class={here ? "here" : ""}>
      <a href={`#${conversation.id}`} aria-current={here ? "page" : undefined} onClick={go} onDblClick={() => setRenaming(true)} title={title}>
        <span class="title" dir="auto">{title}</span>
        {excerpt ? <span class="excerpt" dir="auto">{excerpt}</span> : null}
      </a>
      {isWriting(conversation.id) ? <i class="writing" role="img" aria-label={t.writing} /> : null}
      <span class="item-actions">
        <IconButton icon="pencil" label={t.renameNamed(title)} onClick={() => setRenaming(true)} />
        <IconButton icon="bin" label={t.removeNamed(title)} onClick={() => remove(conversation)} />
      </span>
    </li>
  );
}

export function TitleField({ conversation, onDone }: { conversation: Conversation; onDone: () => void }) {
  const field = useRef<HTMLInputElement>(null);
  const dropped = useRef(false);
  useEffect(() => field.current?.select(), []);
  const finish = () => {
    if (!dropped.current) rename(conversation, field.current?.value ?? "");
    onDone();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.isComposing) return;
    if (event.key === "Escape") dropped.current = true;
    if (event.key === "Escape" || event.key === "Enter") {
      event.stopPropagation();
      field.current?.blur();
    }
  };
  return <input ref={field} class="title-field" aria-label={texts.value.rename} defaultValue={conversation.title} onBlur={finish} onKeyDown={onKeyDown} />;
}

const NEXT: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };
const FACE: Record<Theme, IconName> = { system: "half", light: "sun", dark: "moon" };

function Switches() {
  const t = texts.value;
  return (
    <div class="switches">
      <IconButton icon={FACE[theme.value]} label={t.theme[theme.value]} onClick={() => (theme.value = NEXT[theme.value])} />
      <IconButton icon="files" label={t.files} onClick={() => (sheet.value = "files")} />
      <IconButton icon="key" label={t.keyChange} onClick={() => (sheet.value = "key")} />
      <IconButton icon="help" label={t.help} onClick={() => (sheet.value = "help")} />
      <button type="button" class="language" lang={language.value === "zh" ? "en" : "zh-CN"} title={t.language}
        onClick={() => chooseLanguage(language.value === "zh" ? "en" : "zh")}>
        {language.value === "zh" ? "English" : "中文"}
      </button>
    </div>
  );
}
