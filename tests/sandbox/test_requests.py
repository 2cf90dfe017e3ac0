"""The sandbox's requests: how many, how they are split, how they read."""

from gprl_lightning.sandbox.requests import HELD_OUT, TASKS, Request, all_requests, split_requests


def test_every_combination_is_one_request():
    # 6 families x 8 subjects x 6 details x 5 tasks
    requests = all_requests()
    assert len(requests) == 6 * 8 * 6 * 5
    assert len({r.text for r in requests}) == len(requests)


def test_text_names_subject_and_detail():
    request = Request("review", "pizza place", "bread")
    assert request.text == "Write a short review of a pizza place. Mention the bread."


def test_split_is_disjoint_complete_and_fixed():
    train, held_out = split_requests()
    assert len(held_out) == HELD_OUT
    assert len(train) + len(held_out) >= 300
    assert not set(train) & set(held_out)
    assert set(train) | set(held_out) == set(all_requests())
    assert split_requests() == (train, held_out)


def test_every_word_of_a_held_out_request_is_seen_in_train():
    train, held_out = split_requests()
    seen = {word for r in train for word in r.text.split()}
    assert {word for r in held_out for word in r.text.split()} <= seen
    assert {r.task for r in held_out} == set(TASKS)
