// The report's list of pairs: filters, and a pair with what each model wrote about it. All texts are set as text.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("pair-data").textContent);
  const form = document.getElementById("pair-filters");
  const list = document.getElementById("pair-list");
  const detail = document.getElementById("pair-detail");
  const count = document.getElementById("pair-count");
  const SHOWN = 200;

  function make(tag, parent, text, className) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    if (parent) parent.append(element);
    return element;
  }

  function choose(name, values, label = (value) => value) {
    for (const value of values) make("option", form.elements[name], label(value)).value = value;
  }

  const methods = data.arms.map((arm, k) => Object.keys(arm.margins).map((method) => `${k}:${method}`)).flat();
  const named = (value) => {
    const at = value.indexOf(":");
    return `${data.arms[Number(value.slice(0, at))].name}: ${value.slice(at + 1)}`;
  };
  const margins = (value) => {
    const at = value.indexOf(":");
    return at < 0 ? [] : data.arms[Number(value.slice(0, at))].margins[value.slice(at + 1)] || [];
  };
  choose("method", methods, named);
  choose("other", ["", ...methods], (value) => (value ? named(value) : "no other"));
  choose("category", ["", ...new Set(data.pairs.map((pair) => pair.category))], (value) => value || "all categories");

  const outcome = (margin) => (margin === null ? "none" : margin > 0 ? "right" : margin < 0 ? "wrong" : "tie");
  const shown = (value) => (value === null || value === undefined ? "–" : value.toFixed(3));

  function matches(pair, i, mine, theirs, wanted) {
    const margin = mine[i] ?? null;
    if (margin === null) return false;
    if (wanted.category && pair.category !== wanted.category) return false;
    if (wanted.outcome === "differ") {
      if (!theirs.length || outcome(theirs[i] ?? null) === outcome(margin) || outcome(theirs[i] ?? null) === "none") return false;
    } else if (wanted.outcome && outcome(margin) !== wanted.outcome) return false;
    if (wanted.longer === "chosen" && pair.longer <= 0) return false;
    if (wanted.longer === "rejected" && pair.longer >= 0) return false;
    if (wanted.from !== "" && Math.abs(margin) < Number(wanted.from)) return false;
    if (wanted.to !== "" && Math.abs(margin) > Number(wanted.to)) return false;
    const words = wanted.words.toLowerCase();
    return !words || pair.text.includes(words);
  }

  for (const pair of data.pairs) {
    pair.text = [...pair.prompt.map((turn) => turn.content), pair.chosen, pair.rejected].join("\n").toLowerCase();
  }

  function update() {
    const wanted = Object.fromEntries(new FormData(form));
    const mine = margins(wanted.method);
    const theirs = margins(wanted.other);
    const found = data.pairs.map((_, i) => i).filter((i) => matches(data.pairs[i], i, mine, theirs, wanted));
    found.sort((a, b) => mine[a] - mine[b]); // the most wrong first
    count.textContent = `${found.length} of ${data.pairs.length} pairs` + (found.length > SHOWN ? `, the first ${SHOWN} shown` : "");
    list.replaceChildren();
    for (const i of found.slice(0, SHOWN)) {
      const pair = data.pairs[i];
      const row = make("tr", list);
      const open = make("button", make("td", row), pair.prompt.at(-1)?.content.slice(0, 90) || "(no prompt)");
      open.type = "button";
      open.addEventListener("click", () => show(i));
      make("td", row, pair.category);
      make("td", row, String(pair.longer));
      make("td", row, shown(mine[i]), outcome(mine[i]));
      make("td", row, theirs.length ? shown(theirs[i]) : "", theirs.length ? outcome(theirs[i] ?? null) : "");
    }
    detail.replaceChildren();
  }

  function show(i) {
    const pair = data.pairs[i];
    detail.replaceChildren();
    make("h3", detail, `Pair ${pair.id}`);
    for (const turn of pair.prompt) {
      make("h4", detail, turn.role);
      make("pre", detail, turn.content);
    }
    const sides = make("div", detail, undefined, "sides");
    for (const side of ["chosen", "rejected"]) {
      const column = make("section", sides);
      make("h4", column, side);
      make("pre", column, pair[side]);
      for (const arm of data.arms) {
        const about = arm.sides?.[side];
        if (!about) continue;
        make("h5", column, `${arm.name}: score ${shown(about.score[i])}, direct ${shown(about.direct_score[i])}`);
        if (about.critique[i] !== null) make("pre", column, about.critique[i], "critique");
      }
    }
    detail.scrollIntoView({ behavior: "smooth", block: "nearest" });
    detail.focus();
  }

  function follow() {
    const [place, query] = location.hash.slice(1).split("?");
    if (place !== "pairs" || query === undefined) return;
    form.reset();
    for (const [name, value] of new URLSearchParams(query)) {
      if (name === "arm") continue;
      if (form.elements[name]) form.elements[name].value = value;
    }
    update();
    document.getElementById("pairs").scrollIntoView();
  }

  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", follow);
  update();
  follow();
})();
