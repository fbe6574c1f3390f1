"""CrossAttentionMAE: cells of which little is measured, and arguments that cannot be meant."""

from __future__ import annotations

import numpy as np
import pytest
import scvi

from mumask import CrossAttentionMAE

SMALL = {"n_embed": 16, "n_latent": 9, "n_heads": 2, "max_tokens": 6}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


def new(mdata, setup=None, **options):
    scvi.settings.seed = 0
    CrossAttentionMAE.setup_mudata(mdata, batch_key="batch", **(setup or {}))
    return CrossAttentionMAE(mdata, **{**SMALL, **options})


def test_cells_without_a_measured_feature_need_no_company(make_mosaic):
    """Their embedding is that which they have among others, and training goes on with them."""
    mosaic = make_mosaic(10)
    rna = mosaic["rna"]
    rna.layers["seen"] = np.ones(rna.shape, dtype=bool)
    rna.layers["seen"][:3] = False
    model = new(mosaic, {"mask_layers": {"rna": "seen"}})
    model.train(max_epochs=3, batch_size=1, **QUIET)
    cells = list(rna.obs_names[:3])
    among, alone = model.get_latent_representation(), model.get_latent_representation(indices=cells)
    assert np.isfinite(among).all()
    np.testing.assert_allclose(alone, among[mosaic.obs_names.get_indexer(cells)], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "cross"}, "`fusion`: 'cross' is unknown; choose 'attention' or 'addition'"),
        ({"decoder_context": "token"}, "`decoder_context`: 'token' is unknown"),
        ({"modality_dropout": 1.5}, r"`modality_dropout`=1.5 is not in \[0, 1\]"),
        ({"modality_dropout": -0.5}, "`modality_dropout`=-0.5"),
        ({"max_tokens": 0}, "`max_tokens`=0: choose a whole number, at least 1"),
        ({"n_heads": 0}, "`n_heads`=0"),
        ({"n_latent": 9.5}, "`n_latent`=9.5: choose a whole number"),
        ({"n_encoder_layers": -1}, "`n_encoder_layers`=-1: .* at least 0"),
        ({"token_size": {"rna": 2.5}}, r"`token_size\['rna'\]`=2.5: choose a whole number"),
    ],
)
def test_arguments_that_cannot_be_meant(mosaic, options, message):
    with pytest.raises(ValueError, match=message):
        new(mosaic, **options)


def test_transforms_of_counts_are_for_counts(mosaic):
    with pytest.raises(TypeError, match="goes by modality"):
        new(mosaic, transforms="clr")
    mosaic["rna"].X = mosaic["rna"].X.toarray() - 1.5
    with pytest.raises(ValueError, match="'log1p' is for counts, and 'rna' is .* real values"):
        new(mosaic, {"likelihoods": {"rna": "gaussian"}}, transforms={"rna": "log1p"})


def test_stage_1_needs_something_to_hide(make_mosaic, mosaic):
    """Its loss is zero otherwise, and weight decay all that moves a weight."""
    model = new(mosaic, mask_ratio=0.0, modality_dropout=0.0)
    with pytest.raises(ValueError, match="Nothing would be hidden.*`mask_ratio`"):
        model.train(max_epochs=1, **QUIET)
    model.train(max_epochs=0)
    apart = make_mosaic(20, {"solo": ("rna",), "peaks": ("atac",)})
    with pytest.raises(ValueError, match="several tokens"):
        new(apart, max_tokens=1).train(max_epochs=1, **QUIET)
    new(mosaic, max_tokens=1).train(max_epochs=1, **QUIET)  # modalities are hidden
    new(mosaic, modality_dropout=0.0).train(max_epochs=1, **QUIET)


def test_steps_of_a_head_are_counted_up(mosaic):
    model = new(mosaic, {"labels_key": "some_labels"})
    model.train(max_epochs=0)
    with pytest.raises(ValueError, match="`head_steps`=-5"):
        model.finetune(head_steps=-5)


def test_a_training_that_cannot_begin_changes_no_start(make_mosaic):
    starts = []
    for fails in (False, True):
        model = new(make_mosaic(20))
        if fails:
            with pytest.raises(TypeError, match="rate"):
                model.train(max_epochs=1, plan_kwargs={"rate": 1}, **QUIET)
        model.train(max_epochs=0)
        starts.append(model.get_latent_representation())
    np.testing.assert_array_equal(*starts)


def test_stand_ins_that_nothing_trains_are_told(make_mosaic, recwarn):
    paired = make_mosaic(20, {"cite": ("rna", "protein")})
    with pytest.warns(UserWarning, match=r"without \['rna', 'protein'\].*`modality_dropout`"):
        new(paired, modality_dropout=0.0).train(max_epochs=1, **QUIET)
    recwarn.clear()
    new(paired).train(max_epochs=1, **QUIET)
    new(make_mosaic(20), modality_dropout=0.0).train(max_epochs=1, **QUIET)
    assert not [w for w in recwarn if "stands in" in str(w.message)]
