"""Names of packages that are loaded when one of them is first used."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from bgpy.lazy import lazy_names


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("a_package")
    made.__getattr__ = lazy_names("a_package", {"Fraction": "fractions", "missing": "fractions"})  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "a_package", made)
    return made


def test_a_name_is_found_in_its_home_and_stays(package: ModuleType) -> None:
    from fractions import Fraction

    assert package.Fraction is Fraction
    assert vars(package)["Fraction"] is Fraction


def test_a_name_that_the_package_does_not_have_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="module 'a_package' has no attribute 'Decimal'"):
        package.Decimal  # noqa: B018 - to look is all


def test_a_name_that_its_home_does_not_have_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="fractions"):
        package.missing  # noqa: B018 - to look is all
