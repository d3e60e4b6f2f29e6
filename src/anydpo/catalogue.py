"""Where models can be trained: what each installed place can do, and what each calls a model that it has."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, overload

from pydantic import Field, ValidationError

from anydpo.errors import JobInvalid, ProviderMissing
from anydpo.home import home
from anydpo.provider import Capabilities
from anydpo.registry import installed, provider
from anydpo.result import Part

OWN = "models.toml"


class Offer(Part):
    """One model at one place: what it is called there and what bounds it has; None where no source says."""

    id: str
    context: int | None = Field(default=None, description="tokens of a DPO example")
    batch: int | None = Field(default=None, description="pairs of a DPO batch")
    adapters: tuple[str, ...] = ()
    retires: date | None = Field(default=None, description="the last day on which it can be trained and used")
    gate: str | None = Field(default=None, description="what has to be accepted first")
    source: str
    as_of: date | None = None

    @property
    def ended(self) -> bool:
        """Whether its last day is over."""
        return self.retires is not None and self.retires < date.today()


@overload
def providers() -> dict[str, Capabilities]: ...
@overload
def providers(model: str) -> dict[str, Offer]: ...
def providers(model: str | None = None) -> dict[str, Capabilities] | dict[str, Offer]:
    """Return place → capabilities of every installed provider, or with `model` place → what it calls that model.

    Needs no key and no network. A place that is not in the answer may know the model all the same: the table has what
    has a source, and `$ANYDPO_HOME/models.toml` adds to it.
    """
    routes = _routes()
    if model is None:
        return routes
    found = {place: offer_of(model, place, can) for place, can in routes.items()}
    return {place: offer for place, offer in found.items() if offer is not None}


def other_base(model: Any, place: str, used: str | None) -> str | None:
    """Say that a job's table of models names another base for a place than its default, None where it does not."""
    usual = model.get("default") if isinstance(model, Mapping) else None
    if usual is None or used is None or same_weights(used, usual):
        return None
    return f"{place} trains {used}, another base than the {usual} of the other places: compare with care"


def id_at(model: str, place: str) -> str | None:
    """Return what a place (`provider[/route]`) calls the weights that anyone knows by this name, None if unknown."""
    entry = _entry(model)
    return None if entry is None else (_at(entry, place) or {}).get("id")


def same_weights(one: str, other: str) -> bool:
    """Say whether two names are known to mean the same weights."""
    return name_of(one) == name_of(other)


def name_of(model: str) -> str:
    """Return the name that the table has for these weights, whatever a place calls them; the same where it has none."""
    entry = _entry(model)
    return model if entry is None else str(entry["name"])


def offer_of(model: str, place: str, can: Capabilities) -> Offer | None:
    """Return what a place has of a model, None where no source says that it has it."""
    table, entry = _table(), _entry(model)
    found = _at(entry, place) if entry is not None else None
    if found is not None:
        source = table["sources"].get(found["source"], {"what": found["source"]})
        known = {name: found[name] for name in ("context", "batch", "retires", "gate") if name in found}
        adapters = tuple(found.get("adapters", can.adapters))
        return Offer(id=found["id"], adapters=adapters, source=source["what"], as_of=source.get("date"), **known)
    loads = place in table["open"]["places"]
    if loads and (entry["weights"] if entry is not None else model.count("/") == 1):
        name = entry["name"] if entry is not None else model
        return Offer(id=name, adapters=can.adapters, source=f"this place loads {table['open']['formats']}")
    return None


def _routes() -> dict[str, Capabilities]:
    found: dict[str, Capabilities] = {}
    for name in installed():
        try:
            routes = provider(name).capabilities
        except ProviderMissing:
            continue  # listed by `doctor`, with the reason; here only what works
        for route, can in routes.items():
            found[f"{name}/{route}" if route else name] = can
    return found


def _at(entry: Mapping[str, Any], place: str) -> Mapping[str, Any] | None:
    places: Mapping[str, Any] = entry["places"]
    return places.get(place) or places.get(place.partition("/")[0])


def _entry(model: str) -> Mapping[str, Any] | None:
    """Return the entry that knows this name: as its own, or as any place's."""
    entry: Mapping[str, Any] | None = _table()["names"].get(model)
    return entry


def _table() -> Mapping[str, Any]:
    own = home() / OWN
    try:
        return _read(own, own.stat().st_mtime_ns)
    except OSError:
        return _read(None, 0)


@cache
def _read(own: Path | None, _changed: int) -> Mapping[str, Any]:
    """Return the table of the package with the user's laid over it, read again when the user's file has changed."""
    shipped = tomllib.loads((files("anydpo") / OWN).read_text("utf-8"))
    models: dict[str, dict[str, Any]] = {}
    sources, own_table = dict(shipped["sources"]), _own(own) if own is not None else {}
    sources |= own_table.get("sources", {})
    for table in (shipped, own_table):
        for name, given in table.get("models", {}).items():
            entry = models.setdefault(name, {"name": name, "about": name, "weights": True, "places": {}})
            for key, value in given.items():
                if isinstance(value, Mapping):
                    entry["places"][key] = {"source": str(own), **value}
                else:
                    entry[key] = value
    names: dict[str, dict[str, Any]] = {}
    for entry in models.values():
        for name in (*(at["id"] for at in entry["places"].values()), entry["name"]):
            names[name] = entry
    return {"sources": sources, "open": shipped["open"], "models": models, "names": names}


def _own(path: Path) -> dict[str, Any]:
    """Return the user's table. Raises `JobInvalid` where it is none, with the line or the entry."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise JobInvalid(f"{path}: {exc}") from None
    for name, given in table.get("models", {}).items():
        for key, value in given.items():
            if isinstance(value, Mapping):
                try:
                    Offer(**{"source": str(path), **value})
                except ValidationError as exc:
                    wrong = exc.errors()[0]
                    where = ".".join(str(part) for part in wrong["loc"])
                    hint = f"a place's entry has {', '.join(Offer.model_fields)}"
                    raise JobInvalid(f'{path}: models."{name}".{key}: {where}: {wrong["msg"]}', hint=hint) from None
            elif key not in ("about", "weights"):
                raise JobInvalid(f'{path}: models."{name}": no such field {key!r}', hint="about, weights, or a place")
    return table
