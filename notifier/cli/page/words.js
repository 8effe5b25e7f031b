// Notifications, times and connection states as people say them.

const DID = {
  follow: () => "started following you",
  like: (thing) => `liked ${thing}`,
  comment: (thing) => `commented on ${thing}`,
};

/** Who acted: "ana", "ana and ben", "ana and 2 others". */
export function who({actors, count}) {
  const names = actors.map(({id, name}) => name || id);
  const others = count - 1;
  if (others <= 0) return names[0];
  if (others === 1 && names.length > 1) return `${names[0]} and ${names[1]}`;
  return `${names[0]} and ${others} other${others > 1 ? "s" : ""}`;
}

/** What they did. */
export function did({kind, object}) {
  const thing = object ? `your ${object.type} ${object.id}` : "something of yours";
  return (DID[kind] ?? (() => `${kind}: ${object ? thing : "you"}`))(thing);
}

const relative = new Intl.RelativeTimeFormat("en", {numeric: "auto"});
const STEPS = [[60, "second", 1], [3600, "minute", 60], [86_400, "hour", 3600], [Infinity, "day", 86_400]];

/** "just now", "3 minutes ago". */
export function ago(time, now = Date.now()) {
  const seconds = Math.min(0, (Date.parse(time) - now) / 1000);
  if (seconds > -10) return "just now";
  const [, unit, size] = STEPS.find(([most]) => -seconds < most);
  return relative.format(Math.round(seconds / size), unit);
}

/** A colour for a name, always the same: degrees. */
export function hue(name) {
  let hash = 0x811c9dc5;  // FNV-1a: names that are alike get colours that are not
  for (const letter of name) hash = Math.imul(hash ^ letter.codePointAt(0), 0x01000193) >>> 0;
  return hash % 360;
}

export const initial = (name) => [...name][0] ?? "?";

/** A connection's state in one word, and what comes after it. */
export function connection({state, resyncing, retryAt}, now = Date.now()) {
  if (state === "waiting") return ["offline", `: retry in ${Math.max(1, Math.ceil((retryAt - now) / 1000))} s`];
  if (state === "stopped") return ["stopped", ""];
  return [resyncing ? "resyncing" : state, ""];
}
