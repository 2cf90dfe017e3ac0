"""GPRL without Hydra: a policy, two rewards in Python, prompts, and Lightning's own Trainer.

python -m examples.by_hand
"""

from functools import partial

import lightning as L
import torch

import gprl_lightning as gprl


def brevity(prompts, completions, **columns):
    """Fewer characters are better."""
    return [-float(len(text)) for text in completions]


def variety(prompts, completions, **columns):
    """The share of different words."""
    return [len({*text.split()}) / max(len(text.split()), 1) for text in completions]


def main(iterations: int = 3) -> gprl.GPRLModule:
    """Train the sandbox's language model for some iterations."""
    policy = gprl.load_policy(gprl.PolicyConfig(), gprl.policy_folder("sandbox", ".cache"), 1.0)
    module = gprl.GPRLModule(
        policy=policy,
        reference=gprl.reference_of(policy),
        preference_source=gprl.FunctionRewards([brevity, variety]),
        advantage_rule=gprl.GPRLAdvantages(),
        policy_loss=gprl.Clip(0.2),
        sampler=gprl.NativeSampler(),
        sampling=gprl.Sampling(group_size=4, max_new_tokens=24),
        algorithm=gprl.AlgorithmConfig(kl_coef=0.1),
        optimizer=partial(torch.optim.AdamW, lr=3e-4),
        scheduler=gprl.SchedulerConfig(),
        iterations=iterations,
    )
    texts = ["Name a fruit.", "Write a line about rain.", "What is a harbour?", "Greet a friend."]
    prompts = [
        gprl.Prompt(uid, ({"role": "user", "content": text},)) for uid, text in enumerate(texts)
    ]
    loader = gprl.PromptLoader(prompts, partial(gprl.encode, policy, 64), 2, iterations, seed=0)
    trainer = L.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[gprl.Invariants()]
    )
    trainer.fit(module, loader)
    return module


if __name__ == "__main__":
    main()
