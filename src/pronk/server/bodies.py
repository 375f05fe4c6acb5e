"""Bodies of requests: read strictly, and refused by the name of what is wrong."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pronk.server.errors import validation_error


class Body(BaseModel):
    """A field that is not known is refused. Numbers are numbers and not texts of them."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Parsed = TypeVar("Parsed", bound=BaseModel)


def parsed(kind: type[Parsed], data: object) -> Parsed:
    """For a path that takes several kinds of body. Raises ApiError for one that is not of this kind."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise validation_error(error.errors(), list(kind.model_fields)) from None
