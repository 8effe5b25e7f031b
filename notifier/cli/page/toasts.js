// Short messages at the edge of the page, which a screen reader hears too: the region is a live one.

const LASTS = 5_000;   // ms
const GATHER = 400;    // ms in which what comes together becomes one message
const MOST = 3;

const waiting = new Map();  // person -> texts

/** Says that something has come for a person; several that come together in one message. */
export function toast(person, text) {
  if (waiting.has(person)) {
    waiting.get(person).push(text);
    return;
  }
  waiting.set(person, [text]);
  setTimeout(() => {
    const texts = waiting.get(person);
    waiting.delete(person);
    show(person, texts.length === 1 ? texts[0] : `${texts.length} notifications; the latest: ${texts.at(-1)}`);
  }, GATHER);
}

function show(person, text) {
  const region = document.getElementById("toasts");
  const made = document.createElement("p");
  const name = document.createElement("b");
  name.textContent = `For ${person}: `;
  made.append(name, text);
  region.append(made);
  while (region.children.length > MOST) region.firstElementChild.remove();
  setTimeout(() => made.remove(), LASTS);
}
