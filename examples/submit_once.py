"""Send a job twice and train it once: what a run is, and what its one Result says.

Needs no account and no GPU: a model of a million weights takes ten steps on the CPU.
"""

from __future__ import annotations

import anydpo
from anydpo import samples

job = anydpo.PreferenceJob(
    name="submit-once",
    model="tiny",
    data=anydpo.load(samples.pairs(100)),
    validation=0.2,
    max_steps=10,
    batch_size=8,
    learning_rate=1e-3,
)
plan = anydpo.check(job, "local")
print(f"ready: {plan.ok}; {plan.route_reason}")

first = anydpo.submit(job, "local")
again = anydpo.submit(job, "local")
print(f"run {first.id}: created {first.created}; the same job again: run {again.id}, created {again.created}")
assert (first.id, first.created, again.created) == (again.id, True, False)

for event in first.watch():
    if event.kind == "metrics" and event.step is not None and "train/loss" in event.metrics:
        print(f"step {event.step}: loss {event.metrics['train/loss']:.3f}")
result = first.result().raise_for_state()
print(f"held-out margin {result.metric('eval/rewards/margins'):.3f}")
print(f"not given: {', '.join(result.metrics.missing) or 'none'}")
