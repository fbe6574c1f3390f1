"""The methods: ours, published peers and plain baselines.

A method is a function ``(problem, job) -> outputs`` in a file of this folder, and an entry here.
Outputs, in the order of the cells of the problem (or of its query):

- ``latent``: cells x dimensions; or ``graph``: a neighbour graph, where there is no latent space;
- ``labels``, ``query_labels``: names;
- a modality's name: what was predicted of ``problem.targets``, cells x features: RNA as log1p of
  counts, protein as centred log-ratio (:func:`benchmarks.problem.clr`), ATAC as probability.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Method:
    """One entry.

    Attributes
    ----------
    name
        Name in the tables.
    function
        ``"file:function"`` in this folder.
    tasks
        Tasks it takes part in.
    group
        ``"ours"``, ``"peer"`` or ``"baseline"``.
    package
        Distribution whose version is recorded.
    environment
        Name of a file in ``benchmarks/environments``; None for the present environment.
    settings
        Arguments that make it another method than its package's defaults.
    deterministic
        One seed says it all, unless the seed changes the task's data.
    on_request
        Runs only when it is named.
    notes
        Remarks for the report, by task.
    """

    name: str
    function: str
    tasks: tuple[str, ...]
    group: str
    package: str
    environment: str | None = None
    settings: dict = field(default_factory=dict)
    deterministic: bool = False
    on_request: bool = False
    notes: dict[str, str] = field(default_factory=dict)


ALL = ("T1", "T1b", "T2", "T3", "T3b", "T4", "T4b", "T5", "T5b")
QUERIES = ("T3", "T3b")
TANGRAM = dict.fromkeys(
    ("T5", "T5b"), "with the optimiser that its code asks for; scvi-tools 1.4.2 takes another"
)
CIRCULAR = {"T1": "circular: the labels are clusters of such a graph"}
FROM_NEIGHBOURS = (
    "protein is the mean centred log-ratio of the 30 reference cells that are nearest in the latent "
    "space, both encoded from the RNA of the query's genes (`mumask.tl.impute_from_neighbors`)"
)
NEIGHBOURS = {
    "settings": {"neighbours": True},
    "notes": {"T3": f"{FROM_NEIGHBOURS}; labels as without", "T3b": FROM_NEIGHBOURS},
}
JOINT = {
    "settings": {"joint": True, "neighbours": True},
    "notes": {
        "T3b": "reference and query are trained together, as two batches of a mosaic; then as with "
        "neighbours"
    },
}
ENCODER = {
    "settings": {"refine_steps": 0},
    "notes": dict.fromkeys(
        QUERIES, "the query is encoded, not refined (`module.refine_steps = 0`)"
    ),
}
BF16 = {
    "settings": {"train": {"precision": "bf16-mixed"}},
    "notes": {"T4": "`train(precision='bf16-mixed')`, on a processor that has such instructions"},
}
PANELS = {
    "settings": {"random_panels": True},
    "notes": {
        "T3b": "trained with half of the cells seen through a random panel of 5 to 100 % of the "
        "genes, as in the guide on query mapping"
    },
}
HIDDEN = {
    "settings": {"model": {"linear_decoder": False}},
    "notes": {"T3b": "`linear_decoder=False`: the default is without hidden layers here"},
}


def _ours(name: str, file: str, tasks=ALL, **kwargs) -> Method:
    return Method(name, f"{file}:run", tasks, "ours", "mumask", **kwargs)


def _peer(name: str, function: str, *tasks: str, package: str = "scvi-tools", **kwargs) -> Method:
    return Method(name, function, tasks, "peer", package, **kwargs)


def _plain(name: str, function: str, *tasks: str, **kwargs) -> Method:
    return Method(name, function, tasks, "baseline", "scikit-learn", deterministic=True, **kwargs)


METHODS = {
    method.name: method
    for method in (
        _ours("MaskedVAE", "masked_vae"),
        _ours("MaskedVAE inclust+", "masked_vae", settings={"model": {"preset": "inclust+"}}),
        _ours("CrossAttentionMAE", "cross_attention_mae"),
        _ours(
            "CrossAttentionMAE scmmae",
            "cross_attention_mae",
            settings={"model": {"preset": "scmmae"}},
            on_request=True,
        ),
        Method(
            "CrossAttentionMAE without stages 1 and 2",
            "cross_attention_mae:without_stages",
            ("T3",),
            "ours",
            "mumask",
            on_request=True,
        ),
        _ours("MaskedVAE in bf16", "masked_vae", ("T4",), on_request=True, **BF16),
        _ours("MaskedVAE + neighbours", "masked_vae", QUERIES, **NEIGHBOURS),
        _ours("MaskedVAE encoder alone", "masked_vae", QUERIES, **ENCODER),
        _ours("MaskedVAE joint + neighbours", "masked_vae", ("T3b",), **JOINT),
        _ours("MaskedVAE + panels", "masked_vae", ("T3b",), **PANELS),
        _ours("MaskedVAE + hidden layers", "masked_vae", ("T3b",), **HIDDEN),
        _ours("CrossAttentionMAE + neighbours", "cross_attention_mae", QUERIES, **NEIGHBOURS),
        _peer("totalVI", "totalvi:totalvi", "T1", "T2", *QUERIES),
        _peer("totalANVI", "totalvi:totalanvi", "T1b"),
        _peer("scANVI", "scanvi:run", "T1b"),
        _peer("MULTIVI", "multivi:run", "T2", "T4", "T4b"),
        _peer("gimVI", "gimvi:run", "T5", "T5b"),
        _peer("Tangram", "tangram:run", "T5", "T5b", environment="tangram", notes=TANGRAM),
        _peer("MIDAS", "midas:run", "T1", "T2", package="scmidas", environment="midas"),
        _peer("MOFA+", "mofa:run", "T1", "T4", package="mofapy2", environment="mofa"),
        _peer("WNN", "wnn:run", "T1", "T4", package="muon", notes=CIRCULAR),
        _peer("Harmony", "harmony:run", "T4", package="harmonypy", environment="harmony"),
        _peer("uniPort", "uniport:run", "T5", "T5b", package="uniport", environment="uniport"),
        _peer("scMoMaT", "scmomat:run", "T2", "T4", package="scmomat", environment="scmomat"),
        _peer("sciPENN", "scipenn:run", *QUERIES, package="sciPENN", environment="scipenn"),
        _plain("PCA concat", "baselines:pca_concat", "T1", "T4"),
        _plain("PCA RNA", "baselines:pca_rna", "T1", "T4"),
        _plain("LSI ATAC", "baselines:lsi_atac", "T4"),
        _plain("CCA bridge", "baselines:cca_bridge", "T2", "T4b"),
        _plain("logistic regression", "baselines:logistic", "T1b", "T3"),
        _plain("kNN", "baselines:knn", "T1b", *QUERIES, "T4b", "T5", "T5b"),
        _plain("kNN at depth", "baselines:knn_depth", "T5", "T5b"),
        _plain("depth alone", "baselines:depth", "T5", "T5b"),
        _plain("ridge", "baselines:ridge", *QUERIES, "T4b", "T5", "T5b"),
    )
}
GROUPS = ("ours", "peer", "baseline")


def choose(names: list[str], task: str) -> list[Method]:
    """Methods by name or group (``"ours"``, ``"peer"``, ``"baseline"``, ``"all"``) for a task.

    Raises
    ------
    KeyError
        If a name is unknown; the message lists what there is.
    """
    chosen = []
    for name in names:
        if name in (*GROUPS, "all"):
            members = [m for m in METHODS.values() if name in (m.group, "all") and not m.on_request]
        elif name in METHODS:
            members = [METHODS[name]]
        else:
            raise KeyError(f"no method {name!r}; there are {[*GROUPS, 'all', *METHODS]}")
        chosen += [m for m in members if task in m.tasks and m not in chosen]
    return chosen
