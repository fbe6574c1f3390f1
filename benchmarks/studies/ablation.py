"""One default changed at a time: what each part of the two models is worth."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.methods import METHODS, Method

MASKED = (0.05, 0.15, 0.3, 0.5, 0.7, 0.9)
GENES = (500, 1000, 2000)
# Without batches there is nothing that they could change.
CONDITIONS = ("encoder conditioned too", "nothing conditioned", "latent subtraction alone")


@dataclass(frozen=True)
class Study:
    """Variants of one method.

    Attributes
    ----------
    method
        What is varied.
    tasks
        Tasks it is run on by default.
    variants
        Settings by name; the first is the default.
    only
        Variants that make sense on some tasks only.
    """

    method: Method
    tasks: tuple[str, ...]
    variants: dict[str, dict]
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def variants_of(self, task: str) -> dict[str, dict]:
        return {
            name: settings
            for name, settings in self.variants.items()
            if task in self.only.get(name, (task,))
        }


def _model(**options) -> dict:
    return {"model": options}


STUDIES = {
    "vae": Study(
        METHODS["MaskedVAE"],
        ("T2", "T1", "T1b", "T5"),
        {
            "default": {},
            "own panel as input": _model(input_panel="own"),
            "common panel as input": _model(input_panel="common"),
            "standard prior": _model(prior="standard"),
            "clusters of equal share and variance": _model(prior="clusters"),
            "inputs not standardised": _model(standardize=False),
            "schedule pairs": _model(schedule="pairs"),
            "encoder conditioned too": _model(condition_encoder=True),
            "nothing conditioned": _model(condition_decoder=False),
            "latent subtraction alone": _model(condition_decoder=False, arithmetic="subtract"),
            "KL weight 1": _model(weights={"kl": 1.0, "prior": 1.0}),
            "KL weight 0.1": _model(weights={"kl": 0.1, "prior": 0.1}),
            "output weights without a prior": _model(loadings_sd=1e6),
            "decoded from all hidden units": _model(n_factors=None),
            "decoder with hidden layers": _model(linear_decoder=False),
            "decoder without hidden layers": _model(linear_decoder=True),
            "labels weight 1": _model(weights={"labels": 1.0}),
            "labels weight 10": _model(weights={"labels": 10.0}),
            "preset inclust+": _model(preset="inclust+"),
        },
        only={
            "output weights without a prior": ("T2", "T1b"),  # no default where panels differ
            "decoded from all hidden units": ("T1b", "T5"),  # T2 has no wide modality
            "decoder with hidden layers": ("T1",),  # the default elsewhere
            "decoder without hidden layers": ("T2", "T1b", "T5"),
            **dict.fromkeys(["labels weight 1", "labels weight 10"], ("T1b", "T3")),
            **dict.fromkeys(CONDITIONS, ("T2", "T4", "T4b", "T5", "T5b")),
            **dict.fromkeys(["own panel as input", "common panel as input"], ("T5", "T5b")),
        },
    ),
    "mae": Study(
        METHODS["CrossAttentionMAE"],
        ("T1", "T1b"),
        {
            "default": {},
            "addition instead of cross-attention": _model(fusion="addition"),
            "without distinctive information": _model(distinctive=False),
            "without pre-training": {"train": {"max_epochs": 0}},
            **{
                f"mask ratio {share}": _model(mask_ratio=share) for share in MASKED if share != 0.15
            },
            **{f"{n:,} genes": {"n_genes": n} for n in GENES},
        },
    ),
}
