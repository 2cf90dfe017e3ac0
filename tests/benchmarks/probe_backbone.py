"""Does the sandbox's backbone see what the gold judges? A linear probe for each gold axis.

    python -m tests.benchmarks.probe_backbone [paths.cache=…]

Ridge regression from the state of a text's last token (where a preference model's head reads) to
the axis's value, on the texts of the train pairs; R² on those of the held-out pairs, which are
about other requests. An axis that no linear head can read cannot become an axis of a GPM on a
frozen backbone. Before training, and after it, for the model that the default configuration trains.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from gprl_lightning.config import Config
from gprl_lightning.config.validation import validate
from gprl_lightning.core.batch import Messages
from gprl_lightning.data.preferences import PreferencePair
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.sandbox.gold import GoldJudge
from gprl_lightning.sandbox.preference_data import sandbox_pairs
from gprl_lightning.tasks.fit_preference_model import new_preference_model
from gprl_lightning.tasks.sandbox_preference_model import sandbox_preference_model
from tests.composing import composed

RIDGE = 1e-2
TEXTS = 3000


def conversations(pairs: list[PreferencePair]) -> list[Messages]:
    return [c for pair in pairs for c in (pair.chosen, pair.rejected)][:TEXTS]


@torch.no_grad()
def states(model: PreferenceModel, texts: list[Messages]) -> Tensor:
    """The state of each text's last token: [texts, width]."""
    rows = model.text(texts)
    parts = [rows[i : i + 64] for i in range(0, len(rows), 64)]
    return torch.cat([model.hidden_states(model.text.collate(part))[0] for part in parts]).double()


def gold(texts: list[Messages], judge: GoldJudge) -> tuple[list[str], Tensor]:
    """The value of every gold axis of each text: [texts, axes]."""
    rows = [judge.axes(judge.request_of(c[-2]["content"]), c[-1]["content"]) for c in texts]
    return list(rows[0]), torch.tensor([list(row.values()) for row in rows]).double()


def r_squared(x: Tensor, y: Tensor, x_new: Tensor, y_new: Tensor) -> Tensor:
    """R² on new texts of a ridge regression: [axes]."""
    mean, std = x.mean(0), x.std(0) + 1e-8
    x, x_new = (x - mean) / std, (x_new - mean) / std
    centre = y.mean(0)
    penalty = RIDGE * len(x) * torch.eye(x.shape[1]).double()
    weight = torch.linalg.solve(x.T @ x + penalty, x.T @ (y - centre))
    residual = y_new - centre - x_new @ weight
    return 1 - residual.square().sum(0) / (y_new - y_new.mean(0)).square().sum(0)


def main() -> None:
    torch.set_num_threads(1)
    config: Config = validate(composed(*sys.argv[1:]))
    train, held_out = sandbox_pairs(config)
    texts, new = conversations(train), conversations(held_out)
    judge = GoldJudge()
    names, values = gold(texts, judge)
    _, new_values = gold(new, judge)
    models = {
        "before": new_preference_model(config, train, policy_folder("sandbox", config.paths.cache)),
        "after": sandbox_preference_model(config),
    }
    print(f"{'R² on unseen requests':24}" + "".join(f"{n:>12}" for n in names))
    for label, model in models.items():
        found = r_squared(states(model, texts), values, states(model, new), new_values)
        print(f"{label + ' training':24}" + "".join(f"{v:12.2f}" for v in found.tolist()))


if __name__ == "__main__":
    main()
