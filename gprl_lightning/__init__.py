"""General Preference Reinforcement Learning (arXiv 2605.18721) on PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gprl_lightning.models.pretrained_preference import load_preference_model

__all__ = ["load_preference_model"]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `import gprl_lightning` and `--help` stay quick.
    if name == "load_preference_model":
        from gprl_lightning.models.pretrained_preference import load_preference_model

        return load_preference_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
