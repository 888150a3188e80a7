"""The recipe's loss and layers: keys of another kind are faults, and what is not said has a meaning."""

from typing import Any

import pytest

from persrec.errors import UserError
from persrec.recipe.recipe import load, parse
from persrec.training.settings import loss_settings


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("loss={kind: full, full_from: 0.8}", "loss: got full_from with kind full, expected logit_adjustment"),
        ("loss={kind: full, sampler: mixed}", "loss: got sampler with kind full, expected logit_adjustment"),
        ("loss={kind: bce, calibration: 0.5}", "loss: got calibration with kind bce, expected sampler, full_from"),
        ("loss={kind: bce, logq: true}", "loss: got logq with kind bce, expected sampler, full_from"),
        (
            "loss={kind: gbce, sampler: mixed}",
            "loss: got sampler mixed with kind gbce, whose calibration is for uniform negatives; expected uniform, or "
            "kind bce",
        ),
        ("loss={kind: gbce, logq: true}", "loss: got logq with kind gbce, expected sampler, calibration, full_from"),
        ("loss={kind: bpr, calibration: 0.5}", "loss: got calibration with kind bpr, expected sampler, full_from"),
        (
            "loss={kind: sampled, calibration: 0.5}",
            "loss: got calibration with kind sampled, expected sampler, logq, full_from, logit_adjustment",
        ),
        ("loss.full_from=1", "loss.full_from: got 1, expected less than 1"),
        ("loss.sampler=mixd", "loss.sampler: got 'mixd', expected 'uniform', 'popularity', 'in-batch' or 'mixed'"),
        (
            "loss.kind=softmax",
            "loss.kind: got 'softmax', expected 'sampled', 'full', 'bce', 'gbce', 'bpr' or 'info_nce'",
        ),
        ("loss.sampled=mixed", "loss.sampled: unknown key; did you mean loss.sampler?"),
        ("model.kind=sasrek", "model.kind: got 'sasrek', expected 'hstu', 'sasrec', 'ligr' or 'decoder'"),
    ],
)
def test_a_key_of_another_kind_is_a_fault_that_names_it(setting: str, fault: str) -> None:
    with pytest.raises(UserError) as refused:
        load("quickstart", [setting])
    assert fault in str(refused.value)


@pytest.mark.parametrize(
    ("values", "corrected", "binary"),
    [
        ({}, False, None),
        ({"sampler": "uniform"}, False, None),
        ({"sampler": "mixed"}, True, None),
        ({"sampler": "in-batch", "logq": False}, False, None),
        ({"logq": True}, True, None),
        ({"kind": "full"}, False, None),
        ({"kind": "bce"}, False, 0.0),
        ({"kind": "bpr", "sampler": "popularity"}, False, None),
        ({"kind": "info_nce", "sampler": "mixed"}, False, None),
        ({"kind": "gbce"}, False, 0.75),
        ({"kind": "gbce", "sampler": "uniform"}, False, 0.75),
        ({"kind": "gbce", "calibration": 0.0}, False, 0.0),
    ],
)
def test_what_a_loss_is_where_keys_are_left_out(values: dict[str, Any], corrected: bool, binary: float | None) -> None:
    loss = parse({"loss": values}, "of a test").loss
    assert (loss.corrected, loss.binary) == (corrected, binary)
    assert parse(parse({"loss": values}, "of a test").dump(), "again").loss == loss


def test_a_recipe_trains_on_pairs_where_it_says_so() -> None:
    bpr = loss_settings(parse({"loss": {"kind": "bpr", "sampler": "mixed", "negatives": 7}}, "of a test"))
    assert (bpr.kind, bpr.sampled, bpr.sampler, bpr.negatives) == ("bpr", True, "mixed", 7)
    bce = loss_settings(parse({"loss": {"kind": "bce"}}, "of a test"))
    assert (bce.kind, bce.sampled, bce.calibration) == ("bce", True, 0.0)


def test_a_recipe_from_before_there_were_kinds_of_layers_is_of_hstu() -> None:
    saved = parse({}, "of a test").dump()
    for section, key in (("model", "kind"), ("loss", "sampler"), ("loss", "full_from")):
        del saved[section][key]
    assert parse(saved, "of an old run") == parse({}, "of a test")
    assert parse(saved, "of an old run").model.kind == "hstu"
