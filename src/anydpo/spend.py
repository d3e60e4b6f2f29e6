"""What a job would cost, and the user's own cap: nothing is sent above it."""

from __future__ import annotations

from collections.abc import Sequence

from anydpo.adapter import known_files
from anydpo.clock import Reads, SystemClock
from anydpo.errors import CapExceeded
from anydpo.job import PreferenceJob
from anydpo.plan import Prepared, prepare
from anydpo.provider import Plan, Provider, Quote, Staged
from anydpo.registry import split_place
from anydpo.result import Cost

DEAR = "raise --max-cost-usd, or train fewer pairs or epochs"


def quote(job: PreferenceJob, places: str | Sequence[str]) -> dict[str, Quote | None]:
    """Return place → price before paying, None where it cannot be known; a free place costs 0.

    Raises `JobInvalid` where the job cannot be sent to a place as it is.
    """
    wanted = [places] if isinstance(places, str) else list(places)
    return {place: price_of(prepare(job, place).or_raise()) for place in wanted}


def price_of(prepared: Prepared) -> Quote | None:
    """Return the price of one planned job."""
    if is_free(prepared):
        return Quote(cost=Cost(amount=0.0, basis="nothing is billed here"))
    return Reads(SystemClock())(lambda: prepared.provider.quote(prepared.plan))


def is_free(prepared: Prepared) -> bool:
    """Say whether nothing is billed: the place is free, or it is a rehearsal on this machine."""
    _, route = split_place(prepared.plan.place)
    return prepared.plan.sandbox or prepared.provider.capabilities[route or ""].free


def hold_to(
    cap_usd: float | None, prepared: Sequence[Prepared], *, allow_unknown_price: bool = False
) -> dict[str, float]:
    """Raise `CapExceeded`, before anything is sent, if these jobs together may cost more than the cap.

    Returns run → what the cap leaves for it beside the others, for `hold_to_estimate`.
    """
    if cap_usd is None:
        return {}
    total, prices = 0.0, dict[str, float]()
    for one in prepared:
        price = price_of(one)
        prices[one.run_id] = price.cost.amount if price is not None else 0.0
        if price is None:
            if allow_unknown_price:
                continue
            raise CapExceeded(
                f"the price is not known before it is paid, and the cap is {cap_usd:g} USD; nothing was sent",
                provider=one.provider.name,
                hint="--allow-unknown-price sends it all the same",
            )
        if price.cost.currency != "USD":
            raise CapExceeded(
                f"the price is in {price.cost.currency}, and the cap is in USD; nothing was sent",
                provider=one.provider.name,
            )
        total += price.cost.amount
    if total > cap_usd:
        raise CapExceeded(
            f"this would cost about {total:.2f} USD, above the cap of {cap_usd:g} USD; nothing was sent",
            hint=DEAR,
        )
    return {run: cap_usd - (total - price) for run, price in prices.items()}


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
