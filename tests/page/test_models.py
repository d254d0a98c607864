"""Models on the page: deployed, described, asked, given new weights, and let go."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.browsing import Served, Visit, expect
from support.commands import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed")
#: Milliseconds for the import of TensorFlow and the making of a model.
LONG = 100_000
MAKE = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from support.models import two_signatures, two_signatures_weights
folder = pathlib.Path({folder!r})
two_signatures_weights(two_signatures(folder / 'model'), folder / 'weights', 1.0)
"""


@pytest.fixture(scope="module")
def folder(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Return a folder that will have a model and weights for it, once the workspace ``lab`` has made them there.

    The process that makes them imports TensorFlow, and what is deployed into that workspace comes behind it.
    """
    folder = tmp_path_factory.mktemp("models")
    served.ask("create_workspace", name="lab")
    script = MAKE.format(tests=str(ROOT / "tests"), folder=str(folder))
    served.ask("push_job", name="lab", type="script", job=script, timeout=0, variables=False)
    return folder


def deploy(page: Page, path: Path, workspace: str) -> None:
    page.get_by_role("button", name="Deploy a model").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Path on the server").fill(str(path))
    dialog.get_by_label("Workspace").fill(workspace)
    dialog.get_by_role("button", name="Deploy", exact=True).click()


def prediction(page: Page) -> Locator:
    return page.get_by_role("region", name="Prediction")


def predict(page: Page, **inputs: str) -> None:
    for name, value in inputs.items():
        prediction(page).get_by_label(name, exact=True).fill(value)
    prediction(page).get_by_role("button", name="Predict").click()


def cells(page: Page) -> list[str]:
    """Return the numbers of a prediction that is a table."""
    return prediction(page).locator("td").all_inner_texts()


def test_a_model_is_deployed_described_asked_updated_and_undeployed(visit: Visit, folder: Path) -> None:
    page = visit.go("#models")
    page.get_by_text("A deployed model stays in the memory").wait_for()
    deploy(page, folder / "model", "lab")
    page.get_by_text(f"Loading {folder / 'model'} into lab").wait_for()
    page.get_by_role("heading", name="lab").wait_for(timeout=LONG)
    expect(page.get_by_role("link", name="lab")).to_contain_text("version 1")
    page.get_by_text("Loading").wait_for(state="detached")

    default = page.get_by_role("article", name="Signature serving_default")
    assert default.locator("tbody tr").all_inner_texts() == ["x\tfloat32\t[?, 3]", "y\tfloat32\t[?, 3]"]
    sums = page.get_by_role("article", name="Signature sums")
    assert [text.split("\t") for text in sums.locator("tbody tr").all_inner_texts()] == [
        [name, "int64", "[?]"] for name in ("a", "b", "difference", "sum")
    ]
    x = prediction(page).get_by_label("x", exact=True)
    assert x.input_value() == "[[0, 0, 0]]"
    predict(page, x="[[1, 2, 3], [4, 5, 6]]")
    expect(prediction(page).locator("tbody tr")).to_have_count(2)
    assert cells(page) == ["2", "4", "6", "8", "10", "12"]
    expect(page.locator(".tile", has_text="Predictions")).to_contain_text("0 failed")
    page.get_by_role("button", name="Dismiss").click()
    page.set_viewport_size({"width": 1280, "height": 1150})
    visit.shoot("models")

    predict(page, x="[[1, 2]]")
    error = prediction(page).get_by_role("group", name="Error")
    expect(error.locator("p")).to_contain_text("Input 'x' takes float32 [?, 3]: the value has the shape [1, 2].")
    predict(page, x="[[1, 2")
    assert "This is no JSON" in x.evaluate("field => field.validationMessage")
    prediction(page).get_by_label("Signature").select_option("sums")
    predict(page, a="[5, 6]", b="[1, 2]")
    expect(prediction(page).locator(".result")).to_have_text(["difference[4, 4]", "sum[6, 8]"])

    page.get_by_role("button", name="Update").click()
    page.get_by_role("dialog").get_by_label("Path on the server").fill(str(folder / "weights"))
    page.get_by_role("dialog").get_by_role("button", name="Update").click()
    page.get_by_text("The model of lab has new weights.").wait_for()
    expect(page.get_by_role("link", name="lab")).to_contain_text("version 2")
    expect(page.locator(".tile", has_text="Version")).to_contain_text("1 before it")
    page.get_by_text(f"{folder / 'model'}, with the weights of {folder / 'weights'}").wait_for()
    prediction(page).get_by_label("Signature").select_option("serving_default")
    predict(page, x="[[1, 2, 3]]")
    expect(prediction(page).locator("td").first).to_have_text("3")

    page.get_by_role("button", name="Undeploy").click()
    page.get_by_role("dialog").get_by_role("button", name="Undeploy").click()
    page.get_by_text("No model is deployed in “lab”.").wait_for()
    expect(page.get_by_role("link", name="lab")).to_have_count(0)


def test_what_cannot_be_loaded_says_why(visit: Visit, served: Served, tmp_path: Path) -> None:
    page = visit.go("#models")
    deploy(page, tmp_path / "nothing", "new")
    dialog = page.get_by_role("dialog").filter(has_text="failed")
    expect(dialog.get_by_role("group", name="Error")).to_contain_text(f"There is nothing at {tmp_path / 'nothing'}", timeout=LONG)
    dialog.get_by_role("button", name="Close").click()
    assert "new" in served.ask("get_workspace")  # it was made for the model
    page.get_by_text("Loading").wait_for(state="detached")
