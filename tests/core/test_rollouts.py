"""Rollouts that write: what is written, where the masks end, and that the training does not notice."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kd_lightning.core.references import Reference
from kd_lightning.core.roles import Role, Roles
from kd_lightning.core.rollouts import MiniLLMSamples, OnPolicy, TeacherGenerated
from kd_lightning.core.rollouts.generation import Generation
from kd_lightning.core.schedules import Linear, Progress
from tests.core.text import EOS, PAD, ROWS, gpt, logits_of, roles, text_batch

PROMPTS = [tokens[:prompt] for tokens, prompt in ROWS]


def step(number=0, **kw):
    return {**text_batch(ROWS, **kw), "step": number, "progress": Progress(0.0)}


def greedy_by_hand(net, prompt, count, eos=EOS):
    """One row, no padding, no cache."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(logits_of(net, torch.tensor(ids))[-1].argmax()))
        if ids[-1] == eos:
            break
    return ids


def written(batch):
    """The rows of a batch without padding."""
    return [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


@pytest.mark.parametrize("left", [False, True])
def test_batched_greedy_text_is_that_of_every_prompt_alone(left):
    made = roles()
    net = made.by_name["student"].net
    batch = OnPolicy(Generation(max_new_tokens=9, temperature=0), fraction=1.0)(step(left=left, width=11), made)
    assert written(batch) == [greedy_by_hand(net, prompt, 9) for prompt in PROMPTS]
    assert len({len(row) for row in written(batch)}) > 1, "the case must have responses of several lengths"


def test_masks_and_targets_begin_and_end_with_the_response():
    made = roles()
    batch = OnPolicy(Generation(max_new_tokens=9), fraction=1.0)(step(), made)
    ends = []
    for i, (row, prompt) in enumerate(zip(written(batch), PROMPTS, strict=True)):
        response = row[len(prompt) :]
        assert row[: len(prompt)] == prompt
        assert 1 <= len(response) <= 9
        assert EOS not in response[:-1]
        ends.append(response[-1] == EOS)
        # Logits at position t speak of token t + 1: the first that counts stands at the prompt's last token.
        expected = [-100] * (len(prompt) - 1) + response
        expected += [-100] * (batch["input_ids"].shape[1] - len(expected))
        assert batch["target"][i].tolist() == expected
        assert batch["loss_mask"][i].tolist() == [t != -100 for t in expected]
        assert batch["attention_mask"][i].tolist() == [1] * len(row) + [0] * (len(expected) - len(row))
        assert batch["input_ids"][i, len(row) :].tolist() == [PAD] * (len(expected) - len(row))
    assert batch["prompt_length"].tolist() == [len(prompt) for prompt in PROMPTS]
    assert any(ends), "some response must end with the end token, which counts as one of its tokens"
    assert not all(ends), "and some must be cut off"


def test_what_is_drawn_is_named_by_seed_view_and_index_alone():
    how = Generation(max_new_tokens=8, seed=3)
    made = roles()
    rollout = OnPolicy(how, fraction=1.0)
    whole = written(rollout(step(), made))
    torch.manual_seed(12345)
    turned = {k: v.flip(0) if isinstance(v, torch.Tensor) else v for k, v in step(number=77).items()}
    assert written(rollout(turned, made)) == whole[::-1], "neither order, step nor global state matter"
    assert written(OnPolicy(how, fraction=1.0)(step(), made)) == whole
    assert written(rollout({**step(), "view": 1}, made)) != whole
    assert written(OnPolicy(Generation(max_new_tokens=8, seed=4), fraction=1.0)(step(), made)) != whole


def test_the_training_does_not_notice():
    made = roles()
    student = made.by_name["student"]
    student.listen([Reference.parse("student.transformer.h.0")])
    student.net.train()
    student.net.transformer.h[1].eval()
    student.net.generation_config.temperature = 0.123  # what a checkpoint may bring along
    config = copy.deepcopy(student.net.generation_config.to_dict())
    modes = [module.training for module in student.net.modules()]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    batch = OnPolicy(Generation(max_new_tokens=5), fraction=1.0)(step(), made)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in student.net.modules()] == modes
    assert student.net.generation_config.to_dict() == config
    assert not any(value.requires_grad for value in batch.values() if isinstance(value, torch.Tensor))
    signals = student(batch)  # taps that had fired while generating would be refused here
    assert signals["transformer.h.0"].shape[:2] == batch["input_ids"].shape


def test_a_checkpoints_own_settings_change_nothing():
    made, plain = roles(), roles()
    made.by_name["student"].net.generation_config.update(repetition_penalty=3.0, min_new_tokens=9, suppress_tokens=[5])
    rollout = OnPolicy(Generation(max_new_tokens=9, temperature=0), fraction=1.0)
    assert written(rollout(step(), made)) == written(rollout(step(), plain))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, lambda p: p),
        ({"temperature": 2.0}, lambda p: (p.log() / 2).softmax(0)),
        ({"top_k": 2}, lambda p: torch.where(p >= p.topk(2).values[-1], p, 0.0)),
        ({"top_p": 0.25}, lambda p: torch.where(p >= p.sort(descending=True).values[:2][-1], p, 0.0)),
    ],
)
def test_tokens_are_drawn_from_the_distribution_that_was_asked_for(options, shape):
    made = roles(student=gpt(4, scale=4.0))
    prompt = [2, 5, 3]
    p = logits_of(made.by_name["student"].net, torch.tensor(prompt))[-1].softmax(0)
    if "top_p" in options:  # two tokens are needed for that much probability
        ordered = p.sort(descending=True).values
        assert ordered[0] < 0.25 <= ordered[:2].sum(), ordered
    expected = shape(p) / shape(p).sum()
    many = {**text_batch([(prompt, 3)] * 4000), "step": 0, "progress": Progress()}
    batch = OnPolicy(Generation(max_new_tokens=1, **options), fraction=1.0)(many, made)
    counts = torch.bincount(batch["input_ids"][:, 3], minlength=13) / 4000
    assert (counts - expected).abs().max() < 4 * (0.25 / 4000) ** 0.5  # four standard deviations
    assert (counts[expected == 0] == 0).all()
    # The log-probability of what was drawn is that of the same distribution.
    drawn = batch["target"][:, 2]
    torch.testing.assert_close(batch["behaviour"][:, 2].exp(), expected[drawn], rtol=1e-4, atol=1e-6)


def test_a_plain_text_gives_its_first_tokens_as_prompt():
    made = roles()
    rows = [([2, 3, 4, 5, 6, 7], 0), ([8, 9, 10], 0)]
    batch = {**text_batch(rows), "step": 0, "progress": Progress()}
    new = OnPolicy(Generation(max_new_tokens=4, prompt_tokens=4, temperature=0), fraction=1.0)(batch, made)
    net = made.by_name["student"].net
    assert written(new) == [greedy_by_hand(net, [2, 3, 4, 5], 4), greedy_by_hand(net, [8, 9, 10], 4)]
    assert new["prompt_length"].tolist() == [4, 3]


def test_one_coin_a_step_for_all_processes():
    made = roles()
    rollout = OnPolicy(Generation(max_new_tokens=1, seed=0), fraction=0.3)
    other = OnPolicy(Generation(max_new_tokens=1, seed=1), fraction=0.3)
    taken = {}
    for number in range(200):
        batch = step(number)
        taken[number] = rollout(batch, made) is not batch
    assert 0.2 < sum(taken.values()) / 200 < 0.4
    for number in range(20):  # another rank: other samples, another view of the random state
        torch.manual_seed(number)
        batch = {**step(number), "index": torch.tensor([7, 8, 9])}
        assert (rollout(batch, made) is not batch) == taken[number]
    steps = [step(number) for number in range(20)]
    assert any((other(batch, made) is not batch) != taken[batch["step"]] for batch in steps)


def test_the_share_may_follow_a_schedule():
    made = roles()
    rollout = OnPolicy(Generation(max_new_tokens=1), fraction=Linear(0.0, 1.0))
    for fraction in (0.0, 1.0):
        batches = [{**step(n), "progress": Progress(fraction)} for n in range(8)]
        assert all((rollout(batch, made) is not batch) == bool(fraction) for batch in batches)


def test_an_example_is_continued_by_one_token():
    made = roles()
    for rollout in (
        OnPolicy(Generation(), 0.0),
        MiniLLMSamples(Generation(), text=False),
        TeacherGenerated(Generation()),
    ):
        batch = rollout(text_batch(ROWS), made)
        assert [len(row) for row in written(batch)] == [len(prompt) + 1 for prompt in PROMPTS]


def test_tokens_beyond_the_vocabulary_are_never_written():
    wide = gpt(3, vocab=40, eos=None, scale=0.1)
    made = roles(student=wide, vocab_size=13)
    for temperature in (0.0, 1.0):
        batch = OnPolicy(Generation(max_new_tokens=20, temperature=temperature), 1.0)(step(), made)
        assert max(max(row) for row in written(batch)) < 13


@pytest.mark.parametrize("left", [False, True])
def test_prompts_and_responses_fit_into_the_context(left):
    made = roles(student=gpt(0, eos=None))
    net = made.by_name["student"].net
    long = list(range(2, 12)) * 3
    rows = [([2, 3, 4, 5], 3), (long, 28), (long[:20], 0)]
    batch = {**text_batch(rows, left=left), "step": 0, "progress": Progress()}
    for count, kept in ((100, 16), (10, 22)):  # of 32 tokens at least half are for the prompt
        rollout = OnPolicy(Generation(max_new_tokens=count, temperature=0, prompt_tokens=20), fraction=1.0)
        prompts = [rows[0][0][:3], long[28 - kept : 28], long[20 - min(kept, 20) : 20]]
        new = rollout(batch, made)
        assert written(new) == [greedy_by_hand(net, prompt, 32 - kept, eos=None) for prompt in prompts]
        assert new["prompt_length"].tolist() == [len(prompt) for prompt in prompts]


def test_what_cannot_write_is_refused():
    class Plain(nn.Module):
        pass

    how = Generation()
    made = Roles([Role("student", Plain(), roles().by_name["student"].call)])
    with pytest.raises(ValueError, match="Plain is no causal language model"):
        OnPolicy(how)(step(), made)
    with pytest.raises(ValueError, match="needs the role 'teacher'"):
        TeacherGenerated(how)(step(), made)
    with pytest.raises(ValueError, match="Did you mean 'student'"):
        OnPolicy(how, role="studnet")(step(), made)
    with pytest.raises(ValueError, match="batches of text only"):
        OnPolicy(how, 1.0)({"image": torch.zeros(2, 1, 4, 4), "index": torch.arange(2)}, roles())
    with pytest.raises(ValueError, match="packing"):
        OnPolicy(how, 1.0)({**step(), "segment_ids": torch.zeros(3, 7)}, roles())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature must not be negative"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"num_beams": 4}, "temperature=0, or num_beams=1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        Generation(**wrong)
    with pytest.raises(ValueError, match="between 0 and 1"):
        OnPolicy(Generation(), fraction=1.5)
    with pytest.raises(ValueError, match="policy gradient needs samples"):
        MiniLLMSamples(Generation(temperature=0))
