// A person: who they are, how many they are followed by, and their photos.

import {listPeople} from "../dialogs.js";
import {icon, make} from "../element.js";
import {endless, nothing, trouble} from "../endless.js";
import {face, followButton, people} from "../people.js";
import {photos} from "../photos.js";
import {tile, tilesToCome} from "../picture.js";
import {api, session} from "../session.js";
import {called, linked, short} from "../words.js";

export function profile({params: [given], signal, titled}) {
  const name = given.toLowerCase();
  const path = `/api/people/${encodeURIComponent(name)}`;
  const head = make("div.profile");
  const rest = make("div");
  const node = make("section.wide", {"aria-labelledby": "page-title"}, head, rest);
  titled(`@${name}`);
  const load = async () => {
    head.replaceChildren(make("div.face.huge.bone"), make("div.about", {},
      make("h1", {id: "page-title"}, name), make("div.bone.line"), make("div.bone.line.shorter")));
    rest.replaceChildren(tilesToCome());
    try {
      const person = people.keep(await api.get(path, {signal}));
      titled(`${called(person)} (@${name})`);
      head.replaceChildren(...about(person, path, signal));
      rest.replaceChildren(photosOf(person, path, signal));
    } catch (fault) {
      if (signal.aborted) return;
      head.replaceChildren();
      rest.replaceChildren(make("h1.unseen", {id: "page-title"}, name), fault.status === 404
        ? nothing(`Nobody here is called ${name}`, "Look for another name.", make("a.primary", {href: "/search"}, "Search"))
        : trouble(fault, load));
    }
  };
  load();
  return node;
}

function about(person, path, signal) {
  const {name, bio, you} = person;
  const list = (title, which, empty) => () => listPeople(title, `${path}/${which}`, {empty});
  const followers = make("button", {
    type: "button", onclick: list("Followers", "followers", ["No followers yet", "They will come."]),
  });
  const following = make("button", {
    type: "button", onclick: list("Following", "following", ["Nobody yet", "Whoever they follow stands here."]),
  }, make("b", {}, short(person.following)), " following");
  const show = (now) => {
    followers.replaceChildren(make("b", {}, short(now.followers)), now.followers === 1 ? " follower" : " followers");
  };
  show(person);
  people.watch(name, show, signal);
  const actions = you
    ? [make("a.plain", {href: "/settings"}, "Edit profile"), make("a.round", {href: "/upload", "aria-label": "Share a photo"}, icon("share"))]
    : [followButton(name, signal)];
  return [face(person, "huge"), make("div.about", {},
    make("h1", {id: "page-title"}, called(person)),
    make("p.soft", {}, `@${name}`),
    make("div.row", {}, ...actions),
    make("div.numbers", {},
      make("span", {}, make("b", {}, short(person.photos)), person.photos === 1 ? " photo" : " photos"),
      followers, following),
    bio ? make("p.bio", {}, ...linked(bio)) : null)];
}

function photosOf({name, you}, path, signal) {
  const grid = make("ul.grid", {"aria-label": `Photos by ${name}`});
  return endless(grid, `${path}/photos`, {
    shown: (items) => photos.keep(items).map((photo) => tile(photo, signal)),
    skeleton: () => tilesToCome(),
    empty: () => (you
      ? nothing("Your wall is bare", "Share a photo and it will hang here.", make("a.primary", {href: "/upload"}, "Share your first photo"))
      : nothing("No photos yet", session.me ? `Follow ${name} to see the first one.` : "Come back later.")),
    signal,
    limit: 24,
  });
}
