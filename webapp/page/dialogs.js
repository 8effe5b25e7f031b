// Questions and lists in front of the page: native dialogs, so Escape closes and the focus stays inside.

import {icon, make} from "./element.js";
import {endless, nothing} from "./endless.js";
import {personRow} from "./people.js";

function show(node, dialog) {
  dialog.append(node);
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  // A click on the dark around it; what is inside fills it.
  dialog.addEventListener("click", ({target}) => { if (target === dialog) dialog.close(); });
  dialog.showModal();
}

/** A question with yes or no: resolves with the answer. */
export function sure(question, {words = "", yes, no = "Cancel"}) {
  return new Promise((answered) => {
    const dialog = make("dialog.ask", {"aria-label": question});
    dialog.addEventListener("close", () => answered(dialog.returnValue === "yes"));
    show(make("form", {method: "dialog"},
      make("h2", {}, question), make("p.soft", {}, words),
      make("div.row", {}, make("button.plain", {value: "no", autofocus: true}, no), make("button.danger", {value: "yes"}, yes))), dialog);
  });
}

/** People, as `path` lists them. */
export function listPeople(title, path, {empty}) {
  const ending = new AbortController();
  const dialog = make("dialog.sheet", {"aria-label": title});
  dialog.addEventListener("close", () => ending.abort());
  const list = make("ul.people");
  // A link leads away from it.
  list.addEventListener("click", ({target}) => { if (target.closest("a")) dialog.close(); });
  const node = make("div", {},
    make("header", {}, make("h2", {}, title), make("button.round", {
      type: "button", autofocus: true, "aria-label": "Close", onclick: () => dialog.close(),
    }, icon("close"))));
  show(node, dialog);
  node.append(endless(list, path, {
    shown: (items) => items.map((person) => personRow(person, ending.signal)),
    skeleton: () => peopleToCome(3),
    empty: () => nothing(...empty),
    signal: ending.signal,
    limit: 30,
  }));
}

/** In place of people to come. */
export function peopleToCome(number = 4) {
  const bone = () => make("div.person", {}, make("div.face.bone"), make("div.names", {}, make("div.bone.line"), make("div.bone.line.shorter")));
  return make("div.people", {"aria-hidden": "true"}, ...Array.from({length: number}, bone));
}
