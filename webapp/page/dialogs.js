// Questions and lists in front of the page: native dialogs, so Escape closes and the focus stays inside.

import {icon, make} from "./element.js";
import {endless, nothing} from "./endless.js";
import {ANY, field, sending} from "./form.js";
import {personRow} from "./people.js";
import {api, session} from "./session.js";

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

/** Who is signed in logs in again, over the page as it is: resolves with whether they are in. */
export function logInAgain() {
  return new Promise((done) => {
    const {token, me: {name}} = session;
    const dialog = make("dialog.ask.again", {"aria-label": "Your session has ended"});
    const button = make("button.primary", {type: "submit"}, "Log in");
    const fault = make("p.fault", {role: "alert"});
    const form = make("form", {},
      make("h2", {}, "Your session has ended"), make("p.soft", {}, `Log in again, ${name}: all on this page stays as it is.`),
      // For the password manager: it wants to know whose password it is, before it comes to it.
      make("input", {name: "name", value: name, autocomplete: "username", hidden: true}),
      field("Password", "password", {type: "password", autocomplete: "current-password", autofocus: true}, "", ANY),
      fault,
      make("div.row", {}, make("button.plain", {type: "button", onclick: () => dialog.close()}, "Not now"), button),
      make("p.soft", {}, "Somebody else? ", make("a", {href: "/login", onclick: leave}, "Log out")));
    function leave(event) {
      event.preventDefault();
      dialog.close();
      session.leave();
    }
    sending(form, button, fault, async ({password}) => {
      session.resume(await api.post("/api/session", {name, password}, {open: true}));
    });
    // In another tab, too: then nobody need be asked here.
    const ending = new AbortController();
    session.addEventListener("token", () => dialog.close(), {signal: ending.signal});
    dialog.addEventListener("close", () => {
      ending.abort();
      done(session.token !== null && session.token !== token);
    });
    show(form, dialog);
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
