"""What all sections of a recipe share: the base class, field types, words for messages."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_COUNT = 2**31 - 1
"""Of whatever is counted: it fits every integer type of the libraries, so that nothing overflows further on."""
LARGEST_SIDE_PX = 256
"""Of the images that can be trained on; an augmentation has no use for more than twice that."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=MOST_COUNT)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST_COUNT)]
Pixels = Annotated[int, Field(ge=1, le=2 * LARGEST_SIDE_PX)]
Range = Annotated[tuple[float, float], Field(strict=False)]
Channels = Annotated[tuple[Fraction, ...], Field(strict=False)]
Counts = Annotated[tuple[Count, ...], Field(strict=False)]
CountsOrZero = Annotated[tuple[CountOrZero, ...], Field(strict=False)]


class Section(BaseModel):
    """Base of every table of a recipe: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    def inapplicable(self) -> dict[str, str]:
        """Fields without meaning beside the section's other values -> where they do belong, e.g. `name = 'sgd'`."""
        return {}

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        for field, owner in self.inapplicable().items():
            if field in self.model_fields_set and getattr(self, field) is not None:
                raise ValueError(f"{field} belongs to {owner}; remove it")
        return self


def check_range(field: str, value: tuple[float, float], above: float, at_most: float = float("inf")) -> None:
    low, high = value
    if not above < low <= high <= at_most:
        bound = f" <= {at_most:g}" if at_most != float("inf") else ""
        raise ValueError(f"{field} = {plain(value)} must satisfy {above:g} < low <= high{bound}")


def plain(value: tuple[float, ...] | None) -> str:
    return "absent" if value is None else str(list(value))
