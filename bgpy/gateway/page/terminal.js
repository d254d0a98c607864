/*
 * What a terminal makes of the text that a program writes: lines that are written over, and colours. Without the DOM.
 *
 *   const terminal = new Terminal();
 *   terminal.write("stderr", "50 %\r\x1b[32mdone\x1b[0m\n");
 *   terminal.lines     the last lines; each has `runs`, a list of { style, text }, and `ended`, whether a line break ends it
 *   terminal.left      how many lines there were before those
 *   terminal.changed   number of the first line that has changed since it was last set to Infinity, counted from the very first
 *
 * Understood are line breaks, \r and \b, "cursor up", "erase in line", and of colours the 16 of old and bold: a `style` is a list
 * of classes, such as "stderr bold ink-1 paper-4". All other escape sequences are dropped, as are control characters.
 */

//: Lines that are kept, and characters of all of them.
const LINES = 1000;
const CHARACTERS = 200_000;
//: Characters of a line; what is behind them goes on in a line below, as it does where a terminal ends.
const LINE = 10_000;
//: Characters for which the end of an escape sequence is waited: what is longer is none.
const SEQUENCE = 4096;

// A sequence that sets something (CSI), one that has a text (OSC and its like), a short one; or a control character.
const SIGN = /\x1b(?:\[([0-?]*)[ -/]*([@-~])|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-OQ-WYZ\\`-~])|[\x00-\x08\x0a-\x1f\x7f-\x9f]/g;
const UNFINISHED = /\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)$/;

export class Terminal {
  lines = [makeLine()];
  left = 0;
  changed = 0;
  //: Of each stream: how it writes now, and the beginning of an escape sequence whose end has not come.
  #streams = new Map();
  #last = null;
  #row = 0;
  #column = 0;
  //: The column to which \r goes: a stream does not write over what another one has begun a line with.
  #home = 0;
  #characters = 0;

  /** Take what was written to a stream, in pieces however cut. */
  write(name, text) {
    const stream = this.#take(name);
    text = stream.rest + text;
    stream.rest = text.includes("\x1b") ? (UNFINISHED.exec(text.slice(-SEQUENCE))?.[0] ?? "") : "";
    const end = text.length - stream.rest.length;
    this.changed = Math.min(this.changed, this.left + this.#row);
    let at = 0;
    for (const sign of text.slice(0, end).matchAll(SIGN)) {
      this.#put(stream.style, text.slice(at, sign.index));
      this.#obey(stream, sign);
      at = sign.index + sign[0].length;
    }
    this.#put(stream.style, text.slice(at, end));
    this.#forget(1.2);
  }

  #take(name) {
    let stream = this.#streams.get(name);
    if (stream === undefined) {
      stream = { name, style: name, looks: {}, rest: "" };
      this.#streams.set(name, stream);
    }
    if (this.#last !== stream) {
      this.#last = stream;
      this.#row = this.lines.length - 1;
      this.#column = this.#home = this.lines[this.#row].length;
    }
    return stream;
  }

  #obey(stream, [sign, numbers, command]) {
    if (sign === "\n") {
      this.#breakLine(true);
    } else if (sign === "\r") {
      this.#column = this.#home;
    } else if (sign === "\b") {
      this.#column = Math.max(this.#home, this.#column - 1);
    } else if (command === "m") {
      stream.style = dress(stream, numbers);
    } else if (command === "A") {
      this.#row = Math.max(0, this.#row - Math.max(1, parseInt(numbers, 10) || 1));
      this.changed = Math.min(this.changed, this.left + this.#row);
    } else if (command === "K") {
      const line = this.lines[this.#row];
      const [from, to] = { 1: [0, this.#column], 2: [0, line.length] }[numbers] ?? [this.#column, line.length];
      this.#replace(line, from, to, to < line.length ? [{ style: stream.name, text: " ".repeat(to - from) }] : []);
    }
  }

  #breakLine(ended) {
    const line = this.lines[this.#row];
    line.ended ||= ended;
    this.#row += 1;
    this.#column = this.#home = 0;
    if (this.#row === this.lines.length) {
      this.lines.push(makeLine());
      this.#forget(2);
    }
  }

  #put(style, text) {
    while (text) {
      let line = this.lines[this.#row];
      if (this.#column >= LINE) {
        this.#breakLine(line.ended);
        line = this.lines[this.#row];
      }
      const part = text.slice(0, LINE - this.#column);
      text = text.slice(part.length);
      const last = line.runs.at(-1);
      if (this.#column === line.length && last?.style === style) {
        last.text += part;
        line.length += part.length;
        this.#characters += part.length;
      } else {
        const gap = this.#column - line.length; // behind a cursor that went up into a shorter line
        const blank = gap > 0 ? [{ style: this.#last.name, text: " ".repeat(gap) }] : [];
        this.#replace(line, this.#column - Math.max(gap, 0), this.#column + part.length, [...blank, { style, text: part }]);
      }
      this.#column += part.length;
    }
  }

  /** Put runs into a line in place of its columns from `from` to `to`. */
  #replace(line, from, to, runs) {
    const before = [];
    const behind = [];
    let at = 0;
    for (const { style, text } of line.runs) {
      if (at < from) {
        before.push({ style, text: text.slice(0, from - at) });
      }
      if (at + text.length > to) {
        behind.push({ style, text: text.slice(Math.max(0, to - at)) });
      }
      at += text.length;
    }
    this.#characters -= line.length;
    line.runs = [...before, ...runs, ...behind];
    line.length = line.runs.reduce((sum, run) => sum + run.text.length, 0);
    this.#characters += line.length;
  }

  /** Drop the first lines where there are `slack` times too many: not each time that there is one more. */
  #forget(slack) {
    if (this.lines.length <= LINES * slack && this.#characters <= CHARACTERS * slack) {
      return;
    }
    let count = Math.max(0, this.lines.length - LINES);
    let dropped = this.lines.slice(0, count).reduce((sum, line) => sum + line.length, 0);
    while (this.#characters - dropped > CHARACTERS && count < this.lines.length - 1) {
      dropped += this.lines[count].length;
      count += 1;
    }
    this.lines.splice(0, count);
    this.#characters -= dropped;
    this.left += count;
    this.#row = Math.max(0, this.#row - count);
  }
}

function makeLine() {
  return { runs: [], length: 0, ended: false };
}

/** Take the numbers of "select graphic rendition"; return the classes of a stream's text from now on. */
function dress(stream, numbers) {
  const codes = numbers.split(/[;:]/).map(Number);
  for (let at = 0; at < codes.length; at += 1) {
    const code = codes[at];
    const part = code % 60 < 40 ? "ink" : "paper"; // 30 to 39 and 90 to 97; 40 to 49 and 100 to 107
    if (code === 0) {
      stream.looks = {};
    } else if (code === 1 || code === 22) {
      stream.looks.bold = code === 1;
    } else if (code === 39 || code === 49) {
      delete stream.looks[part];
    } else if (code === 38 || code === 48) {
      const short = codes[at + 1] === 5; // one of 256, of which the first 16 are ours; else red, green and blue
      if (short && codes[at + 2] < 16) {
        stream.looks[part] = codes[at + 2];
      }
      at += short ? 2 : 4;
    } else if ((code >= 30 && code < 48) || (code >= 90 && code < 108)) {
      stream.looks[part] = (code % 10) + (code >= 90 ? 8 : 0);
    }
  }
  const { bold, ink, paper } = stream.looks;
  return [stream.name, bold && "bold", ink !== undefined && `ink-${ink}`, paper !== undefined && `paper-${paper}`].filter(Boolean).join(" ");
}
