// What the page asks of its own server: a person's token, and to append an event.

export const USER = /^[A-Za-z0-9_.\-]{1,64}$/;

/** Where to connect, and a token: {token, expires, websocket, api}. Rejects with a text for the person. */
export const pass = (user) => call(`/token?user=${encodeURIComponent(user)}`);

/** Appends an event: {entry}, its id in the stream. Rejects with a text for the person. */
export const publish = (event) => call("/publish", {
  method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(event),
});

async function call(url, options = {}) {
  let answer;
  try {
    answer = await fetch(url, {cache: "no-store", signal: AbortSignal.timeout(10_000), ...options});
  } catch {
    throw new Error("the demo does not answer; is it still running?");
  }
  const said = await answer.json().catch(() => null);  // not JSON: the status says it
  if (answer.ok) return said;
  throw new Error(said?.detail || said?.title || `the answer was ${answer.status}`);
}
