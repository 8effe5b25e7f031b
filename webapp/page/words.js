// Numbers, times, names and notifications as people say them.

import {make} from "./element.js";

const relative = new Intl.RelativeTimeFormat("en", {numeric: "auto"});
const compact = new Intl.NumberFormat("en", {notation: "compact", maximumFractionDigits: 1});
const day = new Intl.DateTimeFormat("en", {day: "numeric", month: "long", year: "numeric"});
const STEPS = [[3600, "minute", 60], [86_400, "hour", 3600], [604_800, "day", 86_400]];
const SHORT = {minute: "m", hour: "h", day: "d"};

/** "just now", "3 minutes ago", and from a week on the date. */
export function ago(time, now = Date.now()) {
  const seconds = (now - Date.parse(time)) / 1000;
  if (seconds < 60) return "just now";
  const step = STEPS.find(([most]) => seconds < most);
  return step ? relative.format(-Math.floor(seconds / step[2]), step[1]) : day.format(new Date(time));
}

/** The same in small: "now", "3m", "2d", "5w". */
export function briefly(time, now = Date.now()) {
  const seconds = (now - Date.parse(time)) / 1000;
  if (seconds < 60) return "now";
  const step = STEPS.find(([most]) => seconds < most);
  return step ? `${Math.floor(seconds / step[2])}${SHORT[step[1]]}` : `${Math.floor(seconds / 604_800)}w`;
}

/** A time element that keeps itself current: see `keepTimes`. */
export function when(time, {short = false} = {}) {
  const title = new Date(time).toLocaleString();
  const node = make("time", {dateTime: time, title}, (short ? briefly : ago)(time));
  if (short) node.dataset.short = "";
  return node;
}

/** Brings all times of the page up to date, every `every` ms. */
export function keepTimes(every = 20_000) {
  return setInterval(() => {
    for (const node of document.querySelectorAll("time[datetime]")) {
      const text = ("short" in node.dataset ? briefly : ago)(node.dateTime);
      if (node.textContent !== text) node.textContent = text;
    }
  }, every);
}

/** 950, "1.2K", "3M". */
export const short = (number) => compact.format(number);

/** "1 like", "1.2K likes". */
export const counted = (number, noun) => `${short(number)} ${noun}${number === 1 ? "" : "s"}`;

/** What to call a person. */
export const called = ({display_name: shown, name}) => shown || name;

/** A photo in words, for those who do not see it. */
export function described({caption, owner}) {
  const words = caption.trim();
  return words ? `Photo by ${called(owner)}: ${words}` : `Photo by ${called(owner)}`;
}

// The same as the API's, or somebody would be told of words that do not show it.
const MENTION = /(?<![\p{L}\p{N}_@.])@([A-Za-z0-9_.]{0,29}[A-Za-z0-9_])(?![A-Za-z0-9_])/gu;

/** Text whose @names are links: nodes and strings. */
export function linked(text) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(MENTION)) {
    const [said, name] = found;
    parts.push(text.slice(at, found.index), make("a.mention", {href: `/u/${name.toLowerCase()}`}, said));
    at = found.index + said.length;
  }
  parts.push(text.slice(at));
  return parts.filter((part) => part !== "");
}

// ------------------------------------------------------------------------------------------- notifications

const DID = {
  follow: () => "started following you",
  like: () => "liked your photo",
  comment: ({text}, name) => (mentions(text, name) ? "mentioned you" : "commented on your photo"),
};

const mentions = (text, name) => [...(text ?? "").matchAll(MENTION)].some(([, who]) => who.toLowerCase() === name);

/** Who acted: "ana", "ana and ben", "ana and 2 others". */
export function who({actors, count}) {
  const names = actors.map(({id, name}) => name || id);
  const others = count - 1;
  if (others <= 0) return names[0];
  if (others === 1 && names.length > 1) return `${names[0]} and ${names[1]}`;
  return `${names[0]} and ${others} other${others > 1 ? "s" : ""}`;
}

/** What they did to the person called `name`; kinds that are not known here are named as they come. */
export const did = (row, name) => (DID[row.kind] ?? (({kind}) => `${kind}: you`))(row, name);

/** Does an address stay on this site? Browsers take a backslash for a slash. */
export const stays = (address) => /^\/(?![/\\])/.test(address ?? "");

/** Where a row leads: to the photo, or to whoever follows. */
export function leads({object, actors}) {
  if (stays(object?.url)) return object.url;
  const {name} = actors[0];
  return name ? `/u/${encodeURIComponent(name)}` : "/";
}
