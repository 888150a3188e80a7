"""What a step of training needs memory for, as settings of a recipe."""

from persrec.models.item_encoders import TextItems
from persrec.models.model import Model
from persrec.training.objective import LossSettings
from persrec.training.trainer import TrainingSettings


def to_lower(model: Model, loss: LossSettings, settings: TrainingSettings) -> str:
    """For a person whose memory does not do: the settings to lower, the first one first."""
    text_model = model.items.encoder if isinstance(model.items, TextItems) else None
    sizes = {
        "items.batch_tokens": None if text_model is None else text_model.batch_tokens,
        "training.batch_events": settings.batch_events,
        "training.batch_users": settings.batch_users,
        "loss.negatives": loss.negatives if loss.sampled else None,
        "loss.chunk": None if loss.sampled else loss.chunk,
    }
    got = ", ".join(f"{key} {size}" for key, size in sizes.items() if size is not None)
    folds = model.rule.recent is not None and not model.checkpointed and model.parallel is None
    return (
        f"got {got}, length {settings.length or 'null'}: lower them in this order (as training.accumulate is raised, "
        f"steps stay as large){', or set memory.checkpoint to true' if folds else ''}"
    )
