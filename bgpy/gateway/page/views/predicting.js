// Asking a placeholder of a run for a prediction.

import { h, labelled } from "../dom.js";
import { errorView, valueView } from "../values.js";
import { readJson } from "./inputs.js";

/** Put a form into a container; `ask(fields)` runs the model. Returns `offer(placeholders)`, which may be asked. */
export function openPredicting(container, ask) {
  const offered = h("datalist", { id: "models-of-run" });
  const name = h("input", { type: "text", list: offered.id, required: true, spellcheck: false, autocomplete: "off" });
  const kinds = [
    ["json", "typed here, as JSON"],
    ["file", "in a file on the server"],
  ].map(([value, text], index) => {
    const radio = h("input", { type: "radio", name: "data-of-model", value, checked: index === 0, onchange: choose });
    return h("label", { class: "check" }, radio, text);
  });
  const data = h("textarea", { spellcheck: false, placeholder: "[[1, 2, 3]]" });
  const path = h("input", { type: "text", spellcheck: false, autocomplete: "off" });
  const dataField = labelled("Data", data, "One instance or a list of them: whatever the model takes.");
  const pathField = labelled("Path", path, "A CSV, JSON or .npy file; one of the run's own files by its name.");
  const result = h("div", { class: "stack", "aria-live": "polite" });
  const send = h("button", { class: "primary" }, "Predict");
  const form = h(
    "form",
    { class: "stack", onsubmit: predict },
    h(
      "div",
      { class: "fields" },
      labelled("Model", name, "A placeholder that can predict, or a function of the main file."),
      h("fieldset", {}, h("legend", {}, "The data are"), kinds),
    ),
    dataField,
    pathField,
    h("div", { class: "row" }, send),
    offered,
  );
  pathField.hidden = true;
  container.append(h("section", { class: "card stack", "aria-label": "Prediction" }, h("h2", {}, "Try a model"), form, result));

  function choose(event) {
    dataField.hidden = event.target.value !== "json";
    pathField.hidden = !dataField.hidden;
    path.required = dataField.hidden;
  }

  async function predict(event) {
    event.preventDefault();
    const isData = pathField.hidden;
    let given = path.value.trim();
    if (isData && (given = readJson(data)) === undefined) {
      return;
    }
    send.disabled = true;
    try {
      const { value } = await ask({ name: name.value.trim(), is_data: isData, data: given });
      result.replaceChildren(h("h3", {}, "Prediction"), valueView(value));
    } catch (error) {
      result.replaceChildren(errorView({ type: error.kind || "Error", message: error.message }));
    } finally {
      send.disabled = false;
    }
  }

  return {
    offer: (placeholders) => offered.replaceChildren(...placeholders.map((one) => h("option", { value: one.name }, one.type))),
  };
}
