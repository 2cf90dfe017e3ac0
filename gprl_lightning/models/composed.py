"""Several preference sources as one: their axes side by side, under their sources' names. Ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gprl_lightning.core.batch import Columns, Messages
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.preference_source import PreferenceSource, as_module, source_in
from gprl_lightning.models.pretrained_preference import load_preference_model


class Composed(nn.Module):
    """A `PreferenceSource` of several, each with its own tokenizer and τ.

    A source's scores are divided by its τ, so that they are logits on every axis, and τ is 1.

    Args:
        sources: by name; a source of one axis gives its name to it, others ``name/axis``.
        weights: λ of each source's axes is multiplied by its own; 1 where none is given.
    """

    tau = 1.0

    def __init__(
        self, sources: Mapping[str, PreferenceSource], weights: Mapping[str, float] | None = None
    ):
        super().__init__()
        if not sources:
            raise ConfigError(
                "preference_model.parts={}: expected one checkpoint or more by name, as "
                "'+preference_model.parts={helpful: {path: a}, harmless: {path: b}}'."
            )
        self.names = tuple(sources)
        self.parts = nn.ModuleList([as_module(source) for source in sources.values()])
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in sources}
        self.axes = tuple(
            name if len(source.axes) == 1 else f"{name}/{axis}"
            for name, source in sources.items()
            for axis in source.axes
        )

    @staticmethod
    def of_folders(parts: Mapping[str, Any]) -> Composed:
        """Load the checkpoints of ``preference_model.parts``.

        Args:
            parts: by name, ``path`` and further options of `load_preference_model`, and ``weight``.
        """
        sources, weights = {}, {}
        for name, part in parts.items():
            options = dict(part)
            path = options.pop("path", None)
            weights[name] = options.pop("weight", 1.0)
            if path is None:
                raise ConfigError(f"preference_model.parts.{name}: expected a path; found none.")
            try:
                sources[name] = load_preference_model(path, **options)
            except TypeError as error:
                raise ConfigError(
                    f"preference_model.parts.{name}: expected options of a preference model; "
                    f"found {sorted(options)} ({error})."
                ) from error
        return Composed(sources, weights)

    def embed(
        self,
        prompts: Sequence[Messages],
        responses: Sequence[Sequence[str]],
        columns: Sequence[Columns] = (),
    ) -> Embeddings:
        """Return all axes; one call of each source."""
        found = []
        for name, part in zip(self.names, self.parts, strict=True):
            source = source_in(part)
            one = source.embed(prompts, responses, columns)
            vectors = one.vectors.float().clone()
            vectors[..., 0::2] /= source.tau  # one number of each plane: the product is divided
            found.append(Embeddings(vectors, self.weights[name] * one.eigenvalues.float()))
        device = found[0].vectors.device
        return Embeddings.joined([one.to(device) for one in found])

    def identity(self) -> dict[str, object]:
        """Return what each source is."""
        each = {n: source_in(p).identity() for n, p in zip(self.names, self.parts, strict=True)}
        return {"parts": each, "weights": self.weights}
