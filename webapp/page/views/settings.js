// What one says of oneself, one's picture and password, and the way out.

import {sure} from "../dialogs.js";
import {make, say} from "../element.js";
import {nothing} from "../endless.js";
import {ANY, field, PASSWORDS, sending} from "../form.js";
import {face, people} from "../people.js";
import {api, session} from "../session.js";
import {toast} from "../toasts.js";

export function settings({titled}) {
  titled("Settings");
  const {me} = session;
  const button = make("button.primary", {type: "submit"}, "Save");
  const fault = make("p.fault", {role: "alert"});
  const form = make("form", {},
    field("What people call you", "display_name", {value: me.display_name ?? "", maxLength: 60, autocomplete: "name"}),
    field("About you", "bio", {rows: 3, value: me.bio ?? "", maxLength: 300}, "300 characters at most."),
    fault, button);
  sending(form, button, fault, async ({display_name: shown, bio}) => {
    adopt(await api.patch("/api/me", {display_name: shown.trim(), bio: bio.trim()}));
    toast("Saved.");
  });
  return make("section.narrow", {"aria-labelledby": "page-title"},
    make("h1", {id: "page-title"}, "Settings"), portrait(), form, make("hr"), password(), make("hr"),
    make("div.row", {},
      make("button.plain", {type: "button", onclick: () => session.leave()}, `Log out ${me.name}`),
      make("button.plain", {type: "button", onclick: leaveEverywhere}, "Log out everywhere")));
}

/** The way to another password. Whoever else is in with the old one does not stay in. */
function password() {
  const button = make("button.primary", {type: "submit"}, "Change password");
  const fault = make("p.fault", {role: "alert"});
  const form = make("form", {"aria-labelledby": "password-title"},
    make("h2", {id: "password-title"}, "Password"),
    // For the password manager: it wants to know whose password it is, before it comes to it.
    make("input", {name: "name", defaultValue: session.me.name, autocomplete: "username", hidden: true}),
    field("Your password now", "old", {type: "password", autocomplete: "current-password", required: true}, "", ANY),
    field("New password", "new", {type: "password", autocomplete: "new-password", required: true},
      "Eight characters at least; a sentence is best. You stay logged in here; every other device asks for it within a day.",
      PASSWORDS),
    fault, button);
  sending(form, button, fault, async ({old, new: chosen}) => {
    // It ends what renews the token here, too: the answer holds the next.
    session.resume(await api.put("/api/me/password", {old, new: chosen}));
    form.reset();
    toast("Your password is changed. Other devices ask for it within a day.");
  });
  return form;
}

/** Out of all devices; also of those that are lost. */
async function leaveEverywhere({currentTarget: button}) {
  const words = "Every device asks for your password again: this one now, others within a day.";
  if (!await sure("Log out everywhere?", {words, yes: "Log out"})) return;
  button.disabled = true;
  try {
    await api.post("/api/session/end");
    session.leave();
  } catch (fault) {
    toast(`You are still logged in. ${fault.message}`, {tone: "fault"});
  }
  button.disabled = false;
}

function adopt(person) {
  if (!person) return;
  session.update(person);
  people.keep(person);
}

/** One's own picture, and the way to another. */
function portrait() {
  const shown = make("div.portrait", {});
  const fault = make("p.fault", {role: "alert"});
  const input = make("input.unseen", {type: "file", id: "portrait", accept: "image/jpeg,image/png,image/webp"});
  const draw = () => shown.replaceChildren(face(session.me, "huge"), make("label.plain", {htmlFor: "portrait"}, "Change picture"));
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (!file) return;
    say(fault, "");
    const form = new FormData();
    form.append("file", file, file.name);
    try {
      adopt(await api.upload("PUT", "/api/me/avatar", form) ?? await api.get("/api/me"));
      draw();
      toast("That is you now.");
    } catch (problem) {
      say(fault, `Not changed. ${Object.values(problem.fields ?? {})[0] ?? problem.message}`);
    }
    input.value = "";
  });
  draw();
  return make("div", {}, input, shown, fault);
}

export function missing({titled}) {
  titled("Not found");
  return make("section.narrow", {"aria-labelledby": "page-title"}, make("h1.unseen", {id: "page-title"}, "Not found"),
    nothing("There is nothing here", "The address leads nowhere; perhaps it was cut short.", make("a.primary", {href: "/"}, "Back home")));
}
