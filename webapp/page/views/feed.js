// Home: what the people one follows have shown, newest first.

import {card, cardsToCome} from "../card.js";
import {make} from "../element.js";
import {endless, nothing} from "../endless.js";
import {people} from "../people.js";
import {photos} from "../photos.js";
import {discovery} from "./discover.js";

export function feed({signal, titled}) {
  titled("");
  let number = 0;
  const list = make("div.feed", {role: "feed", "aria-label": "Photos of people you follow"});
  return make("section.narrow", {"aria-labelledby": "page-title"},
    make("h1.unseen", {id: "page-title"}, "Home"),
    endless(list, "/api/feed", {
      shown: (items) => photos.keep(items).map((photo) => card(photo, number++, signal)),
      skeleton: () => cardsToCome(number === 0 ? 2 : 1),
      empty: () => newcomer(signal),
      end: "You have seen it all. Go outside and take a photo.",
      signal,
      limit: 6,
    }));
}

/** Nobody followed yet: people to begin with, and their photos. */
function newcomer(signal) {
  const way = make("a.primary", {href: "/upload"}, "Share your first photo");
  people.addEventListener("follow", () => {
    way.href = "/";
    way.textContent = "See your photos";
  }, {signal});
  return make("div", {},
    nothing("It is quiet in here", "Follow a few people and their photos will be waiting for you here.", way),
    discovery(signal));
}
