// A photo as a picture: room kept before it is there, and a heart for a double tap.

import {icon, make} from "./element.js";
import {photos} from "./photos.js";
import {session} from "./session.js";
import {described} from "./words.js";

const TWICE = 320;               // ms between the taps of a double tap
const APART = 32;                // px

/** The picture itself. `now`: it is wanted at once, not when it comes into view. */
export function image(photo, size, {now = false} = {}) {
  const {url, width, height} = photo.images[size];
  const node = make("img", {
    width, height, alt: described(photo), decoding: "async", loading: now ? "eager" : "lazy", draggable: false,
    onload: () => node.classList.add("there"),
    onerror: () => node.classList.add("broken"),
  });
  if (now) node.fetchPriority = "high";
  node.src = url;
  return node;
}

/** The picture, large; two taps like the photo. */
export function largePicture(photo, {now = false} = {}) {
  const figure = make("figure.picture", {}, image(photo, "display", {now}));
  const {width, height} = photo.images.display;
  figure.style.setProperty("--ratio", width / height);
  let last = null;
  figure.addEventListener("pointerup", (event) => {
    if (event.button !== 0 || session.me === null) return;
    const {timeStamp: at, clientX: x, clientY: y} = event;
    const twice = last !== null && at - last.at < TWICE && Math.hypot(x - last.x, y - last.y) < APART;
    last = twice ? null : {at, x, y};
    if (!twice) return;
    const box = figure.getBoundingClientRect();
    burst(figure, x - box.left, y - box.top);
    photos.like(photo.id, true); // two taps never take a like back
  });
  return figure;
}

function burst(figure, x, y) {
  const heart = icon("heart");
  heart.classList.add("burst");
  heart.style.left = `${x}px`;
  heart.style.top = `${y}px`;
  heart.addEventListener("animationend", () => heart.remove());
  figure.append(heart);
}

/** A square of a grid that leads to its photo. */
export function tile(photo, signal) {
  const counts = make("span.counts", {"aria-hidden": "true"});
  const node = make("li", {}, make("a.tile", {href: `/p/${photo.id}`}, image(photo, "square"), counts));
  const show = (now) => {
    if (now === null) return node.remove();
    return counts.replaceChildren(icon("heart"), String(now.likes), icon("comment"), String(now.comments));
  };
  show(photo);
  photos.watch(photo.id, show, signal);
  return node;
}

/** In place of tiles to come. */
export function tilesToCome(number = 9) {
  return make("div.grid", {"aria-hidden": "true"}, ...Array.from({length: number}, () => make("div.tile.bone")));
}
