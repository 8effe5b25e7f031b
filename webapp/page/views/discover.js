// The newest photos of everybody, and the people behind them: where newcomers begin.

import {make} from "../element.js";
import {endless, nothing} from "../endless.js";
import {face, followButton, people} from "../people.js";
import {photos} from "../photos.js";
import {tile, tilesToCome} from "../picture.js";
import {api, session} from "../session.js";
import {called} from "../words.js";

const SUGGESTED = 8;

export function discover({signal, titled}) {
  titled("Discover");
  return make("section.wide", {"aria-labelledby": "page-title"},
    make("h1", {id: "page-title"}, "Discover"),
    discovery(signal));
}

/** People worth a look, then the grid. */
export function discovery(signal) {
  const suggested = make("div.suggested", {hidden: true});
  const grid = make("ul.grid", {"aria-label": "Newest photos"});
  return make("div.discovery", {}, suggested, endless(grid, "/api/discover", {
    shown: (items) => photos.keep(items).map((photo) => tile(photo, signal)),
    arrived: (items, first) => { if (first && session.me) suggest(suggested, items.map(({owner}) => owner), signal); },
    skeleton: () => tilesToCome(),
    empty: () => nothing("Nobody has shared a photo yet", "Yours would be the very first.", make("a.primary", {href: "/upload"}, "Share a photo")),
    end: "That is every photo there is.",
    signal,
    limit: 24,
  }));
}

/** The people of the newest photos whom one does not follow yet. */
async function suggest(place, owners, signal) {
  const named = new Map(owners.filter(({id}) => id !== session.me.id).map((owner) => [owner.name, owner]));
  const asked = [...named.keys()].slice(0, SUGGESTED).map((name) => api.get(`/api/people/${encodeURIComponent(name)}`, {signal}));
  const found = (await Promise.allSettled(asked)).filter(({status}) => status === "fulfilled").map(({value}) => value);
  const strangers = found.filter(({followed}) => !followed).map((person) => people.keep(person));
  if (strangers.length === 0 || signal.aborted) return;
  place.append(make("h2", {}, "People to follow"), make("ul", {}, ...strangers.map((person) => make("li", {},
    make("a", {href: `/u/${person.name}`}, face(person, "large"), make("b", {}, called(person)), make("span.soft", {}, `@${person.name}`)),
    followButton(person.name, signal)))));
  place.hidden = false;
}
