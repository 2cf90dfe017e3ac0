"""``+trainer.fast_dev_run=true``, as Lightning has it, in this project's own keys. Ours."""

from __future__ import annotations

from omegaconf import DictConfig, open_dict

from gprl_lightning.errors import ConfigError


def honour_fast_dev_run(cfg: DictConfig) -> None:
    """Replace ``trainer.fast_dev_run`` by what it asks for: so many iterations (true: one), and no
    logger; of a preference model's training, so many batches of pairs.

    Lightning's own would drop the run's `metrics.csv` and checkpoints with its loggers, so that
    just those would go untried.

    Raises:
        ConfigError: it is neither true, false nor a number of iterations.
    """
    asked = cfg.trainer.get("fast_dev_run")
    if asked is None:
        return
    if not isinstance(asked, int) or asked < 0:
        raise ConfigError(
            f"trainer.fast_dev_run={asked!r}: expected true, false or a number of iterations. "
            "Set +trainer.fast_dev_run=true, or debug=fast."
        )
    with open_dict(cfg):
        del cfg.trainer["fast_dev_run"]
        if asked:
            cfg.iterations = int(asked)
            cfg.logger = {}
        if asked and cfg.task == "train_preference_model":
            cfg.data.max_rows = int(asked) * cfg.preference_training.batch_size
