/** A critique, its words coloured by how much the reward moved over them, readable with the mouse and the keyboard. */

import { useId, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { formatChange, formatScore } from "./format";
import { splitWords, type TracedToken, type Word, wordChange, wordStrengths } from "./words";

interface Props {
  name: string;
  tokens: TracedToken[];
  writing: boolean;
  cut: boolean;
  /** Which token the chosen word ends before. */
  onToken: (token: number) => void;
}

export function Trace({ name, tokens, writing, cut, onToken }: Props) {
  const id = useId();
  const box = useRef<HTMLDivElement>(null);
  const words = useMemo(() => splitWords(tokens), [tokens, tokens.length]);
  const strengths = useMemo(() => wordStrengths(words), [words]);
  const spoken = useMemo(() => words.flatMap((word, i) => (word.text ? [i] : [])), [words]); // without bare spaces
  const [active, setActive] = useState<number | null>(null);
  const traced = words.some((word) => word.after !== null);

  useLayoutEffect(() => {
    if (writing && box.current) box.current.scrollTop = box.current.scrollHeight;
  });
  const choose = (place: number) => {
    setActive(place);
    onToken(words[place]?.end ?? 0);
  };
  const move = (word: number | undefined) => {
    if (word === undefined) return;
    choose(word);
    box.current?.querySelector(`[data-word="${word}"]`)?.scrollIntoView({ block: "nearest" });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const place = active === null ? -1 : spoken.indexOf(active);
    const target = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: spoken.length - 1 }[event.key];
    if (event.key === "ArrowDown" || event.key === "ArrowUp") move(wordInNextLine(box.current, active, event.key));
    else if (target !== undefined) move(spoken[Math.min(Math.max(target, 0), spoken.length - 1)]);
    else return;
    event.preventDefault();
  };
  const onPointer = (event: MouseEvent) => {
    const word = (event.target as HTMLElement).dataset.word;
    if (word !== undefined && Number(word) !== active) choose(Number(word));
  };
  const word = active === null ? undefined : words[active];
  return (
    <div>
      <div
        ref={box}
        class="critique-text"
        role="listbox"
        tabIndex={0}
        aria-label={`${name}, word by word`}
        aria-busy={writing}
        aria-activedescendant={word ? `${id}-${active}` : undefined}
        onKeyDown={onKeyDown}
        onFocus={() => active === null && move(spoken[0])}
        onMouseMove={onPointer}
      >
        {words.map((one, i) => (
          <WordView key={i} id={`${id}-${i}`} place={i} word={one} strength={strengths[i] ?? 0} active={i === active} />
        ))}
        {writing && <span class="caret" aria-hidden="true" />}
      </div>
      <p class="readout">{readout(word, traced && !writing)}</p>
      {cut && <p class="hint">Cut at the token limit.</p>}
    </div>
  );
}

interface WordProps {
  id: string;
  place: number;
  word: Word;
  strength: number;
  active: boolean;
}

function WordView({ id, place, word, strength, active }: WordProps) {
  if (!word.text) return <>{word.space}</>;
  const share = Math.min(Math.round(Math.abs(strength) * 100), 100);
  return (
    <>
      {word.space}
      <span
        id={id}
        role="option"
        data-word={place}
        aria-selected={active}
        aria-label={`${word.text}, ${describeWord(word)}`}
        class={strength >= 0 ? "word up" : "word down"}
        style={{ "--share": `${share}%` }}
      >
        {word.text}
      </span>
    </>
  );
}

function describeWord(word: Word): string {
  if (word.after === null) return "reward not known";
  return `reward ${formatScore(word.after)}, change ${formatChange(wordChange(word))}`;
}

function readout(word: Word | undefined, traced: boolean) {
  if (!traced) return "";
  if (!word) {
    return (
      <span class="muted">
        Reward <span class="word up full">up</span> or <span class="word down full">down</span> over a word. Point at one, or
        use the arrow keys.
      </span>
    );
  }
  return (
    <>
      <strong>“{word.text}”</strong> {describeWord(word)}
    </>
  );
}

/** The word nearest below or above the active one. */
function wordInNextLine(box: HTMLElement | null, active: number | null, key: string): number | undefined {
  const words = Array.from(box?.querySelectorAll<HTMLElement>("[data-word]") ?? []);
  const from = words.find((word) => word.dataset.word === String(active));
  if (!from) return Number(words[0]?.dataset.word ?? 0);
  const down = key === "ArrowDown";
  const others = words.filter((word) => (down ? word.offsetTop > from.offsetTop + 4 : word.offsetTop < from.offsetTop - 4));
  const lines = others.map((word) => word.offsetTop);
  const line = down ? Math.min(...lines) : Math.max(...lines);
  const inLine = others.filter((word) => Math.abs(word.offsetTop - line) <= 4);
  const distance = (word: HTMLElement) => Math.abs(word.offsetLeft - from.offsetLeft);
  const nearest = inLine.sort((a, b) => distance(a) - distance(b))[0];
  return nearest && Number(nearest.dataset.word);
}
