/*
 * The one way from the page to the gateway.
 *
 *   await api.ask("get_status", { name })   the `result` of a command; raises Failure
 *   api.watch(name, since, hear)            the events of a workspace, each an object with `event`, `number`, `time` and `job`;
 *                                           returns a Line. `hear` also gets { event: "refused", message } where there is
 *                                           nothing to watch, and { event: "gone" } at the workspace's end: nothing follows on
 *                                           those two.
 *   api.converse("runtime", hear, opened)   a WebSocket that stays; returns a Conversation
 *     conversation.ask({ action: ... })     sends with an `id` of its own; returns the answer that bears it, raises Failure
 *     hear(message)                         gets every message that no `ask` waited for
 *     opened()                              after each connection, also each re-connection: the place to subscribe again
 *   api.isAway(envelope)                    of a Line's own: whether the server behind the gateway is gone
 *   line.close(), conversation.close()      for good; a view closes in `hide` what it has opened in `show`
 *
 * All of them find back by themselves after a lost connection: `watch` goes on behind the last event it has heard. A Failure has
 * `message`, for people, and `field`, `kind` (the name of the error's type), `status` (0 where the gateway did not answer),
 * `executed`, `state` ("gateway" or "server" where that did not answer). Addresses are relative to the page, wherever the gateway is mounted.
 */

/** What the gateway or the server refused or failed to do. */
export class Failure extends Error {
  constructor(message, { field = "", kind = "", status = 0, executed = null, state = "" } = {}) {
    super(message);
    this.field = field;
    this.kind = kind;
    this.status = status;
    this.executed = executed;
    this.state = state;
  }
}

/**
 * Tells: "logged-out"; "connection" with `detail` whether the gateway can be reached; "server" with `detail` null where the server
 * behind it answers, and else why it does not.
 */
export const news = new EventTarget();

//: Milliseconds before a lost connection is tried again, by how often that has failed.
const PAUSES = [300, 1000, 2000, 4000, 8000];

const troubled = new Set();

function trouble(what, is) {
  const before = troubled.size > 0;
  if (is) {
    troubled.add(what);
  } else {
    troubled.delete(what);
  }
  if (before !== troubled.size > 0) {
    news.dispatchEvent(new CustomEvent("connection", { detail: troubled.size === 0 }));
  }
}

let away = null;

/** Tell whether the server answers: `reason` says why it does not. */
function noteServer(reason) {
  if (reason !== away) {
    away = reason;
    news.dispatchEvent(new CustomEvent("server", { detail: reason }));
  }
}

async function send(path, options) {
  try {
    const response = await fetch(new URL(path, document.baseURI), options);
    const envelope = await response.json();
    trouble("requests", false);
    return [response.status, envelope];
  } catch (error) {
    trouble("requests", true);
    throw new Failure("The gateway did not answer.", { kind: error.name, state: "gateway" });
  }
}

/** Send one command; return its result. */
export async function ask(path, fields = {}) {
  const [status, envelope] = await send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(fields),
  });
  if (envelope.request_result === true) {
    noteServer(null);
    return envelope.result;
  }
  if (status === 503) {
    noteServer(String(envelope.result));
  } else if (status === 200) {
    noteServer(null);
  }
  if (status === 401 && path !== "login") {
    news.dispatchEvent(new Event("logged-out"));
  }
  const off = envelope.result === false;
  const message = off ? "The service is switched off." : String(envelope.result);
  const { field, error, executed } = envelope;
  throw new Failure(message, { field, kind: off ? "off" : error, status, executed, state: status === 503 ? "server" : "" });
}

/** Tell whether this browser is logged in. */
export async function isLoggedIn() {
  return (await send("login", { method: "GET" }))[1].result === true;
}

/** A WebSocket that is opened again until it is closed for good. */
export class Line {
  /**
   * `opened()` after each connection, `hear(message)` for each JSON object, false for no good one, `lost()` after each
   * connection that broke.
   */
  constructor(path, { opened, hear, lost = () => {} }) {
    this.path = path;
    this.handlers = { opened, hear, lost };
    this.failed = 0;
    this.closed = false;
    this.again = () => this.open();
    window.addEventListener("online", this.again);
    this.open();
  }

  open() {
    clearTimeout(this.timer);
    if (this.closed || (this.socket && this.socket.readyState < WebSocket.CLOSING)) {
      return;
    }
    const url = new URL(this.path, document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.socket = new WebSocket(url));
    socket.addEventListener("open", () => {
      if (this.closed) {
        socket.close();
        return;
      }
      this.ailing = false;
      trouble(this, false);
      trouble("requests", false); // the gateway is there, and a view may ask nothing else of it for long
      this.handlers.opened();
    });
    socket.addEventListener("message", ({ data }) => {
      if (this.closed) {
        return;
      }
      this.ailing = this.handlers.hear(JSON.parse(data)) === false;
      if (!this.ailing) {
        this.failed = 0;
      }
    });
    socket.addEventListener("close", () => this.#lost());
  }

  #lost() {
    if (this.closed) {
      return;
    }
    trouble(this, !this.ailing); // the gateway is there: it is the server that is not
    this.handlers.lost();
    if (this.failed === 1) {
      // A WebSocket does not say why it was refused.
      isLoggedIn().then(
        (is) => is || news.dispatchEvent(new Event("logged-out")),
        () => {},
      );
    }
    this.timer = setTimeout(this.again, PAUSES[Math.min(this.failed, PAUSES.length - 1)] * (0.75 + Math.random() / 2));
    this.failed += 1;
  }

  /** Send an object; return whether there was a connection to send it by. */
  send(message) {
    const open = this.socket.readyState === WebSocket.OPEN;
    if (open) {
      this.socket.send(JSON.stringify(message));
    }
    return open;
  }

  /** End it for good. */
  close() {
    this.closed = true;
    clearTimeout(this.timer);
    window.removeEventListener("online", this.again);
    if (this.socket.readyState !== WebSocket.CONNECTING) {
      this.socket.close(); // else when it is open: a browser complains of one that is closed before
    }
    trouble(this, false);
  }
}

/**
 * Tell whether a stream has ended because the server behind the gateway is gone, and note that: such a line breaks, and is opened
 * again. What is refused is refused for good.
 */
export function isAway(envelope) {
  if ("executed" in envelope) {
    noteServer(String(envelope.result));
  }
  return "executed" in envelope;
}

/** Hear what happens in a workspace from after event number `since` on. */
export function watch(name, since, hear) {
  const line = new Line("watch", {
    opened: () => line.send({ name, since }),
    hear: (envelope) => {
      if (envelope.request_result !== true) {
        if (!isAway(envelope)) {
          line.close();
          hear({ event: "refused", message: String(envelope.result) });
        }
        return false;
      }
      noteServer(null);
      const event = envelope.result;
      if (event.event === "gone") {
        line.close();
      } else {
        since = event.number;
      }
      hear(event);
      return true;
    },
  });
  return line;
}

/** A WebSocket of questions and answers that bear the same `id`, and of messages that nobody has asked for. */
export class Conversation {
  constructor(path, hear, opened) {
    this.waiting = new Map();
    this.last = 0;
    this.hear = hear;
    this.line = new Line(path, {
      opened: () => this.#opened(opened),
      hear: (message) => this.#heard(message),
      lost: () => this.#lost(),
    });
  }

  /** Send a message with an id; return the answer. */
  ask(message) {
    return new Promise((resolve, reject) => {
      const id = (this.last += 1);
      const question = { message: { ...message, id }, resolve, reject };
      this.waiting.set(id, question);
      question.sent = this.line.send(question.message);
    });
  }

  close() {
    this.line.close();
    for (const { reject } of this.waiting.values()) {
      reject(new Failure("The view was left.", { kind: "left" }));
    }
    this.waiting.clear();
  }

  #opened(opened) {
    for (const question of this.waiting.values()) {
      question.sent = this.line.send(question.message);
    }
    opened();
  }

  #heard(message) {
    const question = this.waiting.get(message.id);
    if (question === undefined) {
      this.hear(message);
      return;
    }
    this.waiting.delete(message.id);
    if (message.type === "[error]" || message.status === "Error") {
      const state = "executed" in message ? "server" : "";
      question.reject(new Failure(message.message, { field: message.field, kind: message.error, state }));
    } else {
      question.resolve(message);
    }
  }

  /** What was sent may have been carried out: only who asked can know whether to ask again. */
  #lost() {
    for (const [id, question] of this.waiting) {
      if (question.sent) {
        this.waiting.delete(id);
        question.reject(new Failure("The connection was lost.", { kind: "lost", state: "gateway" }));
      }
    }
  }
}

export function converse(path, hear = () => {}, opened = () => {}) {
  return new Conversation(path, hear, opened);
}
