// The people that this page knows: who is followed, and how a person is shown beside what they did.

import {make, unseen} from "./element.js";
import {Intents} from "./intent.js";
import {api, knock, session} from "./session.js";
import {toast} from "./toasts.js";
import {called} from "./words.js";

class People extends EventTarget {
  #known = new Map(); #intents = new Intents();

  /** Takes in what the API says of a person: {name, followed?, followers?}. */
  keep(person) {
    const held = this.#known.get(person.name);
    const mine = held && this.#intents.has(person.name) ? {followed: held.followed, followers: held.followers} : {};
    this.#known.set(person.name, {...held, ...person, ...mine});
    if (held) this.#tell(person.name);
    return this.#known.get(person.name);
  }

  get(name) { return this.#known.get(name); }

  watch(name, changed, signal) {
    this.addEventListener(name, () => changed(this.#known.get(name)), {signal});
  }

  /** Follows or not: at once here, then there; back again if that fails. */
  async follow(name, followed) {
    const person = this.#known.get(name);
    if (person === undefined || person.followed === followed) return;
    const before = person.followed;
    this.#show(name, followed);
    const path = `/api/people/${encodeURIComponent(name)}/follow`;
    const end = await this.#intents.want(name, before, followed, (on) => (on ? api.put(path) : api.delete(path)));
    if (end === null) return;
    this.dispatchEvent(new Event("follow"));
    if (end.fault === null) return;
    this.#show(name, end.on);
    toast(`${followed ? "Following" : "Unfollowing"} ${name} did not work. ${end.fault.message}`, {
      tone: "fault", action: "Try again", act: () => this.follow(name, followed),
    });
  }

  clear() { this.#known.clear(); }

  #show(name, followed) {
    const person = this.#known.get(name);
    if (person.followed === followed) return;
    const followers = person.followers === undefined ? undefined : Math.max(0, person.followers + (followed ? 1 : -1));
    this.#known.set(name, {...person, followed, followers});
    this.#tell(name);
  }

  #tell(name) {
    this.dispatchEvent(new Event(name));
  }
}

export const people = new People();

/** A colour for a name, always the same: degrees. */
function hue(name) {
  let hash = 0x811c9dc5;         // FNV-1a: names that are alike get colours that are not
  for (const letter of name) hash = Math.imul(hash ^ letter.codePointAt(0), 0x01000193) >>> 0;
  return hash % 360;
}

/** A person's picture, or their initial on a colour of their own. For eyes: the name stands beside it. */
export function face({name, avatar, image}, size = "") {
  const node = make(`span.face${size ? `.${size}` : ""}`, {"aria-hidden": "true"}, [...(name || "?")][0].toUpperCase());
  node.style.setProperty("--hue", hue(name || ""));
  const url = avatar ?? image;
  if (url) node.append(make("img", {src: url, alt: "", decoding: "async", loading: "lazy", onerror: ({target}) => target.remove()}));
  return node;
}

/** Follow, or Following; nothing for oneself. */
export function followButton(name, signal) {
  if (session.me?.name === name) return null;
  const word = make("span", {});
  const button = make("button.follow", {
    type: "button",
    onclick: () => {
      if (session.me === null) return knock();
      return people.follow(name, !people.get(name).followed);
    },
  }, word, unseen(` ${name}`));
  const show = ({followed}) => {
    button.setAttribute("aria-pressed", String(followed));
    word.textContent = followed ? "Following" : "Follow";
  };
  show(people.get(name));
  people.watch(name, show, signal);
  return button;
}

/** A row of a list of people. `follow`: what the API said of it, if it did. */
export function personRow(person, signal) {
  const {name, bio} = person;
  const known = typeof person.followed === "boolean" ? people.keep(person) : null;
  return make("li.person", {},
    make("a.whole", {href: `/u/${name}`}, face(person),
      make("span.names", {}, make("b", {}, called(person)), make("span.soft", {}, `@${name}`, bio ? ` · ${bio}` : ""))),
    known && followButton(name, signal));
}
