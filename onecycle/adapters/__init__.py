"""One cycle at a measured peak inside somebody else's trainer: one file, and one extra, per package.

Nothing is imported here: ``onecycle.adapters.lightning`` needs Lightning, ``onecycle.adapters.transformers`` needs
transformers and accelerate. A loop of one's own on Accelerate needs no adapter: a ``lrfind.Workload`` takes what
``Accelerator.prepare`` returns.
"""
