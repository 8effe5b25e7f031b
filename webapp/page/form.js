// Forms: fields with their labels and faults, and a button that is busy while the API thinks.

import {make, say} from "./element.js";

// Rules for fields, as `field` takes them.
export const ANY = [/./s, "This is needed."];
export const PASSWORDS = [/^.{8,}$/s, "Use eight characters at least."];

/**
 * A labelled field; `name` is the API's, so that its faults find the field. `rule`: [pattern, what to say to a value that
 * does not match it], to spare the person a round trip.
 */
export function field(label, name, members = {}, hint = "", rule = null) {
  const id = `field-${name}`;
  const tag = members.rows ? "textarea" : "input";
  const input = make(tag, {id, name, "aria-describedby": `${id}-hint ${id}-fault`, ...members});
  if (rule !== null) RULES.set(input, rule);
  return make("div.field", {},
    make("label", {htmlFor: id}, label), input,
    make("p.fault", {id: `${id}-fault`}), make("p.soft.hint", {id: `${id}-hint`}, hint));
}

const RULES = new WeakMap();      // input -> rule

/** Does `send(values)` when the form is sent; says what went wrong where it went wrong. */
export function sending(form, button, fault, send) {
  form.noValidate = true;        // the API says it in better words
  form.addEventListener("input", ({target}) => tell(form, target.name, ""));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.disabled) return;
    say(fault, "");
    if (!kept(form)) return;
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    try {
      await send(Object.fromEntries(new FormData(form)));
    } catch (problem) {
      if (problem.name !== "Problem") throw problem;
      blame(form, fault, problem);
    } finally {
      button.disabled = false;
      button.removeAttribute("aria-busy");
    }
  });
}

/** Are all rules kept? Says which are not, and goes to the first of those. */
function kept(form) {
  const broken = [...form.elements].filter((input) => {
    const [pattern, words] = RULES.get(input) ?? [/^/, ""];
    const fault = pattern.test(input.value.trim()) ? "" : words;
    tell(form, input.name, fault);
    return fault !== "";
  });
  broken[0]?.focus();
  return broken.length === 0;
}

function blame(form, fault, {fields, message}) {
  const known = Object.entries(fields).filter(([name]) => tell(form, name, fields[name]));
  if (known.length === 0) say(fault, message);
  (form.elements[known[0]?.[0]] ?? form.querySelector("input:not([hidden])")).focus();
}

function tell(form, name, text) {
  const place = name && form.querySelector(`#${CSS.escape(`field-${name}-fault`)}`);
  if (!place) return false;
  say(place, text);
  form.elements[name].setAttribute("aria-invalid", String(text !== ""));
  return true;
}
