// A photo in the feed and on its own page: who, the picture, the heart, the words, the comments.

import {Comments} from "./comments.js";
import {listPeople} from "./dialogs.js";
import {icon, make, unseen} from "./element.js";
import {face} from "./people.js";
import {photos} from "./photos.js";
import {largePicture} from "./picture.js";
import {knock, session} from "./session.js";
import {called, counted, linked, when} from "./words.js";

const LONG = 180;                // characters of a caption, beyond which the rest is folded away

/** Who took it and when. */
export function byline(photo, ...more) {
  const {owner, created, id} = photo;
  return make("header.byline", {},
    make("a.whole", {href: `/u/${owner.name}`},
      face(owner), make("span.names", {}, make("b", {}, called(owner)), make("span.soft", {}, `@${owner.name}`))),
    make("a.soft.when", {href: `/p/${id}`}, when(created)), ...more);
}

/** The heart and what it has come to; the way to the comments. */
export function actions(photo, comments, signal) {
  const {id} = photo;
  const likes = make("button.likes", {
    type: "button", onclick: () => listPeople("Likes", `/api/photos/${id}/likes`, {empty: ["No likes yet", "The first one could be yours."]}),
  });
  const heart = make("button.round.heart", {
    type: "button", "aria-label": "Like", onclick: () => (session.me === null ? knock() : photos.like(id, !photos.get(id).liked)),
  }, icon("heart"));
  const write = make("button.round", {type: "button", "aria-label": "Comment", onclick: () => comments.write()}, icon("comment"));
  let before = null;
  const show = (now) => {
    if (now === null) return;
    heart.setAttribute("aria-pressed", String(now.liked));
    if (before !== null && before !== now.liked) heart.classList.toggle("popped", now.liked);
    before = now.liked;
    likes.replaceChildren(now.likes === 0 ? "Be the first to like this" : counted(now.likes, "like"));
    likes.disabled = now.likes === 0;
  };
  show(photo);
  photos.watch(id, show, signal);
  return make("div.actions", {}, heart, write, likes);
}

/** The caption; a long one folds. */
export function caption({owner, caption: text}) {
  if (!text.trim()) return null;
  const words = make("p.caption", {}, make("a.by", {href: `/u/${owner.name}`}, owner.name), " ", ...linked(text));
  if (text.length <= LONG && text.split("\n").length <= 3) return words;
  words.classList.add("folded");
  const more = make("button.quiet", {type: "button", onclick: () => { words.classList.remove("folded"); more.remove(); }}, "more");
  return make("div", {}, words, more);
}

/** A card of the feed. `at`: its place; the first two pictures are wanted at once. */
export function card(photo, at, signal) {
  const comments = new Comments(photo, {signal});
  const name = `by-${photo.id}`;
  const head = byline(photo);
  head.querySelector("b").id = name;
  const node = make("article.card", {tabIndex: 0, "aria-labelledby": name, "aria-posinset": at + 1, "aria-setsize": -1},
    head, largePicture(photo, {now: at < 2}), actions(photo, comments, signal), caption(photo), comments.node,
    unseen("Press L to like, C to comment, Page Down for the next photo."));
  node.dataset.photo = photo.id;
  node.addEventListener("keydown", (event) => keys(event, node, comments));
  photos.watch(photo.id, (now) => { if (now === null) node.remove(); }, signal);
  return node;
}

// The keys of a feed: ARIA's feed pattern anywhere in a card, letters only while the card itself has the focus.
const MOVES = {PageDown: (node) => node.nextElementSibling, PageUp: (node) => node.previousElementSibling};
const LETTERS = {
  l: ({dataset: {photo}}) => session.me && photos.like(photo, !photos.get(photo).liked),
  c: (node, comments) => comments.write(),
  Enter: (node) => node.querySelector(".when").click(),
};

function keys(event, node, comments) {
  const {key, target} = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target.closest("textarea")) return;
  const act = target === node ? LETTERS[key] : undefined;
  if (MOVES[key]) MOVES[key](node)?.focus();
  else if (act) act(node, comments);
  else return;
  event.preventDefault();
}

/** In place of cards to come. */
export function cardsToCome(number = 2) {
  const bone = () => make("div.card", {},
    make("div.byline", {}, make("div.face.bone"), make("div.names", {}, make("div.bone.line"), make("div.bone.line.shorter"))),
    make("div.picture.bone"), make("div.bone.line"), make("div.bone.line.shorter"));
  return make("div.feed", {"aria-hidden": "true"}, ...Array.from({length: number}, bone));
}
