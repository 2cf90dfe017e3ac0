"""Every error of the package that has a name.

`ConfigError`: a setting that cannot work; found before anything loads, exit code 2.
`InvariantError`: the run is not what it claims to be, and stops; exit code 3.
`GridFailed`: jobs of a grid failed; exit code 1.

Every message says what was expected, what was found, and which key to change. Free of torch, so
that the command line can name them without loading it.
"""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting that cannot work. The message names the key, what was found, and what to write."""


class GridFailed(RuntimeError):
    """Some jobs of a grid failed; the message lists them. The others have finished."""


class InvariantError(RuntimeError):
    """The run is not what it claims to be, and has stopped before it could be mistaken for it."""


class NoTrainableParameters(InvariantError):
    """Nothing in the policy takes gradients, so that nothing would be learnt."""


class WrongOptimizer(InvariantError):
    """The optimiser does not hold exactly the policy's trainable parameters."""


class NotFrozen(InvariantError):
    """The reference or the preference model could learn, or is not in eval."""


class ReferenceFollowsPolicy(InvariantError):
    """The reference moves with the policy, so that the KL penalty penalises nothing."""


class FrozenWeightsChanged(InvariantError):
    """Weights that must not move have other values than when the run started."""


class TokenizerMismatch(InvariantError):
    """Tokenizer, chat template, vocabulary or end-of-sequence tokens do not fit the model."""


class NotText(InvariantError):
    """The preference model would not get the responses as the policy meant them: as text."""


class EndOfSequenceMasked(InvariantError):
    """A mask does not end where its response ended, so that the policy could not learn to stop."""


class RatioNotOne(InvariantError):
    """Before any update, the policy's ratio to its own samples is not 1."""


class ReferenceNotAtStart(InvariantError):
    """The policy starts from the reference, and yet their KL is not 0."""


class LogprobMismatch(InvariantError):
    """The sampler's log-probabilities are not those of the policy's own forward pass."""


class WrongWeights(InvariantError):
    """A sampler answered with other weights than those it was asked for."""


class SamplerFailed(InvariantError):
    """No inference server is left that could answer, or one refused what it was asked."""


class LossScale(InvariantError):
    """The tokens' weights in the loss depend on its split into micro-batches or over processes."""


class WeightsUnchanged(InvariantError):
    """An update with a learning rate above 0 left the weights as they were."""


class NotFinite(InvariantError):
    """A figure that the run rests on (weights, a judge's scores, an evaluation) is NaN or Inf."""


class TooManyBadSteps(InvariantError):
    """More optimiser steps than allowed had a loss or a gradient that is not finite."""


class PeerLost(InvariantError):
    """Another process of the run has died, or has not been heard of for too long."""


class NoSignal(InvariantError):
    """Iterations in a row gave nothing to learn from: every advantage was 0, on every process."""


class OutOfDisk(InvariantError):
    """The run's checkpoints will not fit on the disk."""


class NotWritten(InvariantError):
    """The run's folder cannot be written to, although its disk has room."""


class EndedEarly(InvariantError):
    """The training ended before its last iteration, and nobody had told it to."""


class NotPlain(InvariantError):
    """Something wants to be in the checkpoint that only running code could read back."""


class CheckpointCorrupt(InvariantError):
    """A checkpoint is truncated, or not what was written."""


class ResumeRefused(InvariantError):
    """The checkpoint was made by a run that differs from this one."""


class RewardFailed(InvariantError):
    """A function that gives rewards raised, or gave something else than one number per response."""
