// People by their names, photos by their captions; results follow the typing, and the address follows the results.

import {peopleToCome} from "../dialogs.js";
import {make} from "../element.js";
import {endless, nothing} from "../endless.js";
import {personRow} from "../people.js";
import {photos} from "../photos.js";
import {tile, tilesToCome} from "../picture.js";
import {discovery} from "./discover.js";

const PAUSE = 250;               // ms without a key until it is searched
const KINDS = {people: "People", photos: "Photos"};

export function search({query, signal, titled}) {
  const field = make("input", {type: "search", value: query.get("q") ?? "", placeholder: "People and photos", "aria-label": "Search",
    autocomplete: "off", autocapitalize: "none", spellcheck: false, "data-focus": true, enterKeyHint: "search", maxLength: 100});
  const results = make("div.results", {id: "results", role: "tabpanel"});
  const tabs = Object.entries(KINDS).map(([kind, word]) => make("button", {
    type: "button", role: "tab", id: `tab-${kind}`, "aria-controls": "results", onclick: () => choose(kind),
  }, word));
  const row = make("div.tabs", {role: "tablist", "aria-label": "What to search"}, ...tabs);
  let kind = query.get("kind") in KINDS ? query.get("kind") : "people";
  let [running, pause] = [null, null];
  signal.addEventListener("abort", () => { running?.abort(); clearTimeout(pause); });

  function choose(other) {
    kind = other;
    run();
  }

  function run() {
    running?.abort();
    running = new AbortController();
    const text = field.value.trim();
    for (const tab of tabs) {
      const on = tab.id === `tab-${kind}`;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
    }
    results.setAttribute("aria-labelledby", `tab-${kind}`);
    row.hidden = text === "";
    titled(text ? `${text} · Search` : "Search");
    const wanted = text ? `?${new URLSearchParams({q: text, kind})}` : "";
    if (node.isConnected && location.search !== wanted) history.replaceState(history.state, "", `/search${wanted}`);
    results.replaceChildren(text ? found(text, kind, running.signal) : discovery(running.signal));
  }

  field.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(run, PAUSE);
  });
  // Roving: one tab stop, the arrows move.
  row.addEventListener("keydown", ({key}) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[key];
    if (!step) return;
    const at = tabs.indexOf(document.activeElement);
    const next = tabs[(at + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  });
  const form = make("form.search", {role: "search", onsubmit: (event) => { event.preventDefault(); clearTimeout(pause); run(); }}, field);
  const node = make("section.wide", {"aria-labelledby": "page-title"}, make("h1", {id: "page-title"}, "Search"), form, row, results);
  run();
  return node;
}

function found(text, kind, signal) {
  const path = `/api/search?${new URLSearchParams({q: text, kind})}`;
  const people = kind === "people";
  return endless(make(people ? "ul.people" : "ul.grid", {"aria-label": `${KINDS[kind]} for ${text}`}), path, {
    shown: (items) => (people ? items.map((person) => personRow(person, signal)) : photos.keep(items).map((photo) => tile(photo, signal))),
    skeleton: () => (people ? peopleToCome() : tilesToCome(6)),
    empty: () => nothing("Nothing found", people ? `No name here has “${text}” in it.` : `No caption here says “${text}”.`),
    signal,
    limit: 24,
  });
}
