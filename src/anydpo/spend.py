"""What a job would cost, and the user's own cap: nothing is sent above it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from anydpo.adapter import known_files
from anydpo.chain import Chain
from anydpo.clock import Reads, SystemClock
from anydpo.data.dataset import PreferenceDataset
from anydpo.errors import CapExceeded
from anydpo.job import PreferenceJob
from anydpo.outgoing import write_files
from anydpo.plan import Prepared, prepare_all
from anydpo.provider import LimitsTime, Plan, Provider, Quote, Staged, TriesOut
from anydpo.registry import split_place
from anydpo.result import Cost

TRIED_STEPS = 3  # optimiser steps by which a place that trains here is measured
DEAR = "raise --max-cost-usd, or train fewer pairs or epochs"


def quote(job: PreferenceJob, places: str | Sequence[str]) -> dict[str, Quote | None]:
    """Return place → price before paying, None where it cannot be known; a free place costs 0.

    A place that trains on this machine carries out its first steps on a few pairs, so that its time is known too.
    Raises `JobInvalid` where the job cannot be sent to a place as it is.
    """
    wanted = [places] if isinstance(places, str) else list(places)
    prepared = prepare_all(job, wanted)
    return {place: estimate_of(one.or_raise()) for place, one in zip(wanted, prepared, strict=True)}


def estimate_of(prepared: Prepared) -> Quote | None:
    """Return the price of one planned job, and where it trains here its measured time."""
    if not isinstance(prepared.provider, TriesOut):
        return price_of(prepared)
    batch = int(prepared.plan.effective.get("batch_size") or prepared.job.batch_size)
    few = prepared.train.take(TRIED_STEPS * batch)
    with tempfile.TemporaryDirectory() as folder:
        sample = write_files(replace(prepared, train=few, validation=None), Path(folder), "tried")[0]
        return prepared.provider.try_out(prepared.plan, sample, _characters(prepared.train) / _characters(few))


def price_of(prepared: Prepared) -> Quote | None:
    """Return the price of one planned job, its tokens counted; nothing is billed in a rehearsal."""
    asked = _real_price(prepared)
    if not is_free(prepared):
        return asked
    cost = Cost(amount=0.0, basis="nothing is billed here")
    if asked is None:
        return Quote(cost=cost)
    real = f"it would be {asked.cost.amount:.2f} {asked.cost.currency} ({asked.cost.basis})"
    return asked.model_copy(update={"cost": cost, "assumptions": (real, *asked.assumptions)})


def _real_price(prepared: Prepared) -> Quote | None:
    """Return what the job would cost where it is billed: a rehearsal is held to a cap as the real thing is."""
    return Reads(SystemClock())(lambda: prepared.provider.quote(prepared.counted))


def _characters(pairs: PreferenceDataset) -> float:
    """Return what all sequences hold: each prompt with either answer."""
    known = pairs.scan.characters
    return float(2 * known["prompt"] + known["chosen"] + known["rejected"]) or 1.0


def is_free(prepared: Prepared) -> bool:
    """Say whether nothing is billed: the place is free, or it is a rehearsal on this machine."""
    _, route = split_place(prepared.plan.place)
    return prepared.plan.sandbox or prepared.provider.capabilities[route or ""].free


def hold_to(
    cap_usd: float | None, requests: Sequence[Prepared | Chain], *, allow_unknown_price: bool = False
) -> list[Prepared | Chain]:
    """Hold requests to a cap on all of them together, and return them as they may then be sent.

    On hourly routes what the others leave of the cap becomes the run-time limit sent with the job. A request with a
    fallback is paid at one of its places, the dearest counts; it keeps its prices, so that what was billed at one
    place is counted before it goes on. Raises `CapExceeded`, before anything is sent.
    """
    if cap_usd is None:
        return list(requests)
    hourly = [at for at, one in enumerate(requests) if isinstance(one, Prepared) and _limited(one, cap_usd) is not one]
    price = partial(_price_under, cap_usd, allow_unknown_price=allow_unknown_price)
    left = cap_usd - sum(price(one) for at, one in enumerate(requests) if at not in hourly)
    share = max(0.0, left) / max(1, len(hourly))
    made = [_chain_under(one, cap_usd) if isinstance(one, Chain) else _limited(one, share) for one in requests]
    prices = [price(one) for one in made]
    total = sum(prices)
    if round(total, 4) > cap_usd:
        raise CapExceeded(
            f"this would cost about {total:.2f} USD, above the cap of {cap_usd:g} USD; nothing was sent",
            hint=DEAR,
        )
    return [_leave(one, cap_usd - (total - own)) for one, own in zip(made, prices, strict=True)]


def hold_to_estimate(plan: Plan, staged: Sequence[Staged], place: Provider, reads: Reads) -> None:
    """Raise `CapExceeded`, before the create is sent, if a place that has the files now names a price above the cap."""
    _, route = split_place(plan.place)
    if plan.most_usd is None or not place.capabilities[route or ""].quote:
        return
    told = plan.model_copy(update={"filled": {**plan.filled, **known_files(staged)}})
    price = reads(lambda: place.quote(told))
    if price is not None and price.cost.amount > plan.most_usd:
        raise CapExceeded(
            f"{place.name} itself estimates {price.cost.amount:.4g} USD, and the cap leaves {plan.most_usd:.4g} USD; "
            "the files are there, no job was created",
            provider=place.name,
            hint=DEAR,
        )


def _leave(request: Prepared | Chain, most_usd: float) -> Prepared | Chain:
    """Return a request with what the cap leaves for it beside the others, for `hold_to_estimate`."""

    def capped(one: Prepared) -> Prepared:
        return replace(one, plan=one.plan.model_copy(update={"most_usd": most_usd}))

    if isinstance(request, Prepared):
        return capped(request)
    return replace(request, prepared=tuple(capped(one) for one in request.prepared))


def _price_under(cap_usd: float, request: Prepared | Chain, *, allow_unknown_price: bool) -> float:
    each = request.usable if isinstance(request, Chain) else (request,)
    return max(_in_usd(one, cap_usd, allow_unknown_price=allow_unknown_price) for one in each)


def _chain_under(chain: Chain, cap_usd: float) -> Chain:
    prepared = tuple(_limited(one, cap_usd) if one in chain.usable else one for one in chain.prepared)
    prices = tuple(_in_usd(one, cap_usd, allow_unknown_price=True) if one in chain.usable else None for one in prepared)
    return replace(chain, prepared=prepared, terms=replace(chain.terms, max_cost_usd=cap_usd), prices=prices)


def _limited(prepared: Prepared, usd: float) -> Prepared:
    """Return a job as it is stopped before it has cost so much; the same one where nothing has to change."""
    place = prepared.provider
    if not isinstance(place, LimitsTime):
        return prepared
    plan = place.limited(prepared.plan, usd)
    return prepared if plan is prepared.plan else replace(prepared, plan=plan)


def _in_usd(prepared: Prepared, cap_usd: float, *, allow_unknown_price: bool) -> float:
    """Return the price of one job for the cap: 0 for one that is not known and may be sent all the same."""
    _, route = split_place(prepared.plan.place)
    if prepared.provider.capabilities[route or ""].free:
        return 0.0
    price = _real_price(prepared)
    if price is None:
        if allow_unknown_price:
            return 0.0
        raise CapExceeded(
            f"the price is not known before it is paid, and the cap is {cap_usd:g} USD; nothing was sent",
            provider=prepared.provider.name,
            hint="--allow-unknown-price sends it all the same",
        )
    if price.cost.currency != "USD":
        raise CapExceeded(
            f"the price is in {price.cost.currency}, and the cap is in USD; nothing was sent",
            provider=prepared.provider.name,
        )
    return price.cost.amount
