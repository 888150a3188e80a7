"""What training and its loss need of a recipe, and what a recipe needs of the log."""

from dataclasses import replace

from persrec.errors import UserError
from persrec.event_inputs import FIELDS
from persrec.prepared import Prepared
from persrec.recipe.recipe import Recipe
from persrec.training.objective import LossSettings
from persrec.training.token_objectives import SetWeights
from persrec.training.trainer import TrainingSettings

READS = {"all": (1.0, 1.0), "none": (0.0, 0.0), "rising": (0.0, 1.0)}

TEXT_RATES = {"lora": 2e-4, "full": 2e-5}  # as text models are commonly tuned: rates of fresh weights undo them


def carrying(data: Prepared, cell: Recipe) -> Prepared:
    """The log, with what of its events the model reads; raises UserError where the log does not have what is asked."""
    by = cell.loss.weight_by
    asked = [*cell.model.inputs, *([by] if isinstance(by, str) else [])]
    missing = [name for name in asked if getattr(data, f"{name}s") is None]
    if missing:
        raise UserError(
            f"model.inputs, loss.weight_by: read {', '.join(missing)}, but the log of {cell.name} has no such column; "
            "name it by data.columns, or remove the key"
        )
    if by == "rating" and data.ratings is not None and (data.ratings < 0).any():
        raise UserError(f"loss.weight_by: rating, but {cell.name} has ratings below 0; weights are 0 or more")
    if isinstance(by, str) and not (getattr(data, FIELDS[by]) > 0).any():
        raise UserError(
            f"loss.weight_by: {by}, but none of {cell.name} is above 0, so that no target counts; remove it"
        )
    return replace(data, inputs=cell.model.inputs)


def _break_ms(cell: Recipe) -> int | None:
    return None if cell.loss.break_hours is None else round(cell.loss.break_hours * 3_600_000)


def loss_settings(cell: Recipe) -> LossSettings:
    """What the loss needs of a recipe."""
    loss, memory = cell.loss, cell.memory
    learned = cell.history == "compressed" and memory.kind in ("layered", "recurrent")
    asked = SetWeights(memory.past_set, memory.future_set, memory.future_events) if learned else SetWeights()
    return LossSettings(
        kind=loss.kind,
        sampler=loss.sampler or "uniform",
        corrected=loss.corrected,
        calibration=loss.binary or 0.0,
        logit_adjustment=loss.logit_adjustment or 0.0,
        full_from=loss.full_from,
        negatives=loss.negatives,
        per_row=loss.per == "row",
        chunk=loss.chunk,
        break_ms=_break_ms(cell),
        break_weight=loss.break_weight,
        sets=asked,
        skips_had=cell.evaluation.exclude_seen,  # or it would learn to avoid likeness: an item is most like itself
        consistency=memory.consistency,
    )


def training_settings(cell: Recipe) -> TrainingSettings:
    """What training needs of a recipe."""
    keys = cell.training.model_dump(exclude={"threads", "tune_epochs"}) | {"epochs": cell.epochs}
    return TrainingSettings(
        seed=cell.seeds[0],
        reads=_reads(cell),
        time=cell.time,
        length=cell.length,
        random_first_segment=cell.memory.random_first_segment,
        exclude_seen=cell.evaluation.exclude_seen,
        seen_odds=cell.evaluation.seen_odds,
        weight_by=cell.loss.weight_by,
        types=cell.data.events or (),
        text_learning_rate=cell.items.learning_rate or TEXT_RATES.get(cell.items.train),
        draw_after_ms=_break_ms(cell) if cell.loss.break_target == "any" else None,
        **keys,
    )


def _reads(cell: Recipe) -> tuple[float, float]:
    """The share of batches as served, first and last: all of them where no memory could be asked for more."""
    share = cell.memory.reads if cell.history == "compressed" else "all"
    return READS[share] if isinstance(share, str) else (share, share)
