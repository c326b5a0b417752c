"""Source ``env``: the variables of this process. They show in /proc and in crash reports: for trying things out."""

from __future__ import annotations

from ssmd.keys.source import Found, Place, Wanted
from ssmd.keys.values import assemble, list_names


def name_variable(wanted: Wanted, name: str) -> str:
    """``SSMD_<KEY>_<FIELD>``, or the variable that the environment names for the field."""
    return wanted.variables.get(name) or f"SSMD_{wanted.name}_{name}".upper().replace("-", "_").replace(".", "_")


class VariableSource:
    def __init__(self, rest: str, place: Place) -> None:
        del rest  # nothing follows env
        self._place = place

    def fetch(self, wanted: Wanted) -> Found:
        named = {name: name_variable(wanted, name) for name in list_names(wanted)}
        # A field called x_previous has the variable of the previous x: it is the field.
        fields = {named[f] for f in wanted.fields}
        texts = {
            name: self._place.environ.get(variable, "")
            for name, variable in named.items()
            if name in wanted.fields or variable not in fields
        }
        return assemble(texts, wanted, f"key {wanted.name}: variables {named[wanted.fields[0]]}…", self._place.clock)
