// Renews the page while somebody looks at it. All of the console works without it.
"use strict";

const main = document.querySelector("main[data-renewed]");

function isInUse() {
  return document.hidden || main.contains(document.activeElement) || !getSelection().isCollapsed;
}

async function renew() {
  if (!isInUse()) {
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
      if (answer.ok) {
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
        if (fresh && !isInUse()) {
          main.replaceChildren(...fresh.childNodes);
        }
      }
    } catch {
      // The server is away, or the session has ended: what stands there stays, and the next try may do.
    }
  }
  setTimeout(renew, main.dataset.renewed * 1000);
}

if (main) {
  setTimeout(renew, main.dataset.renewed * 1000);
}
