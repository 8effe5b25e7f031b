// The form that makes events, as a producer would append them.

import {USER, publish} from "./server.js";

const $ = (id) => document.getElementById(id);
const WHO = "1 to 64 characters of A-Z a-z 0-9 _ . -";

const people = (text) => [...new Set(text.split(/[\s,]+/).filter(Boolean))];

/** The event that the form describes. */
function eventOf(form) {
  const kind = form.kind.value;
  const event = {
    type: (form.undo.checked ? "un" : "") + kind,
    actor: {id: form.from.value.trim()},
    to: people(form.to.value),
  };
  if (kind !== "follow") {
    const [type, ...id] = form.object.value.trim().split("/");
    event.object = {type, id: id.join("/")};
  }
  const text = form.text.value.trim();
  if (kind === "comment" && !form.undo.checked && text) event.text = text;
  return event;
}

/** What is wrong with each field, "" for nothing. */
function faults({actor, to, object}) {
  const stranger = to.find((user) => !USER.test(user));
  return {
    from: USER.test(actor.id) ? "" : `From: a user id is needed, ${WHO}`,
    to: to.length === 0 ? "To: for whom? A user id is needed, or several with commas between them"
      : stranger !== undefined ? `To: “${stranger}” is no user id: ${WHO} are`
      : to.length === 1 && to[0] === actor.id ? "To: nobody hears of what they did themselves; name somebody else" : "",
    object: object === undefined || (object.type !== "" && object.id !== "") ? ""
      : "Object: a type and an id are needed, as in photo/99",
  };
}

function complain(form, found) {
  let first = null;
  for (const [name, fault] of Object.entries(found)) {
    const said = $(`${name}-fault`);
    said.textContent = fault;
    said.hidden = fault === "";
    form[name].setAttribute("aria-invalid", fault !== "");
    if (fault !== "") first ??= form[name];
  }
  first?.focus();
  return first !== null;
}

function show(form) {
  const kind = form.kind.value;
  $("undo-name").textContent = `un${kind}`;
  $("object-field").hidden = kind === "follow";
  $("text-field").hidden = kind !== "comment" || form.undo.checked;
  const event = JSON.stringify(eventOf(form)).replaceAll("'", "'\\''");
  $("preview").textContent = `redis-cli -p PORT XADD notifier:events '*' event \\\n  '${event}'`;
}

async function send(form) {
  const event = eventOf(form);
  const sent = $("sent");
  sent.textContent = "";
  if (complain(form, faults(event))) return;
  try {
    const {entry} = await publish(event);
    sent.className = "sent good";
    sent.textContent = `Accepted as entry ${entry}: ${event.type} from ${event.actor.id} to ${event.to.join(", ")}`;
  } catch (fault) {
    sent.className = "sent bad";
    sent.textContent = `Not published: ${fault.message}`;
  }
}

/** Makes the form work; from the one to the other at first. The function that it gives puts other names in. */
export function publisher(from, to) {
  const form = $("send");
  const put = (one, other) => {
    [form.from.value, form.to.value] = [one, other];
    show(form);
  };
  put(from, to);
  form.addEventListener("input", () => show(form));
  form.addEventListener("change", () => complainLess(form));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form);
  });
  $("swap").onclick = () => {
    put(form.to.value, form.from.value);
    complainLess(form);
  };
  return (was, now) => {
    const renamed = (user) => (user === was ? now : user);
    put(renamed(form.from.value.trim()), people(form.to.value).map(renamed).join(", "));
  };
}

/** What has been put right is no fault any more; new faults are told when the form is sent. */
function complainLess(form) {
  const now = faults(eventOf(form));
  for (const [name, fault] of Object.entries(now)) {
    if (fault !== "" || $(`${name}-fault`).hidden) continue;
    $(`${name}-fault`).hidden = true;
    form[name].setAttribute("aria-invalid", "false");
  }
}
