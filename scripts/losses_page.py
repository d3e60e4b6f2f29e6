"""Write `docs/losses.md` from the trainer's own table and docstrings: `python scripts/losses_page.py`."""

from pathlib import Path

from anydpo_trainer import losses
from anydpo_trainer.config import LOSSES

HEAD = """# Losses

`loss_type` takes one name or a list, which is summed with `loss_weights`. In the formulas, S_w and S_l are the summed
log-probabilities of the chosen and the rejected answer, u and v the same minus the reference's, h = u - v, n_w and n_l
the answers' tokens, a_w = S_w / n_w, sp(z) = log(1 + e^-z), s the sigmoid, b is `beta`, e is `label_smoothing`.

| loss | formula | paper | smoothing | f-divergence | without reference |
|---|---|---|---|---|---|
"""

TAIL = """
Modifiers: `label_smoothing` (with `sigmoid` it is cDPO), `f_divergence_type` (f-DPO, 2309.16240), `use_weighting` (WPO,
2406.11827), `ld_alpha` (LD-DPO, 2409.06411), `reference_free`, `sync_ref_model` (TR-DPO, 2404.09656). What makes no
sense together is refused with a reason before anything is loaded.

Against TRL 1.16: `label_smoothing` works with `sigmoid`; `hinge` can be weighted; `reference_free` and its own losses
`simpo`, `orpo`, `cpo` are there. `ipo` and `sigmoid_norm` average over tokens as TRL does. `orpo` counts the
likelihood of the answer's tokens, as in the paper, and not the prompt's. `aot` sorts over the whole optimiser batch,
however many forward passes or processes it takes; TRL sorts within each.
"""


def page() -> str:
    """Return the page."""
    rows = []
    for name, rules in LOSSES.items():
        text = (getattr(losses, name).__doc__ or "").splitlines()[0]
        formula = text.partition(". Paper")[0].partition("; beta 5")[0].replace("|", "\\|")
        marks = ["yes" if getattr(rules, part) else "" for part in ("smoothing", "divergence")]
        free = "always" if not rules.reference and name != "sft" else "yes" if rules.reference_free else ""
        link = f"[{rules.paper}](https://arxiv.org/abs/{rules.paper})"
        rows.append(f"| `{name}` | {formula} | {link} | {' | '.join(marks)} | {free} |")
    return HEAD + "\n".join(rows) + "\n" + TAIL


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs" / "losses.md").write_text(page(), "utf-8")
