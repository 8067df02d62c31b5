"use strict";
// The list works without this: it only keeps it fresh. What it puts on the page was escaped by the server.
const mails = document.getElementById("mails");
if (mails) {
  const state = document.getElementById("state");
  const empty = document.getElementById("empty");
  const search = document.querySelector("input[name=search]");
  let shown = mails.innerHTML;

  const refresh = async () => {
    try {
      const answer = await fetch(location.href, { cache: "no-store" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("mails").innerHTML;
      if (fresh !== shown) mails.innerHTML = shown = fresh;
      state.textContent = "";
    } catch {
      state.textContent = "The mailbox does not answer.";
    }
  };

  search.addEventListener("input", () => {
    const part = search.value.trim();
    history.replaceState(null, "", part ? "/?search=" + encodeURIComponent(part) : "/");
    refresh();
  });
  empty.hidden = false;
  empty.addEventListener("click", async () => {
    if (confirm("Delete all mails in this mailbox?")) {
      await fetch("/api/messages", { method: "DELETE" });
      refresh();
    }
  });
  setInterval(() => { if (!document.hidden) refresh(); }, 2000);
}
