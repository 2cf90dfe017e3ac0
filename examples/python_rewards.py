"""A reward of one's own: each function is an axis of its name, with TRL's signature.

python train.py preference_model=functions \
    preference_model.functions=[examples.python_rewards.brevity,examples.python_rewards.variety]
"""

import asyncio


def brevity(prompts, completions, **columns):
    """Reward short answers."""
    return [-float(len(text)) for text in completions]


async def variety(prompts, completions, **columns):
    """Reward different letters; a service would be asked here. Say nothing of an empty answer."""
    await asyncio.sleep(0)
    return [float(len(set(text))) if text else None for text in completions]
