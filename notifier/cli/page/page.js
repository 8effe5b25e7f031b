// The demo's page: people side by side, each with a client of their own, and a form that publishes for them.
// /?user=alice&user=bob says who they are; /?user=alice shows one.

import {Person} from "./person.js";
import {publisher} from "./publisher.js";
import {USER} from "./server.js";
import {toast} from "./toasts.js";

const PEOPLE = ["alice", "bob"];
const MOST = 2;

const $ = (id) => document.getElementById(id);

const asked = new URLSearchParams(location.search).getAll("user").filter((user) => USER.test(user)).slice(0, MOST);
const names = asked.length > 0 ? asked : [...PEOPLE];
const rename = publisher(...(names.length > 1 ? [names[1], names[0]] : [PEOPLE.find((user) => user !== names[0]), names[0]]));
const people = [];

/** Names and counts have changed: the title, the address and the switch show them. */
function changed() {
  const unread = new Map(people.map((person) => [person.user, person.unread]));
  const sum = [...unread.values()].reduce((one, other) => one + other, 0);
  document.title = sum > 0 ? `(${sum}) notifier demo` : "notifier demo";
  people.forEach((person, at) => {
    if (person.user !== names[at]) {
      rename(names[at], person.user);
      names[at] = person.user;
      history.replaceState(null, "", `/?${new URLSearchParams(names.map((name) => ["user", name]))}`);
    }
    const [name, count] = $("switch").children[at].children;
    name.textContent = person.user;
    count.hidden = person.unread <= 0;
    count.textContent = person.unread > 99 ? "99+" : person.unread;
    $("switch").children[at].ariaLabel = `Show ${person.user}, ${person.unread} unread`;
  });
}

/** On a narrow screen one person is shown at a time. */
function show(at) {
  [...$("switch").children].forEach((button, index) => { button.ariaPressed = String(index === at); });
  [...$("people").children].forEach((section, index) => section.classList.toggle("away", index !== at));
}

function switchButton(at) {
  const button = document.createElement("button");
  button.type = "button";
  const count = document.createElement("span");
  count.className = "badge";
  count.hidden = true;
  button.append(document.createElement("span"), count);
  button.onclick = () => show(at);
  return button;
}

names.forEach((name, at) => {
  const root = $("person").content.firstElementChild.cloneNode(true);
  root.querySelector(".panel").id = `panel-${at}`;
  root.querySelector(".bell").setAttribute("aria-controls", `panel-${at}`);
  $("people").append(root);
  $("switch").append(switchButton(at));
  people.push(new Person(root, name, {changed: () => { if (people.length === names.length) changed(); }, news: toast}));
});
document.body.dataset.people = names.length;
show(0);
changed();
