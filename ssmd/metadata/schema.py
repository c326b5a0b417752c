"""A schema of entries or archives: its file, and which version of it was in force when."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ssmd.metadata.model import FileName, Model, Name, Version, in_force, overlaps

SUFFIX = {"capnp": ".capnp", "protobuf": ".proto", "json_schema": ".json"}


class SchemaVersion(Model):
    version: Version = Field(description="Such as 1.0.0; in quotes.")
    effective_from: date = Field(description="First day it is in force.")
    status: Literal["draft", "active", "deprecated"] = Field("draft", description="Draft: for dev environments only.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the file's bytes; `ssmd schema hash` computes it.")
    file: FileName | None = Field(None, description="Where this version has a file of its own.")
    compatible_with: tuple[Version, ...] = Field((), description="Versions whose data it reads.")
    breaking_changes: tuple[str, ...] = Field((), description="In words.")


class Schema(Model):
    name: Name = Field(description="The file's name without .yaml.")
    description: str | None = Field(None, description="For people.")
    format: Literal["capnp", "protobuf", "json_schema"] = Field("capnp", description="Language of the file.")
    file: FileName = Field(description="Beside this one.")
    versions: tuple[SchemaVersion, ...] = Field(min_length=1, description="By date.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if wrong := overlaps(self.versions):
            raise ValueError("; ".join(wrong))
        for name in (self.file, *(v.file for v in self.versions if v.file)):
            if not name.endswith(SUFFIX[self.format]):
                raise ValueError(f"a {self.format} file is called *{SUFFIX[self.format]}, not {name}")
        known = {v.version for v in self.versions}
        for version in self.versions:
            if unknown := [other for other in version.compatible_with if other not in known]:
                raise ValueError(f"version {version.version} is compatible with {', '.join(unknown)}, which is not listed")
        return self

    def version(self, day: date) -> SchemaVersion | None:
        """The version in force on `day`, drafts included; None when there is none."""
        found: Any = in_force(self.versions, day)
        return found if isinstance(found, SchemaVersion) else None
