/** One turn: what was said, what was asked of a function, and what can be done with it. */

import { useEffect, useRef, useState } from "preact/hooks";
import { liveTurn } from "../answers";
import { siblings } from "../conversations/tree";
import type { Conversation, Failure, Stats, Turn } from "../conversations/types";
import { texts } from "../preferences";
import { answerAgain, askForKey, editAndSend, goOn, turnTo } from "../session";
import { Llama } from "./icons";
import { Calls } from "./calls";
import { CopyButton, IconButton, sends, useFittingHeight } from "./parts";
import { Prose } from "./prose";

export interface TurnProps {
  conversation: Conversation;
  turn: Turn;
  last: boolean;
  /** Whether an answer is being written in this conversation. */
  busy: boolean;
  editing: boolean;
  setEditing: (id: string | null) => void;
}

export function TurnView(props: TurnProps) {
  const { turn, conversation } = props;
  const t = texts.value;
  const model = turn.role === "assistant";
  if (turn.role === "tool") return <ResultView turn={turn} conversation={conversation} />;
  return (
    <article class={`turn ${turn.role}`} aria-label={model ? t.answerOf(turn.model ?? "") : t.you} data-turn={turn.id}>
      <div class="gutter" aria-hidden="true">{model ? <Llama class="mark" /> : null}</div>
      <div class="said">
        {props.editing ? <Editor {...props} /> : model ? <Answer {...props} /> : <Question {...props} />}
      </div>
    </article>
  );
}

function Question(props: TurnProps) {
  const { turn, busy, setEditing } = props;
  return (
    <>
      <p class="question" dir="auto">{turn.text}</p>
      <div class="actions">
        <Branches {...props} />
        <CopyButton text={() => turn.text} />
        <IconButton icon="pencil" label={texts.value.edit} disabled={busy} onClick={() => setEditing(turn.id)} />
      </div>
    </>
  );
}

function Answer(props: TurnProps) {
  const { turn, conversation, last, busy, setEditing } = props;
  const t = texts.value;
  const live = liveTurn(conversation.id, turn.id);
  const text = live ? live.value.text : turn.text;
  const calls = (live ? live.value.calls : turn.calls) ?? [];
  const end = live ? undefined : (turn.end ?? "dropped");
  const canGoOn = last && !busy && text !== "" && (end === "length" || end === "stopped" || end === "dropped");
  return (
    <>
      {text ? <Prose text={text} streaming={live !== undefined} /> : null}
      {live && !text && !calls.length ? <p class="waiting"><span class="unseen">{`${turn.model ?? ""} ${t.thinking}`}</span><i /><i /><i /></p> : null}
      {calls.length ? <Calls turn={turn} calls={calls} open={last && !busy && end === "tool_calls"} /> : null}
      {end === "failed" ? <Trouble {...props} failure={turn.failure} /> : null}
      {end && end in t.ended ? (
        <p class="ended">
          {t.ended[end as keyof typeof t.ended]}
          {last && !text && !busy ? <button type="button" class="plain" onClick={() => answerAgain(turn)}>{t.retry}</button> : null}
        </p>
      ) : null}
      {live || (end === "failed" && !text && siblings(conversation, turn).length < 2) ? null : (
        <div class={`actions ${last ? "always" : ""}`}>
          <Branches {...props} />
          {text ? <CopyButton text={() => text} /> : null}
          <IconButton icon="again" label={t.regenerate} disabled={busy} onClick={() => answerAgain(turn)} />
          {text && !calls.length ? <IconButton icon="pencil" label={t.edit} disabled={busy} onClick={() => setEditing(turn.id)} /> : null}
          {canGoOn ? (
            <button type="button" class="worded" onClick={() => goOn(turn)}>{t.goOn}</button>
          ) : null}
          {turn.stats ? <Figures stats={turn.stats} /> : null}
        </div>
      )}
    </>
  );
}

function Branches({ conversation, turn, busy }: TurnProps) {
  const t = texts.value;
  const all = siblings(conversation, turn);
  if (all.length < 2) return null;
  const place = all.findIndex(({ id }) => id === turn.id) + 1;
  return (
    <span class="branches" role="group" aria-label={t.branch(place, all.length)}>
      <IconButton icon="left" label={t.previousBranch} disabled={busy || place === 1} onClick={() => turnTo(turn, -1)} />
      <span class="figures">{place}/{all.length}</span>
      <IconButton icon="right" label={t.nextBranch} disabled={busy || place === all.length} onClick={() => turnTo(turn, 1)} />
    </span>
  );
}

function Figures({ stats }: { stats: Stats }) {
  const t = texts.value;
  const short = (value: number) => (value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString());
  const more = [
    t.prompt(stats.promptTokens.toLocaleString(), stats.cachedTokens ? stats.cachedTokens.toLocaleString() : null),
    stats.promptPerSecond ? t.promptSpeed(short(stats.promptPerSecond)) : "",
    stats.firstTokenSeconds !== undefined ? t.firstToken(stats.firstTokenSeconds.toFixed(2)) : "",
  ].filter(Boolean).join(" · ");
  const main = [
    t.tokens(stats.completionTokens.toLocaleString()),
    stats.decodePerSecond ? t.speed(short(stats.decodePerSecond)) : "",
  ].filter(Boolean).join(" · ");
  return (
    <details class="stats figures">
      <summary>{main}</summary>
      <span>{more}</span>
    </details>
  );
}

function Trouble({ turn, busy, failure }: TurnProps & { failure: Failure | undefined }) {
  const t = texts.value;
  const { status = 0, message = "" } = failure ?? {};
  const said =
    status === 401 ? t.failed.key
    : status === 429 || status === 503 ? t.failed.busy(message)
    : status ? t.failed.other(status, message)
    : message ? t.failed.plain(message)
    : t.failed.unreachable;
  return (
    <div class="trouble" role="alert">
      <p>{said}</p>
      <button type="button" class="worded" disabled={busy} onClick={() => answerAgain(turn)}>{t.retry}</button>
      {status === 401 ? <button type="button" class="worded" onClick={askForKey}>{t.keyChange}</button> : null}
    </div>
  );
}

function Editor({ turn, setEditing }: TurnProps) {
  const t = texts.value;
  const area = useRef<HTMLTextAreaElement>(null);
  const [text, setText] = useState(turn.text);
  useFittingHeight(area, text);
  useEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(text.length, text.length);
  }, []);
  const save = () => {
    setEditing(null);
    if (text !== turn.text || turn.role === "user") editAndSend(turn, text);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape" && !event.isComposing) {
      event.stopPropagation();
      setEditing(null);
    } else if (sends(event)) {
      event.preventDefault();
      save();
    }
  };
  return (
    <div class="editor">
      <textarea ref={area} dir="auto" aria-label={t.editMessage} value={text} onInput={(event) => setText(event.currentTarget.value)} onKeyDown={onKeyDown} />
      <div class="buttons">
        <button type="button" class="worded" onClick={() => setEditing(null)}>{t.cancel}</button>
        <button type="button" class="main" disabled={!text.trim()} onClick={save}>{turn.role === "user" ? t.saveAndSend : t.save}</button>
      </div>
    </div>
  );
}

function ResultView({ turn, conversation }: { turn: Turn; conversation: Conversation }) {
  const call = conversation.turns.flatMap((each) => each.calls ?? []).find(({ id }) => id === turn.callId);
  return (
    <article class="turn tool" data-turn={turn.id}>
      <div class="gutter" />
      <div class="said result">
        <h3>{texts.value.resultOf(call?.name ?? "")}</h3>
        <pre tabIndex={0}>{turn.text}</pre>
      </div>
    </article>
  );
}
