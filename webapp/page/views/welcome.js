// The door: what this is, signing up, logging in.

import {make} from "../element.js";
import {ANY, field, PASSWORDS, sending} from "../form.js";
import {api, session} from "../session.js";
import {stays} from "../words.js";

const NAMES = [/^[a-z0-9_.]*[a-z0-9_][a-z0-9_.]*$/i, "Use letters, digits, dots and underscores."];
const NAME = {autocomplete: "username", autocapitalize: "none", spellcheck: false, maxLength: 30, required: true};

/** What a stranger sees. */
export function welcome({signal, titled}) {
  titled("");
  const wall = make("div.wall", {"aria-hidden": "true"});
  hang(wall, signal);
  return make("section.door", {"aria-labelledby": "page-title"},
    wall,
    make("div.pitch", {},
      make("h1", {id: "page-title"}, "See what your people see."),
      make("p.lead", {}, "Glimpse is a quiet place for photos. No noise, no numbers games: pictures of the people you like, newest first."),
      make("div.row", {}, make("a.primary", {href: "/signup"}, "Join Glimpse"), make("a.plain", {href: "/login"}, "Log in")),
      make("p.soft", {}, "Just looking? ", make("a", {href: "/discover"}, "Discover photos"))));
}

/** Pictures behind the words; without any the words stand alone. */
async function hang(wall, signal) {
  try {
    const {items} = await api.get("/api/discover?limit=12", {signal});
    wall.append(...items.map((photo) => {
      const {url, width, height} = photo.images.square;
      return make("img", {src: url, width, height, alt: "", decoding: "async", onload: ({target}) => target.classList.add("there")});
    }));
  } catch { /* the door opens without pictures, too */ }
}

export function signup(visit) {
  return door(visit, {
    title: "Join Glimpse", word: "Create account", path: "/api/people",
    fields: [
      field("Name", "name", {...NAME, "data-focus": true}, "Letters, digits, dots and underscores. It stays yours for good.", NAMES),
      field("What people call you", "display_name", {autocomplete: "name", maxLength: 60}, "Optional, as “Ana Lima”."),
      field("Password", "password", {type: "password", autocomplete: "new-password", required: true},
        "Eight characters at least; a sentence is best.", PASSWORDS),
    ],
    other: ["Already here?", "/login", "Log in"],
    given: ({name, display_name: shown, password}) => ({name: name.trim().toLowerCase(), display_name: shown.trim(), password}),
  });
}

export function login(visit) {
  return door(visit, {
    title: "Welcome back", word: "Log in", path: "/api/session",
    fields: [
      field("Name", "name", {...NAME, "data-focus": true}, "", ANY),
      field("Password", "password", {type: "password", autocomplete: "current-password", required: true}, "", ANY),
    ],
    other: ["New here?", "/signup", "Join Glimpse"],
    given: ({name, password}) => ({name: name.trim().toLowerCase(), password}),
  });
}

function door({query, titled}, {title, word, path, fields, other: [ask, href, link], given}) {
  titled(title);
  const next = query.get("next") ?? "";
  const button = make("button.primary", {type: "submit"}, word);
  const fault = make("p.fault", {role: "alert"});
  const form = make("form.door-form", {}, make("h1", {id: "page-title"}, title), ...fields, fault, button,
    make("p.soft", {}, `${ask} `, make("a", {href: next ? `${href}?next=${encodeURIComponent(next)}` : href}, link)));
  sending(form, button, fault, async (values) => {
    const entered = await api.post(path, given(values));
    // Only ways within the site: `next` comes with the address, and anybody can make one.
    const way = stays(next) ? next : "/";
    history.replaceState(history.state, "", way);
    session.enter(entered);
  });
  return make("section.narrow", {"aria-labelledby": "page-title"}, form);
}
