"""An objective, a dataset source and an optimizer for lmft."""

# Part of the config -> the classes that may be named there as `_target_`.
LMFT_TARGETS = {
    "objective": ["lmft_extras.objectives.SpanMaskedLM"],
    "dataset.source": ["lmft_extras.sources.PackageSource"],
    "optimizer": ["lmft_extras.optimizers.Lion"],
}
