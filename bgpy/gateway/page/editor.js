// The editor of code. In a shadow root: there CodeMirror adopts style sheets, where it would else need an inline <style>.

import * as cm from "./vendor/codemirror.js";
import { h } from "./dom.js";

const theme = cm.EditorView.theme({
  "&": { backgroundColor: "var(--surface)", color: "var(--text)", height: "100%" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", fontSize: "0.875rem", lineHeight: "1.55" },
  ".cm-content": { padding: "0.6rem 0", caretColor: "var(--text)" },
  ".cm-gutters": { backgroundColor: "var(--surface)", color: "var(--muted)", border: "none", paddingInlineStart: "0.4rem" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "color-mix(in srgb, var(--accent) 7%, transparent)" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    background: "color-mix(in srgb, var(--accent) 28%, transparent)",
  },
  ".cm-matchingBracket": { backgroundColor: "color-mix(in srgb, var(--accent) 25%, transparent)" },
  ".cm-tooltip": {
    backgroundColor: "var(--surface)",
    color: "var(--text)",
    border: "1px solid var(--line)",
    borderRadius: "6px",
  },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { backgroundColor: "var(--accent-fill)", color: "var(--on-accent)" },
  ".cm-placeholder": { color: "var(--muted)", fontFamily: "system-ui, sans-serif", fontStyle: "italic" },
});

const t = cm.tags;
const colours = cm.HighlightStyle.define([
  { tag: [t.keyword, t.operatorKeyword, t.controlKeyword, t.definitionKeyword, t.moduleKeyword], color: "var(--code-keyword)" },
  { tag: [t.string, t.special(t.string)], color: "var(--code-string)" },
  { tag: [t.number, t.bool, t.null], color: "var(--code-number)" },
  { tag: [t.comment, t.lineComment], color: "var(--muted)", fontStyle: "italic" },
  { tag: [t.function(t.variableName), t.function(t.definition(t.variableName)), t.className], color: "var(--code-name)" },
  { tag: [t.meta, t.self], color: "var(--code-keyword)" },
  { tag: t.invalid, color: "var(--bad)" },
]);

//: Closes the list of words that could complete what is typed.
const closing = cm.completionKeymap.find(({ key }) => key === "Escape").run;

// What is typed over a selection: by itself a browser would give the new text the old one's looks, as an inline style, which the
// policy of the page forbids.
function overwrite(event, view) {
  const { from, to, empty } = view.state.selection.main;
  const text = event.data;
  if (empty || text === null || event.isComposing || event.inputType !== "insertText") {
    return false;
  }
  const typed = () => view.state.update(view.state.replaceSelection(text), { userEvent: "input.type", scrollIntoView: true });
  if (!view.state.facet(cm.EditorView.inputHandler).some((take) => take(view, from, to, text, typed))) {
    view.dispatch(typed());
  }
  return true;
}

/**
 * Put an editor into a container, an element with a class that gives it a height.
 *
 * `label` names it for screen readers; `text` is what it begins with; `language` is "python" (the default) or "text"; `run` is
 * called for Ctrl-Enter (Cmd-Enter), `changed(text)` after each change; `hint` stands there while it is empty. Returns an object
 * with `text` to read and to set, `focus()`, and `close()`, to be called in a view's `hide`. Tab indents; Escape and then Tab
 * leaves the editor.
 */
export function editor(container, { label, text = "", language = "python", run = null, changed = null, hint = "" }) {
  const host = h("div", { class: "editor" });
  container.append(host);
  const root = host.attachShadow({ mode: "open" });
  const place = root.appendChild(document.createElement("div"));
  place.style.height = "100%";
  const go = (view) => {
    closing(view);
    return run === null ? false : (run(), true);
  };
  const view = new cm.EditorView({
    root,
    parent: place,
    state: cm.EditorState.create({
      doc: text,
      extensions: [
        cm.Prec.highest(
          cm.keymap.of([
            { key: "Mod-Enter", run: go },
            { key: "Ctrl-Enter", run: go },
          ]),
        ),
        cm.lineNumbers(),
        cm.highlightActiveLine(),
        cm.highlightActiveLineGutter(),
        cm.drawSelection(),
        cm.history(),
        cm.indentOnInput(),
        cm.bracketMatching(),
        cm.closeBrackets(),
        cm.indentUnit.of("    "),
        language === "python" ? [cm.python(), cm.autocompletion()] : [],
        cm.syntaxHighlighting(colours),
        cm.keymap.of([
          ...cm.closeBracketsKeymap,
          ...cm.completionKeymap,
          ...cm.defaultKeymap,
          ...cm.historyKeymap,
          cm.indentWithTab,
        ]),
        cm.EditorView.contentAttributes.of({ "aria-label": label }),
        cm.EditorView.updateListener.of((update) => update.docChanged && changed?.(update.state.doc.toString())),
        cm.EditorView.domEventHandlers({ beforeinput: overwrite }),
        hint ? cm.placeholder(hint) : [],
        theme,
      ],
    }),
  });
  return {
    get text() {
      return view.state.doc.toString();
    },
    set text(value) {
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: value } });
    },
    focus: () => view.focus(),
    close: () => view.destroy(),
  };
}
