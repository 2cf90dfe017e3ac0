"""Train a policy with GPRL, or train or evaluate a preference model: ``python train.py --help``.

Hydra composes the configuration from ``conf/`` and the command line; it is validated before
anything heavy is imported, and handed to the task that it names. Installed: ``gprl-train``.
"""

from gprl_lightning.cli.train import main

if __name__ == "__main__":
    main()
