"use strict";

// Whatever the server says goes into the page as text, never as markup.
const element = (id) => document.getElementById(id);

async function ask(path, fields) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(fields),
  });
  const envelope = await response.json();
  return { status: response.status, ok: envelope.request_result, result: envelope.result };
}

function show(loggedIn, message) {
  element("login").hidden = loggedIn;
  element("start").hidden = !loggedIn;
  element("message").textContent = message;
}

function row(cells) {
  const line = document.createElement("tr");
  for (const text of cells) {
    line.insertCell().textContent = String(text);
  }
  return line;
}

async function refresh(reason) {
  const names = await ask("get_workspace/", {});
  if (names.status === 401) {
    show(false, reason);
    return;
  }
  if (!names.ok) {
    show(true, names.result === false ? "The service is off: POST create/ switches it on." : String(names.result));
    return;
  }
  const rows = [];
  for (const name of names.result) {
    const status = await ask("get_status/", { name });
    if (status.ok) {
      rows.push(row([name, status.result.STATUS, status.result.CUR_JOB_NUM, status.result.JOB_COUNT]));
    }
  }
  element("workspaces").replaceChildren(...rows);
  element("none").hidden = rows.length > 0;
  show(true, "");
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    element("message").textContent = `The gateway did not answer: ${error.message}`;
  }
}

element("login").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const answer = await ask("login", { token: element("token").value.trim() });
    element("token").value = "";
    if (answer.ok) {
      await refresh("The browser has not kept the cookie.");
    } else {
      element("message").textContent = String(answer.result);
    }
  });
});
element("refresh").addEventListener("click", () => attempt(() => refresh("Logged out.")));
element("logout").addEventListener("click", () => attempt(async () => {
  await ask("logout", {});
  show(false, "Logged out.");
}));
attempt(() => refresh(""));
