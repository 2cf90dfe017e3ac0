"""Every metric name that GPRL logs. Nothing else in the package spells one out."""

from __future__ import annotations

ITERATION = "trainer/iteration"

LOSS = "train/loss"
POLICY_LOSS = "train/policy_loss"
KL = "train/kl"
CLIP_FRACTION = "train/clip_fraction"
RATIO_MAX = "train/ratio_max"
ENTROPY = "train/entropy"
GRAD_NORM = "train/grad_norm"
LEARNING_RATE = "train/learning_rate"
ADVANTAGE_STD = "train/advantage_std"
PAIR_MARGIN = "train/pair_margin"  # implied reward of the chosen response less the rejected one's
PAIR_ACCURACY = "train/pair_accuracy"  # share of pairs with a margin above 0
PAIR_LOG_RATIO = "train/pair_log_ratio"  # log π_θ - log π_ref of a pair's responses, in nats
NO_SIGNAL_FRACTION = "train/no_signal_fraction"
BAD_STEPS = "train/bad_steps"

RESPONSE_LENGTH = "rollout/response_length"
TRUNCATED_FRACTION = "rollout/truncated_fraction"
TOKENS_PER_SECOND = "rollout/tokens_per_second"
LOGPROB_MISMATCH = "rollout/logprob_mismatch"  # of the worst token, nats
LOGPROB_MISMATCH_MEAN = "rollout/logprob_mismatch_mean"  # over all tokens, nats
BOUNDED_FRACTION = "rollout/bounded_fraction"  # of tokens: a bound caught their importance weight
REWARD_CUT_FRACTION = "rollout/reward_cut_fraction"  # of the reward's texts, at its max_tokens
RESPONSES = "rollout/responses"  # a table
WIN_PROBABILITY = "rollout/win_probability"  # an image

# Per axis: format with per_axis().
AXIS_SCORE_STD = "axis/score_std"
AXIS_EIGENVALUE = "axis/eigenvalue"
AXIS_ADVANTAGE_STD = "axis/advantage_std"
AXIS_VARIANCE_SHARE = "axis/variance_share"
AXIS_MULTIPLIER = "axis/multiplier"
AXIS_ANCHORED_SCORE = "axis/anchored_score"
AXIS_MASKED_FRACTION = "axis/masked_fraction"
AXIS_GROUP_SCORE = "axis/group_score"  # a histogram
AXIS_ADVANTAGE = "axis/advantage"  # a histogram
AXIS_CORRELATION = "axis/correlation"  # mean over pairs of axes; one number

DRIFT_DIVERGENCE = "drift/divergence"
DRIFT_THRESHOLD = "drift/threshold"
DRIFT_ACTIVE = "drift/active"
DRIFT_KL_COEF = "drift/kl_coef"
DRIFT_SURPRISE = "drift/surprise"
DRIFT_INTERVENTIONS = "drift/interventions"  # a table

EVAL_WIN_RATE = "eval/win_rate"
EVAL_WIN_RATE_LOW = "eval/win_rate_low"
EVAL_WIN_RATE_HIGH = "eval/win_rate_high"
EVAL_WIN_RATE_EVEN = "eval/win_rate_even"  # of the prompts at even places: what is chosen on one
EVAL_WIN_RATE_ODD = "eval/win_rate_odd"  # half is read on the other
EVAL_WIN_RATE_BY_TASK = "eval/win_rate_by_task"  # format with of_task()
EVAL_LENGTH_CONTROLLED = "eval/length_controlled_win_rate"
EVAL_GOLD = "eval/gold"  # format with per_axis(), by the axis's name
EVAL_KL = "eval/kl"  # of whole responses, in nats; √ of it is the study's distance
EVAL_DISTINCT_BIGRAMS = "eval/distinct_bigrams"
EVAL_RESPONSE_LENGTH = "eval/response_length"
EVAL_PROXY_WIN_RATE = "eval/win_rate/proxy"  # by the reward itself, the judge named proxy
EVAL_UNDECIDED = "eval/undecided"  # share that a judge holds to be near a half; see of_judge()
EVAL_CUT_FRACTION = "eval/cut_fraction"  # of a judge's texts, at its max_tokens; see of_judge()
EVAL_NO_VERDICT = "eval/no_verdict"  # comparisons that a judge did not decide; see of_judge()
# What is counted of a judge's comparisons; see of_judge().
OF_COMPARISONS = (EVAL_NO_VERDICT, EVAL_UNDECIDED, EVAL_CUT_FRACTION)

PREFERENCE_LOSS = "preference/loss"
PREFERENCE_ACCURACY = "preference/accuracy"
HELD_OUT_LOSS = "held_out/loss"
HELD_OUT_ACCURACY = "held_out/accuracy"
HELD_OUT_CALIBRATION_ERROR = "held_out/calibration_error"
HELD_OUT_AXIS_CORRELATION = "held_out/axis_correlation"
HELD_OUT_CYCLIC_TRIADS = "held_out/cyclic_triads"

TIME_ROLLOUT = "time/rollout"
TIME_SCORE = "time/score"
TIME_UPDATE = "time/update"
TIME_ITERATION = "time/iteration"


def per_axis(name: str, axis: int | str) -> str:
    """Return ``per_axis("axis/multiplier", 2) == "axis/multiplier/2"``."""
    return f"{name}/{axis}"


def judge_axis(judge: str, axis: str) -> str:
    """Return ``judge_axis("gold", "fluency") == "eval/gold/fluency"``: a judge's own mean of an
    axis."""
    return f"eval/{judge}/{axis}"


def of_task(name: str, task: str) -> str:
    """Return ``of_task("eval/win_rate_by_task", "review") == "eval/win_rate_by_task/review"``."""
    return f"{name}/{task}"


def of_judge(name: str, judge: str) -> str:
    """Return ``of_judge("eval/win_rate", "helpful") == "eval/win_rate/helpful"``."""
    return f"{name}/{judge}"
