// Switches that show at once what the person wants, while the API is still being told.

/** The last wish wins, one request at a time for each key; what is refused is taken back. */
export class Intents {
  #open = new Map();             // key -> {kept: what the API has, wanted}

  /**
   * `kept`: what the API has now. `send(wanted)`: tells it. Resolves when nothing is under way for the key any more:
   * with {on: what the API has now, fault: why it is not what was wanted, or null}. Null: another call waits for that.
   */
  async want(key, kept, wanted, send) {
    const under = this.#open.get(key);
    if (under !== undefined) {
      under.wanted = wanted;
      return null;
    }
    const intent = {kept, wanted};
    this.#open.set(key, intent);
    let fault = null;
    while (fault === null && intent.kept !== intent.wanted) {
      const asked = intent.wanted;
      try {
        await send(asked);
        intent.kept = asked;
      } catch (problem) {
        fault = problem;
      }
    }
    this.#open.delete(key);
    return {on: intent.kept, fault};
  }

  has(key) { return this.#open.has(key); }
}
