"""The list of planted defects fits the code; `python -m tests.mutants` plants them."""

from __future__ import annotations

import ast

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.defect)
def test_a_defect_can_be_planted_at_one_place_and_its_test_exists(mutant: Mutant) -> None:
    text = (ROOT / "stocktrace" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    planted = text.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(planted)) != ast.dump(ast.parse(text))
    tests = ast.parse((ROOT / mutant.tests).read_text(encoding="utf-8")).body
    assert mutant.test in {each.name for each in tests if isinstance(each, ast.FunctionDef)}


def test_each_defect_is_listed_once() -> None:
    assert len({mutant.defect for mutant in MUTANTS}) == len(MUTANTS) == 30
