// ---- a button that saves: only in the page that a server sends (pipeline/turing/boxes.py) ----

const PATIENCE = 30_000; // milliseconds; a server that hangs is one that cannot be reached

/** Sends the file to the server, which checks it again; what is drawn stays in the page whatever happens. */
function startSaving(page, download) {
  const save = button("Save", send);
  let drawn = 0; // changes so far: those during a request are not saved by it
  const { changed } = page;
  const id = crypto.getRandomValues(new Uint32Array(4)).join("-"); // tells this page's own saves from others'
  page.changed = () => {
    drawn += 1;
    changed();
  };

  async function send() {
    const text = page.text();
    if (text === null || save.disabled) return;
    const before = drawn;
    save.disabled = true;
    try {
      const response = await fetch(page.saving.address, {
        method: "POST",
        headers: { "Content-Type": "application/json", "X-Token": page.saving.token, "X-Base": page.saving.base, "X-Page": id },
        body: text,
        signal: AbortSignal.timeout(PATIENCE),
      });
      const said = await response.json();
      if (!response.ok) {
        page.fail([said.error]);
        return;
      }
      page.saving.base = said.base;
      if (drawn === before) page.saved(`Saved to ${page.place}.`);
    } catch {
      page.fail(["The server cannot be reached; what you drew is kept in this page: save again when it is back."]);
    } finally {
      save.disabled = false;
      save.focus();
    }
  }

  download.before(save, " ");
}
