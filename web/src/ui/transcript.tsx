/** The conversation that is open: its turns, or, before the first, an invitation. */

import { signal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { isWriting, liveTurn } from "../answers";
import { language, texts } from "../preferences";
import { current, model, say, shownTurns } from "../session";
import { IconButton } from "./parts";
import { Llama } from "./icons";
import { TurnView } from "./turn";

/** The turn that is being edited. */
export const editing = signal<string | null>(null);

/** Pixels from the end within which new words keep pulling the view along. */
const NEAR = 80;

export function Transcript() {
  const t = texts.value;
  const conversation = current.value;
  const turns = shownTurns.value;
  const busy = isWriting(conversation.id);
  const scroller = useRef<HTMLDivElement>(null);
  const following = useRef(true);
  const [away, setAway] = useState(false);
  const last = turns.at(-1);
  const said = (last && liveTurn(conversation.id, last.id)?.value) ?? last;

  const toEnd = (behavior: ScrollBehavior) => scroller.current?.scrollTo({ top: scroller.current.scrollHeight, behavior });
  useLayoutEffect(() => {
    following.current = true;
    setAway(false);
    toEnd("instant");
  }, [conversation.id, turns.length]);
  useLayoutEffect(() => {
    if (following.current) toEnd("instant");
  }, [said]);
  useEffect(() => {
    editing.value = null;
  }, [conversation.id]);
  const onScroll = () => {
    const area = scroller.current;
    if (!area) return;
    following.current = area.scrollHeight - area.scrollTop - area.clientHeight < NEAR;
    setAway(!following.current);
  };

  if (!turns.length) return <Invitation />;
  return (
    <div class="scroller" ref={scroller} onScroll={onScroll}>
      <section class="transcript" aria-label={t.transcript}>
        {turns.map((turn) => (
          <TurnView
            key={turn.id} conversation={conversation} turn={turn} last={turn === last} busy={busy}
            editing={editing.value === turn.id} setEditing={(id) => (editing.value = id)}
          />
        ))}
      </section>
      {away ? <IconButton icon="down" class="to-latest" label={t.toLatest} onClick={() => toEnd("smooth")} /> : null}
      <Announcer />
    </div>
  );
}

function Invitation() {
  const t = texts.value;
  return (
    <div class="scroller">
      <section class="invitation" aria-label={t.transcript}>
        <Llama class="big-mark" />
        <h2>{t.greeting}</h2>
        <p>{model.value === "cria" ? t.criaNote : t.otherNote}</p>
        <ul key={language.value}>
          {t.suggestions.map(([about, text]) => (
            <li key={about}>
              <button type="button" onClick={() => say(text ?? "")} disabled={!model.value}>
                <span class="about">{about}</span>
                <span>{text}</span>
              </button>
            </li>
          ))}
        </ul>
      </section>
    </div>
  );
}

/** Reads an answer aloud to a screen reader sentence by sentence; a live region over the text itself would begin anew
 * with each word. */
function Announcer() {
  const t = texts.value;
  const id = current.value.id;
  const turn = shownTurns.value.at(-1);
  const live = turn ? liveTurn(id, turn.id)?.value : undefined;
  const told = useRef({ turn: "", length: 0 });
  const [sentence, setSentence] = useState("");
  const text = live?.text ?? turn?.text ?? "";
  useEffect(() => {
    if (turn?.role !== "assistant") return;
    if (told.current.turn !== turn.id) {
      if (!live) return; // nothing is told of a conversation that is only opened
      told.current = { turn: turn.id, length: text.length > 0 && turn.text === text ? text.length : 0 };
    }
    const fresh = text.slice(told.current.length);
    const whole = live ? (/^[\s\S]*(?:[.!?](?=\s)|[。！？\n])/.exec(fresh)?.[0] ?? "") : fresh;
    if (!whole && live) return;
    told.current.length += whole.length;
    if (!live) told.current.turn = "";
    setSentence(live ? whole : `${whole} ${t.answerDone}`);
  }, [text, live === undefined]);
  return <p class="unseen" aria-live="polite" data-announcer>{sentence}</p>;
}
